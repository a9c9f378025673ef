"""The keys of the method: both streams, the replay ratio, the loss, and the update that follows.

How keys are written, and what "paper" and "ours" mean, is said in `keys.py`, which puts these
sections into the `Config` and has all others.
"""

import dataclasses
from typing import Literal

from cipo_jax.config.ranges import (
    Bound,
    DecayRate,
    GroupSize,
    NotNegative,
    Positive,
    PositiveShare,
    Share,
)


@dataclasses.dataclass(frozen=True)
class Rollout:
    """The base stream."""

    problems_per_step: Positive[int] = 32  # groups of the base stream (ours)
    group_size: GroupSize = 8  # completions per problem (paper: 8)
    # Dynamic sampling (DAPO): groups that are all right or all wrong are replaced by groups of
    # further problems, at most this many times problems_per_step. Their tokens count as sampled.
    # 0: never.
    max_refills: NotNegative[int] = 0
    # "uniform" takes problems in order; "learnability" draws them from `curriculum_candidates`
    # times as many, in proportion to p (1 - p) of their running pass rate (ours).
    curriculum: Literal["uniform", "learnability"] = "uniform"
    # With "learnability": problems to draw from, as a multiple of those that are wanted.
    curriculum_candidates: Positive[int] = 4
    pass_rate_decay: Share = 0.7  # weight of the past in a problem's running pass rate

    @property
    def most_problems(self) -> int:
        """Problems of a step at most, with those of dynamic sampling."""
        return self.problems_per_step * (1 + self.max_refills)


@dataclasses.dataclass(frozen=True)
class Correction:
    """The correction stream. `weight = 0` is GRPO: no anchors, no correction sampling."""

    weight: NotNegative[float] = 1.0  # lambda of the joint objective L_base + lambda * L_corr
    # Anchors per step, as a multiple of rollout.problems_per_step (ours).
    replay_fraction: NotNegative[float] = 1.0
    group_size: Positive[int] = 8  # corrections per anchor (ours: as in the base stream)
    # Problems with a pass rate in [band_low, band_high] are preferred, then the nearest (paper).
    band_low: Share = 0.375
    band_high: Share = 0.75  # upper end of that band (paper)
    max_per_problem: Positive[int] = 2  # anchors of one problem at most (ours)
    # If right or wrong attempts run short: "other" takes from the other class, "empty" leaves the
    # slot unused (ours).
    shortage: Literal["other", "empty"] = "other"
    # Put back attempts that were cut at the token limit too. They have no end to correct.
    cut_anchors: bool = False
    # Share of the step's anchors that are corrections of its other anchors, so that the policy also
    # corrects what it has corrected. They are sampled after these, with as many completions in all;
    # max_per_problem is for each of the two. Exact repetitions are not put back (ours).
    from_corrections: Share = 0.0
    # Tell which kind of test a wrong program failed first (never the expected output). The prompt
    # then gives away that the attempt was wrong, which the paper's does not.
    show_failed_test: bool = False
    lambda_risk: NotNegative[float] = 0.5  # penalty on spoiling a right attempt (value ours)
    # What bounds right anchors, besides rho (ours; () as the paper): "count", no more of them than
    # wrong ones; "weight", no more gradient weight than the wrong ones have (|advantage| x tokens;
    # their advantages are scaled down); "retention", no gradient while retention is at its target
    # (replay.target). Their corrections reward repeating what is there, and where all corrections
    # of wrong attempts fail, nothing else has a gradient.
    right_limits: tuple[Literal["count", "weight", "retention"], ...] = ("weight",)
    # Wrong anchors only from problems with at least this pass rate in the step; 0: any. A value up
    # to 1 / rollout.group_size asks for one right attempt (ours).
    wrong_min_pass_rate: Share = 0.0
    # Groups of wrong anchors are this many times as large, and there are so many times fewer of
    # them: a step samples the same. Where few corrections succeed, fewer groups are all wrong
    # (ours).
    wrong_group_multiple: Positive[int] = 1


