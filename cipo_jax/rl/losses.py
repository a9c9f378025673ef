"""Objectives, token by token, and `PolicyLoss`, which puts one together from its settings.

They return values per token, to be minimised; `aggregate` and `train_step` weigh and sum them.
With r = pi(token) / pi_old(token) and A the completion's advantage, the surrogates are

    clip       -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A). PPO (Schulman et al. 2017, arXiv
               1707.06347); a wider upper bound is DAPO's clip-higher (arXiv 2503.14476).
    dual clip  for A < 0 the loss is bounded by -c A, c > 1 (Ye et al. 2020, arXiv 1912.09729).
    cispo      -stop_gradient(clip(r)) A log pi: clipping bounds a token's weight and never drops
               the token. MiniMax-M1 (2025, arXiv 2506.13585); clip_low = 1 leaves r unbounded
               below, as there.

and r is the ratio of the token, or of the sequence: GSPO's geometric mean (Zheng et al. 2025, arXiv
2507.18071). On-policy (r = 1) the gradient of each is REINFORCE's, -A grad log pi.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from cipo_jax.config.checks import check_loss
from cipo_jax.config.keys import Algorithm
from cipo_jax.config.resolve import resolve_section
from cipo_jax.rl.aggregate import TOKEN_MEAN, Aggregation, segment_means
from cipo_jax.types import TrainBatch

Statistics = dict[str, jax.Array]


def clipped_surrogate(
    log_ratio: jax.Array,
    advantages: jax.Array,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """PPO's clipped objective as a loss, with dual clipping if `dual_clip` is given.

    Args:
      log_ratio, advantages: one shape, float32; log r as in the module docstring.
      dual_clip: c > 1; for A < 0, tokens with r > c lose their gradient.

    Returns:
      loss per token; the ratio r; whether clipping is active (so that the gradient is zero).
    """
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    plain_loss, clipped_loss = -ratio * advantages, -clipped * advantages
    loss, active = jnp.maximum(plain_loss, clipped_loss), clipped_loss > plain_loss
    if dual_clip is not None:
        bounded = (advantages < 0) & (ratio > dual_clip)
        loss, active = jnp.where(bounded, -dual_clip * advantages, loss), active | bounded
    return loss, ratio, active


def cispo(
    logprobs: jax.Array,
    log_ratio: jax.Array,
    advantages: jax.Array,
    clip_low: float,
    clip_high: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """CISPO's loss of arrays of one shape, float32. Its gradient is -clip(r) A grad log pi; its
    value has no meaning.

    Returns:
      loss per token; the ratio r; whether its weight is clipped (the gradient is not zero then).
    """
    ratio = jnp.exp(jax.lax.stop_gradient(log_ratio))
    weight = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    return -weight * advantages * logprobs, ratio, weight != ratio


def sequence_log_ratio(
    log_ratio: jax.Array, completion_mask: jax.Array, segments: jax.Array
) -> jax.Array:
    """GSPO's log ratio: the mean of the tokens' over the completion, for each of its tokens.

    In token form (GSPO-token, eq. 14): the value is the sequence's, the gradient flows through the
    token's own log-prob. Averaged over the tokens of a sequence, whose advantages are equal, this
    is the gradient of the sequence's objective. log_ratio, completion_mask: [R, T] float32.
    """
    mean = segment_means(jax.lax.stop_gradient(log_ratio), completion_mask, segments)
    return mean + (log_ratio - jax.lax.stop_gradient(log_ratio))


def kl_k2(logprobs: jax.Array, ref_logprobs: jax.Array) -> jax.Array:
    """Schulman's k2 estimate of KL(policy || reference) per token: log(policy / reference)^2 / 2,
    biased and never negative. Its expected gradient under samples of the policy is the KL's; that
    of the unbiased estimate k1, log(policy / reference), would be zero."""
    return 0.5 * jnp.square(logprobs - ref_logprobs)


def kl_k3(logprobs: jax.Array, ref_logprobs: jax.Array) -> jax.Array:
    """Schulman's k3 estimate of KL(policy || reference) per token: r - 1 - log r, r = ref / policy;
    unbiased under samples of the policy, never negative; GRPO's choice."""
    log_ratio = ref_logprobs - logprobs
    return jnp.expm1(log_ratio) - log_ratio


KL_ESTIMATORS = {"k2": kl_k2, "k3": kl_k3}


