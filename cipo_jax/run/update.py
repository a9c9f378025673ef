"""The compiled update of a run, from the config and the model on its mesh.

Static shapes and shardings are decided here; the computation itself is `rl/train_step`'s.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from cipo_jax.config.keys import Config
from cipo_jax.policy import model, sharding
from cipo_jax.policy.model import ModelConfig, Params
from cipo_jax.rl import packing as batching
from cipo_jax.rl.aggregate import Aggregation
from cipo_jax.rl.losses import PolicyLoss, TokenLoss
from cipo_jax.rl.optimizer import make_optimizer
from cipo_jax.rl.train_step import (
    Metrics,
    Score,
    TrainState,
    abstract_batch,
    make_reference_scorer,
    make_stream_gradient_stats,
    make_train_step,
    put_batch,
)
from cipo_jax.types import CipoError, TrainBatch


@dataclasses.dataclass(frozen=True)
class Policy:
    """What an update is built from. `longest_*` bound lengths in tokens, for static shapes."""

    mesh: Mesh
    model: ModelConfig
    score: Score
    longest_prompt: int
    longest_correction_prompt: int


@dataclasses.dataclass(frozen=True)
class Update:
    """An optimiser's side of the run.

    Attributes:
      abstract: the TrainState's shapes, dtypes and shardings.
      abstract_batch: likewise of a batch, without reference log-probs.
      init: parameters -> TrainState with a fresh optimiser; takes the parameters over.
      step: the compiled update, on a batch of NumPy arrays.
      lower: the update's program from shapes alone; nothing is allocated. Takes `with_reference`,
        whether batches hold reference log-probs.
      pack: training sequences -> the batch of `step`'s static shape; with several minibatches it
        also takes the generator that deals groups to them.
      reference_logprobs: the log-probs of a batch's tokens under other parameters.
      gradient_stats: norms of the streams' gradients on a batch and their cosine.
    """

    abstract: TrainState
    abstract_batch: TrainBatch
    init: Callable[[Params], TrainState]
    step: Callable[[TrainState, TrainBatch], tuple[TrainState, Metrics]]
    lower: Callable[..., jax.stages.Lowered]
    pack: Callable[..., TrainBatch]
    reference_logprobs: Callable[[Params, TrainBatch], jax.Array]
    gradient_stats: Callable[[Params, TrainBatch], Metrics]


def make_score(config: Config, model_config: ModelConfig, mesh: Mesh) -> Score:
    """Teacher-forced log-probs and entropies at the sampling temperature."""
    rules = sharding.logical_rules(mesh, model_config.axis_sizes)

    def score(
        params: Params, tokens: jax.Array, positions: jax.Array, segments: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return model.token_logprobs(
            model_config, params, tokens, positions, segments, config.sampling.temperature, rules
        )

    return score


def num_anchors(config: Config) -> int:
    """Anchors of a step."""
    k = config.correction
    return round(k.replay_fraction * config.rollout.problems_per_step) if k.weight else 0


def make_policy_update(config: Config, policy: Policy, schedule: optax.Schedule) -> Update:
    """The RL update: the joint objective of both streams."""
    o, loss = config.optimizer, policy_loss(config)
    group_sizes = (config.rollout.group_size, config.correction.group_size)
    return make_update(
        config,
        policy,
        loss,
        make_optimizer(
            schedule, o.b1, o.b2, o.weight_decay, o.grad_clip, o.name, o.mu_dtype or None
        ),
        stream_weights=(1.0, config.correction.weight),
        sequences=(
            config.rollout.problems_per_step * group_sizes[0],
            num_anchors(config) * group_sizes[1],
        ),
        group_sizes=group_sizes,
        minibatches=config.batch.minibatches,
        epochs=config.batch.epochs,
    )


def policy_loss(config: Config) -> PolicyLoss:
    """The RL objective's settings; 0 means off where the config says so."""
    a = config.algorithm
    return PolicyLoss(
        clip_low=a.clip_low,
        clip_high=a.clip_high,
        kl_coef=a.kl_coef,
        kl_estimator=a.kl_estimator,
        entropy_coef=a.entropy_coef,
        surrogate=a.surrogate,
        ratio=a.ratio,
        dual_clip=a.dual_clip or None,
        old_logprobs=a.old_logprobs,
        tis_cap=a.tis_cap or None,
        aggregation=Aggregation(a.aggregation, config.data.max_completion_tokens),
    )


