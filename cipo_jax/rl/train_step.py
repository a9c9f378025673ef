"""The one compiled update: both streams, gradient accumulation, optimiser, metrics.

    L = L_base + lambda * L_correction

Each stream's loss is a sum over its completion tokens divided by its own token count, so that
neither dilutes the other. Counts are taken over the whole batch before the first gradient, so the
result does not depend on how rows are split into microbatches or devices. Empty microbatches at
the end are skipped on the device: the shape is fixed, the cost follows the rows in use.

`lambda = 0` multiplies the correction stream's gradient by an exact zero: GRPO is this step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cipo_jax.rl.losses import clipped_surrogate, kl_k3
from cipo_jax.types import STREAMS, TrainBatch

Params = Any
Metrics = dict[str, jax.Array]
# (params, tokens, positions, segments) -> (logprobs, entropy), all [R, T]
Score = Callable[[Params, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
# (logprobs, entropy, microbatch) -> loss per token, {statistic: per token}, {statistic: per token}
# [R, T]; the first statistics are averaged over a stream's tokens, the second maximised.
TokenLoss = Callable[
    [jax.Array, jax.Array, TrainBatch],
    tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]],
]


@struct.dataclass
class TrainState:
    """What an update changes.

    Attributes:
      step: [] int32, updates done.
      params: parameters.
      opt_state: optimiser state.
    """

    step: Any
    params: Params
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
    """Settings of the policy objective."""

    clip_low: float
    clip_high: float
    kl_coef: float = 0.0

    def __call__(
        self, logprobs: jax.Array, entropy: jax.Array, batch: TrainBatch
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
        loss, ratio, clipped = clipped_surrogate(
            logprobs, batch.old_logprobs, batch.advantages, self.clip_low, self.clip_high
        )
        means = {
            "entropy": entropy,
            "clip_frac": clipped.astype(jnp.float32),
            "sampler_gap": jnp.abs(logprobs - batch.old_logprobs),
            "advantage_abs": jnp.abs(batch.advantages),
        }
        if self.kl_coef:
            kl = kl_k3(logprobs, batch.ref_logprobs)
            loss = loss + self.kl_coef * kl
            means["kl"] = kl
        return loss, means, {"ratio_max": ratio}


def demonstration_loss(
    logprobs: jax.Array, entropy: jax.Array, batch: TrainBatch
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
    """Negative log-likelihood of the completion tokens, for the cold start."""
    del batch
    return -logprobs, {"entropy": entropy}, {}


def make_optimizer(
    schedule: optax.Schedule, b1: float, b2: float, weight_decay: float, grad_clip: float
) -> optax.GradientTransformation:
    """AdamW after clipping by global norm; norms and biases are not decayed."""

    def decayed(params: Params) -> Any:
        def is_matrix(path: tuple[Any, ...], _: Any) -> bool:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return not name.endswith(("scale", "bias"))

        return jax.tree_util.tree_map_with_path(is_matrix, params)

    return optax.chain(
        optax.clip_by_global_norm(grad_clip),
        optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=decayed),
    )


def warmup_schedule(peak: float, warmup_steps: int) -> optax.Schedule:
    """Linear from peak / warmup_steps to `peak`, then constant."""
    if warmup_steps == 0:
        return optax.constant_schedule(peak)
    return optax.linear_schedule(peak / warmup_steps, peak, warmup_steps - 1)


def batch_shardings(mesh: Mesh, rows: tuple[str, ...]) -> NamedSharding:
    """Rows [M, R, ...] are split over the mesh axes `rows` along R."""
    return NamedSharding(mesh, P(None, rows))


def make_train_step(
    score: Score,
    token_loss: TokenLoss,
    optimizer: optax.GradientTransformation,
    stream_weights: tuple[float, float],
    state_shardings: TrainState | None = None,
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, Metrics]]:
    """Builds the jitted `train_step(state, batch) -> (state, metrics)`; `state` is donated.

    Args:
      score: teacher-forced log-probs and entropies at the sampling temperature.
      token_loss: `PolicyLoss(...)` or `demonstration_loss`.
      stream_weights: weights of the base and the correction loss, (1, lambda).
      state_shardings: shardings of the resulting state; None on a single device.

    Metrics, all float32 scalars: "loss/total", "grad_norm" (before clipping), and for each stream
    s that has tokens "loss/s" (unweighted), "s/tokens", and the statistics of `token_loss`; a
    stream without tokens has NaN in its place.
    """

    def step(state: TrainState, batch: TrainBatch) -> tuple[TrainState, Metrics]:
        tokens_per_stream = _per_stream(batch.loss_mask, batch.stream, jnp.sum)
        weights = jnp.asarray(stream_weights) / jnp.maximum(tokens_per_stream, 1.0)

        def microbatch_loss(params: Params, micro: TrainBatch) -> tuple[jax.Array, Any]:
            logprobs, entropy = score(params, micro.tokens, micro.positions, micro.segments)
            loss, means, maxima = token_loss(logprobs, entropy, micro)
            row_weights = weights[micro.stream][:, None]
            total = jnp.sum(row_weights * micro.loss_mask * loss)
            sums = {
                name: _per_stream(micro.loss_mask * value, micro.stream, jnp.sum)
                for name, value in {"loss": loss, **means}.items()
            }
            tops = {
                name: _per_stream(micro.loss_mask * value, micro.stream, jnp.max)
                for name, value in maxima.items()
            }
            return total, (total, sums, tops)

        def accumulate(carry: Any, micro: TrainBatch) -> tuple[Any, None]:
            def add(carry: Any) -> Any:
                grads, (total, sums, tops) = carry
                new, (more, more_sums, more_tops) = jax.grad(microbatch_loss, has_aux=True)(
                    state.params, micro
                )
                grads = jax.tree.map(lambda a, b: a + b.astype(a.dtype), grads, new)
                sums = jax.tree.map(jnp.add, sums, more_sums)
                return grads, (total + more, sums, jax.tree.map(jnp.maximum, tops, more_tops))

            return jax.lax.cond(jnp.any(micro.loss_mask > 0), add, lambda c: c, carry), None

        first = jax.tree.map(lambda x: x[0], batch)
        aux = jax.eval_shape(lambda p, m: microbatch_loss(p, m)[1], state.params, first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), aux)
        # Accumulated in float32 whatever the parameters' dtype.
        zero_grads = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params)
        (grads, (total, sums, tops)), _ = jax.lax.scan(accumulate, (zero_grads, zeros), batch)

        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)

        metrics = {"loss/total": total, "grad_norm": optax.global_norm(grads)}
        averages = {name: value / tokens_per_stream for name, value in sums.items()}
        tops = {k: jnp.where(tokens_per_stream > 0, v, jnp.nan) for k, v in tops.items()}
        for i, stream in enumerate(STREAMS):
            metrics[f"{stream}/tokens"] = tokens_per_stream[i]
            metrics[f"loss/{stream}"] = averages["loss"][i]
            for name, value in {**averages, **tops}.items():
                if name != "loss":
                    metrics[f"{stream}/{name}"] = value[i]
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    out_shardings = None if state_shardings is None else (state_shardings, None)
    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def make_reference_scorer(
    score: Score,
) -> Callable[[Params, TrainBatch], jax.Array]:
    """Builds the jitted `(params, batch) -> log-probs [M, R, T]`, a microbatch at a time; empty
    microbatches get zeros."""

    def reference_logprobs(params: Params, batch: TrainBatch) -> jax.Array:
        def of_microbatch(micro: TrainBatch) -> jax.Array:
            return jax.lax.cond(
                jnp.any(micro.loss_mask > 0),
                lambda m: score(params, m.tokens, m.positions, m.segments)[0],
                lambda m: jnp.zeros_like(m.old_logprobs),
                micro,
            )

        return jax.lax.map(of_microbatch, batch)

    return jax.jit(reference_logprobs)


def _per_stream(
    values: jax.Array, stream: jax.Array, reduce: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """[2]: `values` [..., T] reduced over the rows of each stream (`stream` [...])."""
    return jnp.stack(
        [reduce(jnp.where((stream == s)[..., None], values, 0.0)) for s in range(len(STREAMS))]
    )
