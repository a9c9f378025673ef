"""The demo over seeds, and against GRPO with as many sampled tokens.

    python -m cipo_jax.main --mode=study --config=configs/studies/demo.py --jobs=2

Hardware: two CPU cores, about an hour and a half.

Each `cipo` run is `make demo` with another seed: what its last lines say holds for five of them,
and where another way to spend the tokens does better. docs/evidence.md has what came of it.
"""

from cipo_jax.commands.study.plan import Method, Study, without_extras
from cipo_jax.config import load_file

VARIANTS = load_file("../variants.py", beside=__file__).VARIANTS
DEMO = load_file("../demo.py", beside=__file__)


def base():
    c = DEMO.get_config()
    c.checkpoint.keep = 1
    without_extras(c)
    return c


def colouring(c):
    """Graphs to colour, as configs/demo.py."""


def grpo_of_twice_the_steps(c):
    """CIPO samples twice the tokens of a step of GRPO, so the learning rate has twice the steps to
    fall over."""
    VARIANTS["grpo"](c)
    c.optimizer.decay_steps *= 2


STUDY = Study(
    base=base,
    tasks={"colouring": colouring},
    methods={
        "cipo": Method(VARIANTS["cipo"]),
        "grpo_samples": Method(VARIANTS["grpo"], matched="samples"),
        "grpo_steps": Method(grpo_of_twice_the_steps, matched="steps"),
        "failures_only": Method(VARIANTS["failures_only"]),
        "paper_controller": Method(VARIANTS["paper_controller"]),
    },
    seeds=(0, 1, 2, 3, 4),
)


def get_config(run="colouring/cold"):
    return STUDY.config(run)
