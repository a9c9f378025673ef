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
    """GRPO (arXiv 2402.03300): the base stream alone."""
    c.correction.weight = 0.0


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
        dr_grpo,
        dapo,
        gspo,
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
