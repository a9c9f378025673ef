"""The one compiled update: both streams, gradient accumulation, optimiser, metrics.

    L = L_base + lambda * L_correction

Each stream's loss has its own normaliser (`aggregate`), so that neither dilutes the other.
Normalisers are those of the whole minibatch, known before its first gradient, so the result does
not depend on how rows are split into microbatches or devices. The device skips empty microbatches
at the end, and scores those without a gradient for the metrics alone: the shape is fixed, the cost
follows the rows in use. So metrics are of all completions, whichever of them are learned from.

One program trains E times on a rollout batch's U minibatches, in the same order: U x E optimiser
updates. Batch arrays are [U, M, R, T]; U = E = 1 is one on-policy update.

`lambda = 0` multiplies the correction stream's gradient by an exact zero: GRPO is this step.

Not decided here: the loss of a token (`losses`), what goes into a minibatch (`packing`).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cipo_jax.rl.losses import TokenLoss
from cipo_jax.types import STREAMS, TrainBatch

Params = Any
Metrics = dict[str, jax.Array]
# (params, tokens, positions, segments, prefixes=) -> (logprobs, entropy), all [R, T]
Score = Callable[..., tuple[jax.Array, jax.Array]]


@struct.dataclass
class TrainState:
    """What an update changes."""

    step: Any  # [] int32, rollout batches learned from; the optimiser counts its own updates
    params: Params
    opt_state: Any


@struct.dataclass
class Totals:
    """Sums over a minibatch's completion tokens, by stream.

    Attributes:
      total: [] the loss, weighted and normalised.
      sums: [n, 2] each statistic's sum, in the order of `names`.
      maxima: {statistic: [2] largest value}.
      names: of the n statistics; the first is "loss", each stream's before its normaliser.
    """

    total: Any
    sums: Any
    maxima: Any
    names: tuple[str, ...] = struct.field(pytree_node=False)


def put_batch(
    batch: TrainBatch, mesh: Mesh, rows: tuple[str, ...], tokens: str | None = None
) -> TrainBatch:
    """Moves a batch to the devices, split along R over the mesh axes `rows`, and along T over
    `tokens`."""
    of_rank = _shardings(mesh, rows, tokens)
    return jax.tree.map(lambda x: _put(x, of_rank[x.ndim]), batch)


def _shardings(mesh: Mesh, rows: tuple[str, ...], tokens: str | None) -> dict[int, NamedSharding]:
    """Of a batch's arrays [U, 2], [U, M, R] and [U, M, R, T], by their rank."""
    axes = {2: (), 3: (None, None, rows), 4: (None, None, rows, tokens)}
    return {rank: NamedSharding(mesh, P(*names)) for rank, names in axes.items()}


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    """An array that all hosts have, on the devices; each host moves what its own devices hold."""
    if sharding.is_fully_addressable or isinstance(x, jax.Array):
        return jax.device_put(x, sharding)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def abstract_batch(
    shape: tuple[int, int, int, int],
    mesh: Mesh,
    rows: tuple[str, ...],
    tokens: str | None = None,
    share_prompts: bool = False,
) -> TrainBatch:
    """Shapes, dtypes and shardings of `put_batch`, for a batch [U, M, R, T] without reference
    log-probs; `share_prompts` as in `packing`."""
    of_rank = _shardings(mesh, rows, tokens)
    ints, floats = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=of_rank[4])
        for dtype in (jnp.int32, jnp.float32)
    )
    return TrainBatch(
        tokens=ints,
        positions=ints,
        segments=ints,
        completion_mask=floats,
        loss_mask=floats,
        advantages=floats,
        old_logprobs=floats,
        stream=jax.ShapeDtypeStruct(shape[:-1], jnp.int32, sharding=of_rank[3]),
        token_counts=jax.ShapeDtypeStruct((shape[0], 2), jnp.float32, sharding=of_rank[2]),
        prefixes=ints if share_prompts else None,
    )


