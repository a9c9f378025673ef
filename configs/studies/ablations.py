"""What each part of CIPO does, and two more baselines, on arithmetic.

    python -m cipo_jax.main --mode=study --config=configs/studies/ablations.py --jobs=2

Hardware: two CPU cores, about an hour. Tasks and settings are those of `main.py`; runs are
evaluated only when they end.
"""

from cipo_jax.commands.study.plan import Method, Study
from cipo_jax.config import load_file

VARIANTS = load_file("../variants.py", beside=__file__).VARIANTS
MAIN = load_file("main.py", beside=__file__)


def base():
    c = MAIN.base()
    c.eval.every_tokens = 0
    return c


def lambda_1(c):
    """Both streams' losses with the same weight, the default."""
    c.correction.weight = 1.0


def part_quoted(c):
    """CIPO whose prompts quote only head and tail of an attempt, a little over half of it."""
    c.data.max_attempt_tokens = 24


def without(change):
    """CIPO with a change."""

    def changed(c):
        MAIN.cipo(c)
        change(c)

    return Method(changed)


STUDY = Study(
    base=base,
    tasks=MAIN.STUDY.tasks,
    methods={
        "cipo": Method(MAIN.cipo),
        "no_risk": without(VARIANTS["no_risk"]),
        "failures_only": without(VARIANTS["failures_only"]),
        "constant_rho": without(VARIANTS["constant_rho"]),
        "no_difficulty": without(VARIANTS["no_difficulty"]),
        "risk_stream": without(VARIANTS["risk_stream"]),
        "risk_group_mean": without(VARIANTS["risk_group_mean"]),
        "dapo": Method(VARIANTS["dapo"], matched="steps"),
        "dr_grpo": Method(VARIANTS["dr_grpo"], matched="steps"),
        "lambda_1": without(lambda_1),
        "part_quoted": without(part_quoted),
        "risk_rloo": without(VARIANTS["risk_rloo"]),
    },
    seeds=(0, 1, 2, 3, 4),
)


def get_config(run="arithmetic/cold"):
    return STUDY.config(run)
