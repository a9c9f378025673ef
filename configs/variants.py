"""Baselines and ablations, as small changes to any base config.

    python -m cipo_jax.main --config=configs/demo.py:dapo
    python -m cipo_jax.main --config=configs/math.py:grpo

Each changes a few keys; the others keep the base config's values.
"""

from cipo_jax.config.ranges import did_you_mean
from cipo_jax.types import CipoError


def cipo(c):
    """The method itself: the base config as it is."""


def grpo(c):
    """The base stream alone: GRPO's advantages (arXiv 2402.03300) in the base config's loss, by
    default a mean over tokens without a KL term, as GRPO is mostly run today."""
    c.correction.weight = 0.0


def grpo_sequence_kl(c):
    """GRPO in the form of its paper (arXiv 2402.03300, eq. 3 and section 4.2): a mean over
    sequences of their mean over tokens, and 0.04 times the KL (k3) to the initial policy."""
    grpo(c)
    c.algorithm.advantage_norm = "group"
    c.algorithm.aggregation = "sequence_mean"
    c.algorithm.clip_low = c.algorithm.clip_high = 0.2
    c.algorithm.kl_coef = 0.04
    c.algorithm.kl_estimator = "k3"


def dr_grpo(c):
    """Dr. GRPO (arXiv 2503.20783): no std, no length normalisation."""
    grpo(c)
    c.algorithm.advantage_norm = "group_mean"
    c.algorithm.aggregation = "constant"


def dapo(c):
    """DAPO (arXiv 2503.14476): higher upper clip, token mean, dynamic sampling, soft overlong
    penalty."""
    grpo(c)
    c.algorithm.clip_low = 0.2
    c.algorithm.clip_high = 0.28
    c.algorithm.aggregation = "token_mean"
    c.algorithm.overlong = "soft"
    c.algorithm.overlong_buffer = max(1, c.data.max_completion_tokens // 5)
    c.rollout.max_refills = 2


def gspo(c):
    """GSPO (arXiv 2507.18071): sequence-level importance ratio, clipped much closer to 1."""
    grpo(c)
    c.algorithm.ratio = "sequence"
    c.algorithm.aggregation = "sequence_mean"
    c.algorithm.clip_low = 3e-4
    c.algorithm.clip_high = 4e-4


def paper_controller(c):
    """CIPO with the controller and anchors as in the paper, whatever the base config has. Of its
    values we know a public reimplementation's reading alone."""
    c.replay.adaptive = True
    c.replay.initial, c.replay.minimum, c.replay.maximum = 0.3, 0.2, 0.8
    c.replay.target, c.replay.target_retention = "constant", 0.8
    c.replay.gap_weight, c.replay.drop_weight, c.replay.streak_weight = 0.8, 0.3, 0.05
    c.correction.right_limits = ()
    c.correction.wrong_min_pass_rate = 0.0
    c.correction.wrong_group_multiple = 1
    c.correction.from_corrections = 0.0


def second_round(c):
    """CIPO that also corrects its corrections: they are a quarter of the anchors."""
    c.correction.from_corrections = 0.25


def constant_rho(c):
    """CIPO without the controller: rho stays where it starts."""
    c.replay.adaptive = False


def no_risk(c):
    """CIPO without risk-averse shaping."""
    c.correction.lambda_risk = 0.0


def no_difficulty(c):
    """CIPO without difficulty-aware anchors: every pass rate is in the band."""
    c.correction.band_low = 0.0
    c.correction.band_high = 1.0


def failures_only(c):
    """CIPO with wrong attempts as its only anchors: rho = 0."""
    c.replay.adaptive = False
    c.replay.initial = 0.0
    c.correction.shortage = "empty"


def risk_group_mean(c):
    """CIPO whose corrections are centred but not scaled, so that lambda_risk acts."""
    c.algorithm.correction_advantage_norm = "group_mean"


def risk_rloo(c):
    """CIPO with a leave-one-out baseline for corrections."""
    c.algorithm.correction_advantage_norm = "rloo"


def risk_stream(c):
    """CIPO whose corrections are scaled by the std over the whole correction stream."""
    c.algorithm.correction_advantage_norm = "stream"


VARIANTS = {
    f.__name__: f
    for f in (
        cipo,
        grpo,
        grpo_sequence_kl,
        dr_grpo,
        dapo,
        gspo,
        paper_controller,
        second_round,
        constant_rho,
        no_risk,
        no_difficulty,
        failures_only,
        risk_group_mean,
        risk_rloo,
        risk_stream,
    )
}


def apply(c, name):
    """Changes config `c` into the variant called `name` and returns it."""
    if name not in VARIANTS:
        names = list(VARIANTS)
        raise CipoError(
            f"variant {name!r} is not known; there are: {', '.join(names)}"
            + did_you_mean(name, names)
        )
    VARIANTS[name](c)
    return c