class TokenLoss(Protocol):
    """What a train step minimises.

    Called with logprobs, entropy [R, T] float32, the microbatch, and the trainer's log-probs
    [R, T] before the step's first update (None unless `needs_trainer_logprobs`), it returns

      loss: [R, T], per token;
      means: statistics [R, T] that are averaged over a stream's completion tokens;
      maxima: statistics [R, T] of which the largest value is reported.

    Attributes:
      aggregation: how the loss is summed.
      needs_trainer_logprobs: see above.
      needs_zero_advantages: sequences of advantage 0 have a gradient too.
    """

    @property
    def aggregation(self) -> Aggregation: ...

    @property
    def needs_trainer_logprobs(self) -> bool: ...

    @property
    def needs_zero_advantages(self) -> bool: ...

    def __call__(
        self,
        logprobs: jax.Array,
        entropy: jax.Array,
        batch: TrainBatch,
        trainer_logprobs: jax.Array | None,
    ) -> tuple[jax.Array, Statistics, Statistics]: ...


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
    """The policy objective:

        w * surrogate(r, A) + kl_coef * KL(policy || reference) - entropy_coef * entropy

    Attributes:
      clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
      kl_coef: 0 reads no reference log-probs.
      kl_estimator: "k2" or "k3".
      surrogate: "clip" or "cispo".
      ratio: of "token" or "sequence" (GSPO; bounds are then of the order of 3e-4).
      dual_clip: c > 1; 0 or None: no dual clipping.
      old_logprobs: pi_old of the ratio: "sampler", the log-probs reported by the sampler, or
        "trainer", recomputed by the trainer before the step's first update.
      tis_cap: truncated importance sampling (Yao et al. 2025) corrects for a sampler that computes
        other probabilities than the trainer: w = min(pi_old / pi_sampler, tis_cap), a constant.
        0 or None: w = 1.

    All fields but `aggregation` are keys of the config's section `algorithm`.

    Raises:
      CipoError: what the config would refuse too, a value out of range or a contradiction.
    """

    clip_low: float
    clip_high: float
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    surrogate: str = "clip"
    ratio: str = "token"
    dual_clip: float | None = None
    old_logprobs: str = "sampler"
    tis_cap: float | None = None
    aggregation: Aggregation = TOKEN_MEAN

    def __post_init__(self) -> None:
        settings = {k: v for k, v in vars(self).items() if k != "aggregation" and v is not None}
        check_loss(resolve_section(Algorithm, settings, "PolicyLoss"), "PolicyLoss")

    @property
    def needs_trainer_logprobs(self) -> bool:
        return self.old_logprobs == "trainer"

    @property
    def needs_zero_advantages(self) -> bool:
        return self.kl_coef != 0 or self.entropy_coef != 0

    def __call__(
        self,
        logprobs: jax.Array,
        entropy: jax.Array,
        batch: TrainBatch,
        trainer_logprobs: jax.Array | None,
    ) -> tuple[jax.Array, Statistics, Statistics]:
        """Loss and statistics per token; shapes as in `TokenLoss`.

        Statistics: "entropy"; "ratio_mean", "ratio_max"; shares of tokens whose ratio is clipped
        from below and above, and both ("clip_low_frac", "clip_high_frac", "clip_frac"; dual
        clipping is from above); "advantage_abs"; the trainer against the sampler, as "sampler_gap",
        the mean absolute difference of log-probs, and "sampler_k3", the k3 estimate of
        KL(sampler || trainer); with a KL term "kl"; with tis_cap "tis_mean", "tis_capped_frac".
        Without trainer log-probs, the two of the sampler use the policy as it is being updated:
        from a step's second update on they include its movement.
        """
        scored = batch.completion_mask > 0
        if self.needs_trainer_logprobs:
            if trainer_logprobs is None:
                raise ValueError("old_logprobs='trainer' needs trainer_logprobs")
            trainer = old = trainer_logprobs
        else:
            trainer, old = jax.lax.stop_gradient(logprobs), batch.old_logprobs

        # There are no old log-probs off the completions, and nothing may become infinite there.
        log_ratio = jnp.where(scored, logprobs - old, 0.0)
        if self.ratio == "sequence":
            log_ratio = sequence_log_ratio(log_ratio, batch.completion_mask, batch.segments)
        given = (log_ratio, batch.advantages, self.clip_low, self.clip_high)
        if self.surrogate == "cispo":
            loss, ratio, clipped = cispo(logprobs, *given)
        else:
            loss, ratio, clipped = clipped_surrogate(*given, self.dual_clip or None)

        sampler_gap = jnp.where(scored, trainer - batch.old_logprobs, 0.0)
        means = {
            "entropy": entropy,
            "ratio_mean": ratio,
            "clip_frac": _share(clipped),
            "clip_low_frac": _share(clipped & (ratio < 1)),
            "clip_high_frac": _share(clipped & (ratio > 1)),
            "advantage_abs": jnp.abs(batch.advantages),
            "sampler_gap": jnp.abs(sampler_gap),
            "sampler_k3": jnp.expm1(sampler_gap) - sampler_gap,
        }
        if self.tis_cap:
            mismatch = jnp.exp(sampler_gap)
            weight = jnp.minimum(mismatch, self.tis_cap)
            loss = weight * loss
            means |= {"tis_mean": weight, "tis_capped_frac": _share(mismatch > self.tis_cap)}
        if self.kl_coef:
            pair = (jnp.where(scored, x, 0.0) for x in (logprobs, batch.ref_logprobs))
            kl = KL_ESTIMATORS[self.kl_estimator](*pair)
            loss = loss + self.kl_coef * kl
            means["kl"] = kl
        if self.entropy_coef:
            loss = loss - self.entropy_coef * entropy
        return loss, means, {"ratio_max": ratio}


@dataclasses.dataclass(frozen=True)
class DemonstrationLoss:
    """Negative log-likelihood of the completion tokens, for the cold start; advantages and old
    log-probs are not read."""

    aggregation: Aggregation = TOKEN_MEAN
    needs_trainer_logprobs: bool = False
    needs_zero_advantages: bool = True

    def __call__(
        self,
        logprobs: jax.Array,
        entropy: jax.Array,
        batch: TrainBatch,
        trainer_logprobs: jax.Array | None,
    ) -> tuple[jax.Array, Statistics, Statistics]:
        del batch, trainer_logprobs
        return -logprobs, {"entropy": entropy}, {}


demonstration_loss = DemonstrationLoss()


def _share(condition: jax.Array) -> jax.Array:
    return condition.astype(jnp.float32)
