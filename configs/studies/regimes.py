"""When does the correction stream help? CIPO and GRPO at equal sampled tokens in five regimes.

    python -m cipo_jax.main --mode=study --config=configs/studies/regimes.py --jobs=2

Hardware: two CPU cores.
"""

from cipo_jax.commands.study.plan import Method, Study
from cipo_jax.config import load_file

VARIANTS = load_file("../variants.py", beside=__file__).VARIANTS
MAIN = load_file("main.py", beside=__file__)


def weak(c):
    """Few demonstrations of correction and an early end of the cold start: retention stays below
    its target, so rho rises to its upper bound."""
    c.cold_start.stop_at_pass_rate = 0.3
    c.cold_start.correction_share = 0.4
    c.cold_start.right_share = 0.3


def strong(c):
    """A late end of the cold start: most attempts are right, and wrong ones are near misses."""
    c.cold_start.stop_at_pass_rate = 0.7


def hard(c):
    """Chains of 6 to 8 operations, after a cold start on them that ends early. Many groups are all
    wrong and teach the base stream nothing."""
    c.cold_start.stop_at_pass_rate = 0.1
    c.data.min_operations = 6
    c.data.max_operations = 8
    c.data.max_prompt_tokens = 40
    c.data.max_completion_tokens = c.data.max_attempt_tokens = 72
    c.batch.row_tokens = 192


def corrector(c):
    """Equally long chains, after a cold start with nine corrections in ten demonstrations. The
    policy corrects wrong solutions of the generator far more often than it solves problems."""
    hard(c)
    c.cold_start.correction_share = 0.9
    c.cold_start.stop_at_pass_rate = 0.15


def few(c):
    """144 training problems, so each recurs every third step. More steps of GRPO bring no new
    problems, but each attempt makes a new correction prompt."""
    c.data.train_problems = 144


def no_difficulty(c):
    """CIPO with anchors also from problems that are never, or nearly always, solved."""
    MAIN.cipo(c)
    VARIANTS["no_difficulty"](c)


STUDY = Study(
    base=MAIN.base,
    tasks={"weak": weak, "strong": strong, "hard": hard, "corrector": corrector, "few": few},
    methods={
        "cipo": Method(MAIN.cipo),
        "grpo": Method(VARIANTS["grpo"]),
        "grpo_samples": Method(VARIANTS["grpo"], matched="samples"),
        "grpo_steps": Method(VARIANTS["grpo"], matched="steps"),
        "no_difficulty": Method(no_difficulty),
    },
    seeds=(0, 1, 2, 3, 4),
)


def get_config(run="weak/cold"):
    return STUDY.config(run)
