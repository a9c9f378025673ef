"""The smallest study. It tests the machinery and says nothing about the methods.

    python -m cipo_jax.main --mode=study --config=configs/studies/quick.py

Hardware: two CPU cores, a few minutes.
"""

from cipo_jax.commands.study.plan import Method, Study, without_extras
from cipo_jax.config import load_file

VARIANTS = load_file("../variants.py", beside=__file__).VARIANTS


def base():
    c = load_file("../smoke.py", beside=__file__).get_config()
    c.num_steps = 6
    c.eval.every = 0
    c.eval.every_tokens = 3000
    c.eval.given_attempts = 1
    without_extras(c)
    return c


def arithmetic(c):
    """Chains of one or two operations, as in the smoke run."""


STUDY = Study(
    base=base,
    tasks={"arithmetic": arithmetic},
    methods={
        "cipo": Method(VARIANTS["cipo"]),
        "grpo": Method(VARIANTS["grpo"]),
        "grpo_samples": Method(VARIANTS["grpo"], matched="samples"),
    },
    seeds=(0, 1),
    samples=16,
    pass_at=(1, 4, 16),
)


def get_config(run="arithmetic/cold"):
    return STUDY.config(run)