@dataclasses.dataclass(frozen=True)
class Replay:
    """The controller of rho, the share of anchors that are successes. Weights, and tau with
    "constant", as a public reimplementation reads the paper; the variant `paper_controller` has all
    of its values."""

    adaptive: bool = True  # False keeps rho at `initial`
    initial: Share = 0.05  # rho of the first step (ours)
    minimum: Share = 0.05  # lower bound of rho (ours)
    maximum: Share = 0.5  # upper bound of rho (ours)
    # What retention is compared with: "constant", target_retention; "fresh", what another attempt
    # reaches, the pass rate of the other attempts at the right anchors' problems (ours). A policy
    # that is right in half of its attempts keeps no more than that by solving the problem anew.
    target: Literal["constant", "fresh"] = "fresh"
    target_retention: Share = 0.8  # tau, a share of corrections of right attempts; with "constant"
    gap_weight: NotNegative[float] = 0.8  # w1, on tau - retention
    drop_weight: NotNegative[float] = 0.3  # w2, on the fall of retention since the last step
    streak_weight: NotNegative[float] = 0.05  # w3, on min(steps below tau, 3)


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """Advantages and the policy loss."""

    # How rewards become advantages, see rl/advantages.py: "group" (GRPO), "group_mean" (Dr. GRPO),
    # "rloo", "stream" (after REINFORCE++).
    advantage_norm: Literal["group", "group_mean", "rloo", "stream"] = "group"
    # The same for the correction stream, where "group_unshaped_std" (ours) is possible too. "group"
    # cancels lambda_risk (see rl/advantages.py), so it is refused together with lambda_risk > 0.
    correction_advantage_norm: Literal[
        "group", "group_mean", "rloo", "stream", "group_unshaped_std"
    ] = "group_unshaped_std"
    # Completions that hit the token limit: "keep" as any other, "mask" (left out, DAPO's overlong
    # filtering) or "soft" (DAPO's penalty over the last overlong_buffer tokens before the limit).
    overlong: Literal["keep", "mask", "soft"] = "keep"
    overlong_buffer: NotNegative[int] = 0  # tokens before the limit, with overlong="soft"
    surrogate: Literal["clip", "cispo"] = "clip"  # PPO's, or a clipped importance weight (CISPO)
    ratio: Literal["token", "sequence"] = "token"  # unit of the importance ratio; "sequence": GSPO
    clip_low: PositiveShare = 0.2  # the ratio is clipped to [1 - clip_low, 1 + clip_high]
    clip_high: Positive[float] = 0.2  # upper end of that interval
    dual_clip: Bound = 0.0  # bound on the loss of negative advantages, as a multiple of them
    # How tokens add up: "token_mean" (DAPO), "sequence_mean" (GRPO), "constant" (Dr. GRPO).
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    # Denominator of the ratio: log-probs of the "sampler", or recomputed by the "trainer" before
    # the step's first update (with one update per step the ratio is then 1: nothing is clipped).
    old_logprobs: Literal["sampler", "trainer"] = "sampler"
    # Truncated importance sampling: the largest weight, trainer over sampler; 0: off.
    tis_cap: NotNegative[float] = 0.0
    kl_coef: NotNegative[float] = 0.0  # on the KL to the frozen initial policy; 0: no reference
    kl_estimator: Literal["k2", "k3"] = "k3"  # Schulman's estimators, see rl/losses.py
    entropy_coef: NotNegative[float] = 0.0  # entropy bonus


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax optimiser after clipping by global norm. Steps are optimiser updates."""

    name: Literal["adamw", "adafactor", "muon"] = "adamw"  # "muon": AdamW for all but matrices
    learning_rate: Positive[float] = 4e-4  # at its peak
    warmup_steps: NotNegative[int] = 0  # of linear warm-up, from learning_rate / warmup_steps
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # after the warm-up
    decay_steps: NotNegative[int] = 0  # the update at which linear and cosine arrive at their floor
    final_share: Share = 0.0  # that floor, as a share of the peak
    mu_dtype: Literal["", "float32", "bfloat16"] = ""  # of first moments; "": as the parameters
    b1: DecayRate = 0.9  # of the first moment, per update
    b2: DecayRate = 0.95  # of the second moment, per update
    weight_decay: NotNegative[float] = 0.0  # decoupled, times the learning rate
    grad_clip: Positive[float] = 1.0  # largest global norm of a gradient


@dataclasses.dataclass(frozen=True)
class Batch:
    """The shape of the compiled train step: sequences are packed into rows of `row_tokens`."""

    # Of a row, at least the longest prompt + completion; 0: derived from it, see run/sizes.py.
    row_tokens: NotNegative[int] = 0
    # Rows per gradient accumulation step, over all devices; 0: derived from row_tokens and devices.
    microbatch_rows: NotNegative[int] = 0
    minibatches: Positive[int] = 1  # optimiser updates per pass over a step's sequences
    epochs: Positive[int] = 1  # passes over a step's sequences
