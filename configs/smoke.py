"""Does everything once, on the smallest scale: cold start, both streams, evaluation, checkpoint.

    python -m cipo_jax.main --config=configs/smoke.py

Hardware: two CPU cores, under a minute. This shows that the program works, not how well it learns.
"""

from cipo_jax.config import default_config, load_file


def get_config(variant="cipo"):
    c = default_config()
    c.num_steps = 4
    c.model.num_layers = 2
    c.model.d_model = 48
    c.model.head_dim = 12
    c.model.mlp_dim = 128
    c.data.min_operations = 1
    c.data.max_operations = 2
    c.data.eval_problems = 16
    c.cold_start.max_steps = 120
    c.cold_start.batch_size = 64
    c.cold_start.check_every = 60
    c.cold_start.check_problems = 32
    c.rollout.problems_per_step = 8
    c.rollout.group_size = 4
    c.correction.group_size = 4
    c.eval.every = 2
    c.eval.samples = 4
    c.eval.pass_at = (1, 4)
    c.checkpoint.every = 2
    c.log.show_samples_every = 2
    return load_file("variants.py", beside=__file__).apply(c, variant)
