"""The configuration. Config files take `default_config` and `load_file` from here."""

from cipo_jax.config.keys import default_config as default_config
from cipo_jax.config.keys import load_file as load_file
