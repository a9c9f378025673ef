"""CIPO, and GRPO at equal sampled tokens, with a small pretrained model on word problems.

    python -m cipo_jax.main --mode=study --config=configs/studies/pretrained.py
    python -m cipo_jax.main --mode=study --config=configs/studies/pretrained.py --only='*/cold-*' \\
        --config.model.source=directory/of/SmolLM2-135M-Instruct

Hardware: two CPU cores and 12 GiB of memory. The model and its settings are those of
configs/small.py. docs/evidence.md has what came of it.
"""

from cipo_jax.commands.study.plan import Method, Study, without_extras
from cipo_jax.config import load_file

VARIANTS = load_file("../variants.py", beside=__file__).VARIANTS


def base():
    c = load_file("../small.py", beside=__file__).get_config()
    c.num_steps = 12
    c.eval.every = 0  # before the first step and after the last
    without_extras(c)
    return c


def word_problems(c):
    """Stories of one or two operations, as configs/small.py."""


STUDY = Study(
    base=base,
    tasks={"word_problems": word_problems},
    methods={
        "cipo": Method(VARIANTS["cipo"]),
        "grpo_steps": Method(VARIANTS["grpo"], matched="steps"),
    },
    seeds=(0, 1),
    samples=4,
    pass_at=(1, 2, 4),
    corrected_attempts=2,
)


def get_config(run="word_problems/cold"):
    return STUDY.config(run)