def make_train_step(
    score: Score,
    token_loss: TokenLoss,
    optimizer: optax.GradientTransformation,
    stream_weights: tuple[float, float],
    state_shardings: TrainState | None = None,
    epochs: int = 1,
) -> Callable[[TrainState, TrainBatch], tuple[TrainState, Metrics]]:
    """Builds the jitted `train_step(state, batch) -> (state, metrics)`; `state` is donated.

    If the loss needs the trainer's log-probs from before the first update, a single update takes
    them from its gradient (no cost); several need one more forward pass over the batch.

    Args:
      score: teacher-forced log-probs and entropies at the sampling temperature.
      token_loss: `PolicyLoss(...)` or `demonstration_loss`.
      stream_weights: weights of the base and the correction loss, (1, lambda).
      state_shardings: shardings of the resulting state; None on a single device.
      epochs: E.

    Metrics, all float32 scalars: "loss/total" and "grad_norm" (before clipping), means over the
    updates; "param_norm", of the resulting parameters; and for each stream s "s/tokens" (scored in
    an epoch), "s/trained_tokens" (those with a gradient), "loss/s" (unweighted, the mean over the
    updates that have any of s), and the statistics of `token_loss` over the scored tokens of all
    updates. A stream without scored tokens has NaN in their place, and one of which nothing is in
    the loss has NaN as "loss/s".
    """

    def step(state: TrainState, batch: TrainBatch) -> tuple[TrainState, Metrics]:
        several = epochs * len(batch.tokens) > 1
        before = None
        if several and token_loss.needs_trainer_logprobs:
            before = _logprobs(score, state.params, batch)

        def update(carry: tuple[Params, Any], minibatch: tuple[TrainBatch, Any]) -> Any:
            params, opt_state = carry
            grads, totals = gradient(score, token_loss, stream_weights, params, *minibatch)
            grad_norm = optax.tree.norm(grads)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), (totals, grad_norm)

        def epoch(carry: tuple[Params, Any], _: None) -> Any:
            return jax.lax.scan(update, carry, (batch, before))

        carry = (state.params, state.opt_state)
        (params, opt_state), (totals, grad_norm) = jax.lax.scan(epoch, carry, length=epochs)

        in_float32 = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        metrics = {
            "loss/total": jnp.mean(totals.total),
            "grad_norm": jnp.mean(grad_norm),
            "param_norm": optax.tree.norm(in_float32),
        }
        scored = _tokens_of(batch.completion_mask, batch.stream)
        trained = _tokens_of(learns(batch, token_loss), batch.stream)
        sums = dict(zip(totals.names, jnp.moveaxis(totals.sums, 2, 0), strict=True))
        loss = sums.pop("loss")  # like the others [E, U, 2]
        counted = jnp.broadcast_to(batch.token_counts > 0, loss.shape)
        losses = jnp.mean(loss / batch.token_counts, axis=(0, 1), where=counted)
        means = {name: x.sum(axis=(0, 1)) / (epochs * scored) for name, x in sums.items()}
        largest = {name: x.max(axis=(0, 1)) for name, x in totals.maxima.items()}
        maxima = {name: jnp.where(scored > 0, x, jnp.nan) for name, x in largest.items()}
        for i, stream in enumerate(STREAMS):
            metrics[f"{stream}/tokens"] = scored[i]
            metrics[f"{stream}/trained_tokens"] = trained[i]
            metrics[f"loss/{stream}"] = losses[i]
            for name, value in {**means, **maxima}.items():
                metrics[f"{stream}/{name}"] = value[i]
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    out_shardings = None if state_shardings is None else (state_shardings, None)
    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def make_reference_scorer(score: Score) -> Callable[[Params, TrainBatch], jax.Array]:
    """Builds the jitted `(params, batch) -> log-probs [U, M, R, T]`, a microbatch at a time; empty
    microbatches get zeros."""

    def reference_logprobs(params: Params, batch: TrainBatch) -> jax.Array:
        return _logprobs(score, params, batch)

    return jax.jit(reference_logprobs)


