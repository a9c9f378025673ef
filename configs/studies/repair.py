"""Tasks whose attempts carry information: is a correction worth more than another attempt there?

    python -m cipo_jax.main --mode=study --config=configs/studies/repair.py --jobs=2 \\
        --only='*/cold-*'
    python -m cipo_jax.main --mode=study --config=configs/studies/repair.py --jobs=2 \\
        --only='colouring/cipo-*,colouring/grpo-*,colouring/grpo_steps-*'

Hardware: two CPU cores; up to twenty minutes for each cold start, about five for each other run.

In `colouring` a wrong attempt shows a conflict that could not be seen before; in `guess` it shows
where its guess has led, too low or too high. So it does if its lines are true: `colouring` imitates
until 95% of them are, `colouring_early` until the pass rate alone is reached. The first command
trains and evaluates the cold starts: "w2r gain" in its table is what a correction of a wrong
attempt is worth beyond another attempt, before any RL. docs/evidence.md has what came of it.
"""

from cipo_jax.commands.study.plan import Method, Study
from cipo_jax.config import load_file

VARIANTS = load_file("../variants.py", beside=__file__).VARIANTS
CONTROLLERS = load_file("controllers.py", beside=__file__).STUDY
DEMO = load_file("../demo.py", beside=__file__)
MAIN = load_file("main.py", beside=__file__)


def base():
    c = MAIN.of_arithmetic()
    c.num_steps = 60
    DEMO.imitate(c)
    c.cold_start.max_steps = 3000
    c.cold_start.check_every = 100
    c.eval.every_tokens = 250_000
    return c


def guess(c):
    """f(x) = c with two or three operations."""
    c.data.train = c.data.eval = c.cold_start.demonstrations = "guess"
    c.data.tokenizer = "char_guess"
    c.data.min_operations, c.data.max_operations = 2, 3
    c.data.max_prompt_tokens = 16
    c.data.max_completion_tokens = c.data.max_attempt_tokens = 56
    c.batch.row_tokens = 144
    c.cold_start.stop_at_pass_rate = 0.25


def colouring_early(c):
    """The graphs of configs/demo.py; the cold start ends at its pass rate, when three lines of
    ten are still untrue."""
    DEMO.graphs(c)
    c.cold_start.stop_at_lines_true = 0.0


STUDY = Study(
    base=base,
    tasks={"colouring": DEMO.graphs, "colouring_early": colouring_early, "guess": guess},
    methods={
        "cipo": CONTROLLERS.methods["failures_first_more"],  # the default, as configs/demo.py
        "paper_controller": Method(VARIANTS["paper_controller"]),
        "failures_only": Method(VARIANTS["failures_only"]),
        "grpo": Method(VARIANTS["grpo"]),
        "grpo_steps": Method(VARIANTS["grpo"], matched="steps"),
        "grpo_samples": Method(VARIANTS["grpo"], matched="samples"),
        "grpo_sequence_kl": Method(VARIANTS["grpo_sequence_kl"], matched="steps"),
    },
    seeds=(0, 1, 2, 3, 4),
    correction_rounds=3,
)


def get_config(run="colouring/cold"):
    return STUDY.config(run)
