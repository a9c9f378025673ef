"""A small transformer learns arithmetic, and to correct itself. The default first run.

    python -m cipo_jax.main --config=configs/demo.py

Hardware: two CPU cores. No download: problems, tokenizer and model are made here.
"""

from cipo_jax.config import default_config


def get_config():
    c = default_config()
    c.cold_start.max_steps = 1500
    c.cold_start.stop_at_pass_rate = 0.35
    c.sampling.prompt_buckets = (24, 72)
    return c
