"""A small transformer learns arithmetic, where checking an attempt is doing it again.

    python -m cipo_jax.main --config=configs/arithmetic.py

Hardware: two CPU cores, five minutes. No download: the program makes problems, tokenizer and model.
"""

from cipo_jax.config import default_config, load_file


def get_config(variant="cipo"):
    c = default_config()
    c.num_steps = 80
    c.mesh.cpu_devices = 2
    c.mesh.data, c.mesh.fsdp = -1, 1
    c.cold_start.max_steps = 1500
    c.cold_start.stop_at_pass_rate = 0.45
    c.rollout.problems_per_step = 48
    c.optimizer.warmup_steps = 10
    c.eval.every = 20
    return load_file("variants.py", beside=__file__).apply(c, variant)
