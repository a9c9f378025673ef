"""CIPO, and GRPO at equal steps and at equal sampled tokens, on two tasks.

    python -m cipo_jax.main --mode=study --config=configs/studies/main.py
    python -m cipo_jax.main --mode=study --config=configs/studies/main.py --only='arithmetic/*-0'

Hardware: two CPU cores, about an hour and a half with --jobs=2. --only does a part, in any order.
The same command continues a stopped study. A single run is an ordinary command:

    python -m cipo_jax.main --config=configs/studies/main.py:lists/grpo --config.seed=3
"""

from cipo_jax.commands.study.plan import Method, Study, without_extras
from cipo_jax.config import load_file

VARIANTS = load_file("../variants.py", beside=__file__).VARIANTS


def of_arithmetic():
    """configs/arithmetic.py with half as many anchors and the paper's controller, with which the
    records in docs/evidence were made, and with what a study measures of each run."""
    c = load_file("../arithmetic.py", beside=__file__).get_config()
    VARIANTS["paper_controller"](c)
    c.correction.replay_fraction = 0.5
    c.mesh.cpu_devices = 1  # --jobs gives each run a core
    c.eval.every = 0
    c.eval.samples = 4
    c.eval.pass_at = (1, 4)
    c.eval.given_attempts = 1
    c.checkpoint.keep = 1
    c.log.gradient_stats_every = 10
    without_extras(c)
    return c


def base():
    c = of_arithmetic()
    c.num_steps = 60
    c.cold_start.stop_at_pass_rate = 0.5
    c.cold_start.check_every = 25
    c.cold_start.correction_share = 0.6
    c.cold_start.right_share = 0.5
    c.eval.every_tokens = 250_000
    return c


def arithmetic(c):
    """Chains of arithmetic, as configs/arithmetic.py."""


def lists(c):
    """Lists of digits, moved and changed step by step."""
    c.data.train = c.data.eval = c.cold_start.demonstrations = "lists"
    c.data.tokenizer = "char_lists"
    c.data.min_operations = 4
    c.data.max_operations = 6
    c.data.max_prompt_tokens = 28
    c.data.max_completion_tokens = c.data.max_attempt_tokens = 56
    c.batch.row_tokens = 144


def cipo(c):
    """CIPO with lambda 0.25, chosen among 0.1, 0.25, 0.5 and 1 on seed 100 of the first task."""
    c.correction.weight = 0.25


STUDY = Study(
    base=base,
    tasks={"arithmetic": arithmetic, "lists": lists},
    methods={
        "cipo": Method(cipo),
        "grpo": Method(VARIANTS["grpo"]),
        "grpo_samples": Method(VARIANTS["grpo"], matched="samples"),
        "grpo_steps": Method(VARIANTS["grpo"], matched="steps"),
    },
    seeds=(0, 1, 2, 3, 4),
)


def get_config(run="arithmetic/cold"):
    return STUDY.config(run)
