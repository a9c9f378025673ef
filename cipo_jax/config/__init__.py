"""The configuration of a run: keys, what they may be, and how a config file becomes a `Config`.

    keys.py, method.py   every key with its type, allowed values, default and unit
    ranges.py            the annotations that say which values are allowed
    checks.py            which values cannot be used together
    resolve.py           a raw config -> the frozen `Config`; the config.json of a run
    file.py              config files, and the messages for those that cannot be used
    reference.py         docs/configuration.md

A section is a frozen dataclass that belongs to one part of a run, such as `Sampling`; a function
takes the section it needs. Not decided here: the command line (main.py), the experiments
(configs/), and what a key does, which is decided where it is read. This room imports `types.py`
alone, and no JAX: a mistake in a config is reported at once.

To add a key:

1. Add a field to its section in `keys.py` or `method.py`, with a default that leaves runs as they
   are (old runs are read without it). The annotation says what is allowed: `Positive[int]`,
   `Share`, `Literal["a", "b"]`; a new range goes into `ranges.py`.
2. Write a comment beside it, or above it, not both: what it does, its unit, what 0 or "" means, and
   "(paper)" or "(ours)" if it belongs to the method.
3. If it cannot be used together with other values, refuse that in `checks.py`, with the reason.
4. Read it where it acts; `tests/config/test_resolve.py` looks for a reader.
5. Run `python -m cipo_jax.config.reference > docs/configuration.md`.

To add a section, write its dataclass and add it to the fields of `Config`.

Config files take `default_config` and `load_file` from here.
"""

from cipo_jax.config.file import default_config as default_config
from cipo_jax.config.file import load_file as load_file