def gradient(
    score: Score,
    token_loss: TokenLoss,
    stream_weights: tuple[float, float],
    params: Params,
    minibatch: TrainBatch,
    before: jax.Array | None,
) -> tuple[Params, Totals]:
    """The float32 gradient of L over a minibatch [M, R, ...], a microbatch at a time.

    Args:
      before: [M, R, T], the trainer's log-probs before the step's first update; None: this one is
        the first, or the loss does not need them.
    """
    weights = jnp.asarray(stream_weights) / jnp.maximum(minibatch.token_counts, 1.0)

    def loss_of_scores(
        logprobs: jax.Array, entropy: jax.Array, micro: TrainBatch, before: Any
    ) -> tuple[jax.Array, Totals]:
        if before is None and token_loss.needs_trainer_logprobs:
            before = jax.lax.stop_gradient(logprobs)
        loss, means, maxima = token_loss(logprobs, entropy, micro, before)
        weighted = token_loss.aggregation.token_weights(micro.loss_mask, micro.segments) * loss
        total = jnp.sum(weights[micro.stream][:, None] * weighted)

        scored = micro.completion_mask > 0
        named = {"loss": weighted, **means}
        of_rows = jnp.where(scored, jnp.stack(list(named.values())), 0.0).sum(axis=-1)  # [n, R]
        largest = {name: jnp.where(scored, x, 0.0).max(axis=-1) for name, x in maxima.items()}
        return total, Totals(
            total=total,
            sums=_by_stream(jnp.sum, of_rows, micro.stream),
            maxima={name: _by_stream(jnp.max, x, micro.stream) for name, x in largest.items()},
            names=tuple(named),
        )

    def microbatch_loss(params: Params, micro: TrainBatch, before: Any) -> tuple[jax.Array, Totals]:
        scores = _scores(score, params, micro)
        return loss_of_scores(*scores, micro, before)

    def add(sums: Totals, more: Totals) -> Totals:
        maxima = jax.tree.map(jnp.maximum, sums.maxima, more.maxima)
        return jax.tree.map(jnp.add, sums, more).replace(maxima=maxima)

    def accumulate(carry: tuple[Params, Totals], xs: tuple[TrainBatch, Any]) -> tuple[Any, None]:
        def learn(carry: tuple[Params, Totals]) -> tuple[Params, Totals]:
            grads, sums = carry
            more_grads, more = jax.grad(microbatch_loss, has_aux=True)(params, *xs)
            grads = jax.tree.map(lambda a, b: a + b.astype(a.dtype), grads, more_grads)
            return grads, add(sums, more)

        def measure(carry: tuple[Params, Totals]) -> tuple[Params, Totals]:
            grads, sums = carry
            return grads, add(sums, microbatch_loss(params, *xs)[1])

        in_use = jnp.any(xs[0].completion_mask > 0)
        case = jnp.where(jnp.any(learns(xs[0], token_loss)), 2, in_use.astype(jnp.int32))
        return jax.lax.switch(case, [lambda c: c, measure, learn], carry), None

    microbatches = (minibatch._replace(token_counts=None), before)
    first, first_before = jax.tree.map(lambda x: x[0], microbatches)
    scores = first.old_logprobs, first.old_logprobs  # of the same shape
    _, shapes = jax.eval_shape(loss_of_scores, *scores, first, first_before)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    # Accumulated in float32 whatever the parameters' dtype.
    zero_grads = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    (grads, totals), _ = jax.lax.scan(accumulate, (zero_grads, zeros), microbatches)
    return grads, totals


def _logprobs(score: Score, params: Params, batch: TrainBatch) -> jax.Array:
    """[U, M, R, T]: the log-probs of a batch's tokens; zeros in empty microbatches."""

    def of_microbatch(micro: TrainBatch) -> jax.Array:
        return jax.lax.cond(
            jnp.any(micro.completion_mask > 0),
            lambda m: _scores(score, params, m)[0],
            lambda m: jnp.zeros_like(m.old_logprobs),
            micro,
        )

    of_minibatch = functools.partial(jax.lax.map, of_microbatch)
    return jax.lax.map(of_minibatch, batch._replace(token_counts=None))


def _scores(score: Score, params: Params, micro: TrainBatch) -> tuple[jax.Array, jax.Array]:
    rows = (micro.tokens, micro.positions, micro.segments)
    return score(params, *rows, prefixes=micro.prefixes)


def learns(batch: TrainBatch, token_loss: TokenLoss) -> Any:
    """Which of a batch's tokens have a gradient: bool of the shape of its `loss_mask`."""
    return (batch.loss_mask > 0) & (token_loss.needs_zero_advantages | (batch.advantages != 0))


def _tokens_of(mask: jax.Array, stream: jax.Array) -> jax.Array:
    """[2] how many tokens of each stream are in `mask` [U, M, R, T]."""
    of_rows = mask.astype(jnp.float32).sum(axis=-1)
    return _by_stream(jnp.sum, of_rows, stream).sum(axis=(0, 1))


def _by_stream(reduce: Callable[..., jax.Array], values: jax.Array, stream: jax.Array) -> jax.Array:
    """[..., 2]: one value per row [..., R], reduced over the rows of each stream."""
    of = [reduce(jnp.where(stream == s, values, 0.0), axis=-1) for s in range(len(STREAMS))]
    return jnp.stack(of, axis=-1)
