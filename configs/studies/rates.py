"""The search for the studies' hyperparameters: learning rates of CIPO and of GRPO, and lambda.

    python -m cipo_jax.main --mode=study --config=configs/studies/rates.py --jobs=2

Hardware: two CPU cores. No other study uses its seed. The criterion is the last column of its
tables: the reward on training problems, which are new at each step.
"""

from cipo_jax.commands.study.plan import Method, Study
from cipo_jax.config import load_file

VARIANTS = load_file("../variants.py", beside=__file__).VARIANTS
MAIN = load_file("main.py", beside=__file__)


def at(rate, variant):
    """The variant with this learning rate."""

    def change(c):
        variant(c)
        c.optimizer.learning_rate = rate

    return change


def weighted(weight):
    """CIPO with this lambda."""

    def change(c):
        c.correction.weight = weight

    return Method(change, tasks=("arithmetic",))


STUDY = Study(
    base=MAIN.base,
    tasks=MAIN.STUDY.tasks,
    methods={
        "cipo": Method(MAIN.cipo),
        "cipo_2e-4": Method(at(2e-4, MAIN.cipo)),
        "cipo_8e-4": Method(at(8e-4, MAIN.cipo)),
        "grpo_2e-4": Method(at(2e-4, VARIANTS["grpo"]), matched="steps"),
        "grpo_4e-4": Method(at(4e-4, VARIANTS["grpo"]), matched="steps"),
        "grpo_8e-4": Method(at(8e-4, VARIANTS["grpo"]), matched="steps"),
        "lambda_0.1": weighted(0.1),
        "lambda_0.5": weighted(0.5),
        "lambda_1": weighted(1.0),
    },
    seeds=(100,),
    samples=4,
    pass_at=(1, 4),
    corrected_attempts=1,
)


def get_config(run="arithmetic/cold"):
    return STUDY.config(run)
