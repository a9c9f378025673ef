"""Which anchors make the correction stream teach correction rather than copying?

    python -m cipo_jax.main --mode=study --config=configs/studies/controllers.py --jobs=2
    python -m cipo_jax.main --mode=study --config=configs/studies/controllers.py --jobs=2 \
        --only='arithmetic/paper_controller-*,arithmetic/grpo*,arithmetic/balanced-*'

Hardware: two CPU cores, about six minutes for each of the 85 runs.

Under the controller of the paper, retention below 0.8 raises the share of right anchors. On
arithmetic the policy itself is right in half of its attempts, so retention stays below, rho rises
to its bound, and most of the gradient comes from right anchors, whose corrections are rewarded for
repeating them. The first methods change one thing; `failures_first` is the default of the program,
and `failures_first_more` that of configs/arithmetic.py; `balanced` leaves out unsolved problems as
well. The criterion: against `paper_controller` w2r up, r2w not above that of `grpo`, pass@1 not
below.
`correction/right_weight`, `copy_rate/...` and `wrong_solved` in each run's metrics.jsonl show why.
docs/evidence.md has what came of it.
"""

from cipo_jax.commands.study.plan import Method, Study
from cipo_jax.config import load_file

VARIANTS = load_file("../variants.py", beside=__file__).VARIANTS
MAIN = load_file("main.py", beside=__file__)


def changed(*changes):
    """The paper's controller with changes."""

    def change(c):
        VARIANTS["paper_controller"](c)
        for apply in changes:
            apply(c)

    return Method(change)


def fresh(c):
    """Keeping as many right answers as a fresh attempt reaches is no damage."""
    c.replay.target = "fresh"


def half(c):
    """At most every second anchor is right."""
    c.replay.maximum = 0.5


def from_failures(c):
    """Begins with one right anchor in twenty; the controller adds more as retention asks."""
    c.replay.initial = c.replay.minimum = 0.05


def count(c):
    """No more right anchors than wrong ones, also where these are few."""
    c.correction.right_limits = (*c.correction.right_limits, "count")


def weight(c):
    """No more gradient weight of right anchors than the wrong ones have: none where corrections of
    wrong attempts fail as whole groups."""
    c.correction.right_limits = (*c.correction.right_limits, "weight")


def constraint(c):
    """Right anchors move the policy only in steps that keep less than a fresh attempt reaches."""
    fresh(c)
    c.correction.right_limits = (*c.correction.right_limits, "retention")


def solved_sometimes(c):
    """No wrong anchors of problems that no attempt of the step solves."""
    c.correction.wrong_min_pass_rate = 0.01


def larger_groups(c):
    """Half as many wrong anchors, with 16 corrections each: more of them have a right one."""
    c.correction.wrong_group_multiple = 2


def more(c):
    """As many anchors as problems: corrections are half of the completions, not a third."""
    c.correction.replay_fraction = 1.0


STUDY = Study(
    base=MAIN.of_arithmetic,
    tasks={"arithmetic": MAIN.arithmetic},
    methods={
        "paper_controller": changed(),
        "fresh": changed(fresh),
        "half": changed(half),
        "from_failures": changed(fresh, from_failures),
        "count": changed(count),
        "weight": changed(weight),
        "constraint": changed(constraint),
        "solved_sometimes": changed(solved_sometimes),
        "larger_groups": changed(larger_groups),
        "balanced": changed(fresh, from_failures, half, weight, solved_sometimes),
        "balanced_more": changed(fresh, from_failures, half, weight, solved_sometimes, more),
        "failures_first": changed(fresh, from_failures, half, weight),
        "failures_first_more": changed(fresh, from_failures, half, weight, more),
        "some_right": changed(fresh, half, weight, solved_sometimes),
        "failures_only": changed(VARIANTS["failures_only"]),
        "grpo": Method(VARIANTS["grpo"]),
        "grpo_steps": Method(VARIANTS["grpo"], matched="steps"),
    },
    seeds=(0, 1, 2, 3, 4),
    reference="paper_controller",
)


def get_config(run="arithmetic/cold"):
    return STUDY.config(run)