def make_update(
    config: Config,
    policy: Policy,
    token_loss: TokenLoss,
    optimizer: optax.GradientTransformation,
    stream_weights: tuple[float, float],
    sequences: tuple[int, int],
    group_sizes: tuple[int, int] = (1, 1),
    minibatches: int = 1,
    epochs: int = 1,
) -> Update:
    """Builds the update for batches of up to `sequences` (base, correction) sequences.

    Args:
      group_sizes: completions of one prompt in each stream, kept together in a minibatch.
      minibatches, epochs: optimiser updates per batch, see `rl.train_step`.

    Raises:
      CipoError: rows too short for the longest sequence, or not divisible over the devices.
    """
    R, T = config.batch.microbatch_rows, config.batch.row_tokens
    devices = sharding.row_count(policy.mesh)
    if R % devices:
        raise CipoError(
            f"config.batch.microbatch_rows: got {R}, wanted a multiple of {devices}, the product "
            "of mesh.data and mesh.fsdp, over which rows are split"
        )
    completion = config.data.max_completion_tokens
    rows = sum(
        batching.row_capacity(
            batching.minibatch_sequences(count, group_size, minibatches), prompt + completion, T
        )
        for count, group_size, prompt in zip(
            sequences,
            group_sizes,
            (policy.longest_prompt, policy.longest_correction_prompt),
            strict=True,
        )
        if count
    )
    microbatches = batching.microbatch_count(rows, R)

    params = model.abstract_params(policy.model)
    param_shardings = model.param_shardings(policy.model, policy.mesh)
    opt_shardings = sharding.optimizer_shardings(optimizer, params, param_shardings, policy.mesh)
    replicated = sharding.replicated(policy.mesh)
    shardings = TrainState(step=replicated, params=param_shardings, opt_state=opt_shardings)
    shapes = TrainState(
        step=jax.ShapeDtypeStruct((), np.int32),
        params=params,
        opt_state=jax.eval_shape(optimizer.init, params),
    )
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
    init_optimizer = jax.jit(optimizer.init, out_shardings=opt_shardings)
    compiled = make_train_step(
        policy.score, token_loss, optimizer, stream_weights, shardings, epochs
    )

    batch_shapes = abstract_batch((minibatches, microbatches, R, T), policy.mesh, sharding.ROWS)

    def lower(with_reference: bool = False) -> jax.stages.Lowered:
        batch = batch_shapes
        if with_reference:
            batch = batch._replace(ref_logprobs=batch.old_logprobs)
        with jax.set_mesh(policy.mesh):
            return cast(Any, compiled).lower(abstract, batch)  # it is jitted

    def init(params: Params) -> TrainState:
        step = jax.device_put(np.zeros((), np.int32), replicated)
        return TrainState(step=step, params=params, opt_state=init_optimizer(params))

    def step(state: TrainState, batch: TrainBatch) -> tuple[TrainState, Metrics]:
        return compiled(state, put_batch(batch, policy.mesh, sharding.ROWS))

    pack_minibatch = functools.partial(
        batching.make_train_batch,
        microbatches=microbatches,
        microbatch_rows=R,
        row_tokens=T,
        skip_zero_advantages=not token_loss.needs_zero_advantages,
        normaliser=token_loss.aggregation.normaliser,
    )

    def pack(
        members: list[batching.TrainSequence], rng: np.random.Generator | None = None
    ) -> TrainBatch:
        return batching.make_minibatches(members, minibatches, rng, pack_minibatch)

    scorer = make_reference_scorer(policy.score)

    def reference_logprobs(params: Params, batch: TrainBatch) -> jax.Array:
        return scorer(params, put_batch(batch, policy.mesh, sharding.ROWS))

    statistics = make_stream_gradient_stats(policy.score, token_loss)

    def gradient_stats(params: Params, batch: TrainBatch) -> Metrics:
        return statistics(params, put_batch(batch, policy.mesh, sharding.ROWS))

    return Update(
        abstract=abstract,
        abstract_batch=batch_shapes,
        init=init,
        step=step,
        lower=lower,
        pack=pack,
        reference_logprobs=reference_logprobs,
        gradient_stats=gradient_stats,
    )
