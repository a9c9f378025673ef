"""The compiled update of a run, from the config and the model on its mesh.

Static shapes and shardings are decided here, the computation itself in `rl/train_step`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from cipo_jax.config.keys import Algorithm, Config, Optimizer
from cipo_jax.policy import model, sharding
from cipo_jax.policy.context import check_row_tokens
from cipo_jax.policy.model import ModelConfig, Params
from cipo_jax.policy.random_keys import random_key
from cipo_jax.rl import packing
from cipo_jax.rl.aggregate import Aggregation
from cipo_jax.rl.losses import PolicyLoss, TokenLoss
from cipo_jax.rl.optimizer import make_optimizer
from cipo_jax.rl.train_step import (
    Metrics,
    Score,
    TrainState,
    abstract_batch,
    learns,
    make_reference_scorer,
    make_train_step,
    put_batch,
)
from cipo_jax.rl.transfer import PARTS, gradient_measures, make_gradient_products, stack_parts
from cipo_jax.types import CipoError, TrainBatch


@dataclasses.dataclass(frozen=True)
class Policy:
    """The model on its mesh, and how long its sequences are.

    Attributes:
      mesh: of training.
      score: teacher-forced log-probs, see `make_score`.
      longest_prompt, longest_correction_prompt: bounds in tokens, for static shapes.
      longest_completion: likewise, stop token included.
    """

    mesh: Mesh
    model: ModelConfig
    score: Score
    longest_prompt: int
    longest_correction_prompt: int
    longest_completion: int


def make_score(model_config: ModelConfig, mesh: Mesh, temperature: float) -> Score:
    """Teacher-forced log-probs and entropies at the sampling temperature."""
    rules = sharding.logical_rules(mesh, model_config.axis_sizes)

    def score(
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        prefixes: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        return model.token_logprobs(
            model_config, params, tokens, positions, segments, temperature, rules, prefixes
        )

    return score


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The most that a step's batch holds, and how it is split.

    Attributes:
      sequences: of the base and of the correction stream.
      microbatch_rows: rows of a microbatch, over all devices; a multiple of the row shards.
      row_tokens: tokens of a row, at least the longest sequence.
      group_sizes: most completions of one prompt in each stream, kept together in a minibatch.
      minibatches, epochs: optimiser updates per batch, see `rl/train_step`.
      share_prompts: whether completions of one prompt share it; None: see `shares_prompts`.
    """

    sequences: tuple[int, int]
    microbatch_rows: int
    row_tokens: int
    group_sizes: tuple[int, int] = (1, 1)
    minibatches: int = 1
    epochs: int = 1
    share_prompts: bool | None = None


@dataclasses.dataclass(frozen=True)
class StateSizes:
    """How large a TrainState is.

    Attributes:
      weight_bytes: of the parameters, over all devices, each counted once.
      checkpoint_bytes: of parameters and optimiser state, likewise.
      device_bytes: of parameters and optimiser state on one device.
    """

    parameters: int
    weight_bytes: int
    checkpoint_bytes: int
    device_bytes: int


class Update:
    """The optimiser of a run: the shapes of its state, and the compiled update.

    Args:
      token_loss: `PolicyLoss(...)` or `demonstration_loss`.
      stream_weights: weights of the base and the correction loss, (1, lambda).

    Attributes:
      abstract: the TrainState's shapes, dtypes and shardings.
      abstract_batch: likewise of a batch, without reference log-probs.

    Raises:
      CipoError: rows too short for the longest sequence, or not divisible over the devices.
    """

    def __init__(
        self,
        policy: Policy,
        token_loss: TokenLoss,
        optimizer: optax.GradientTransformation,
        stream_weights: tuple[float, float],
        plan: BatchPlan,
    ) -> None:
        self._mesh, self._token_loss = policy.mesh, token_loss
        shape = _batch_shape(policy, plan)
        share = shares_prompts(policy.mesh) if plan.share_prompts is None else plan.share_prompts
        self.abstract_batch = abstract_batch(
            shape, policy.mesh, *sharding.batch_axes(policy.mesh), share
        )
        self._pack_minibatch = functools.partial(
            packing.make_train_batch,
            microbatches=shape[1],
            microbatch_rows=shape[2],
            row_tokens=shape[3],
            zero_advantages_learn=token_loss.needs_zero_advantages,
            normaliser=token_loss.aggregation.normaliser,
            share_prompts=share,
        )
        self._minibatches = plan.minibatches

        params = model.abstract_params(policy.model)
        param_shardings = model.param_shardings(policy.model, policy.mesh)
        opt_shardings = sharding.optimizer_shardings(
            optimizer, params, param_shardings, policy.mesh
        )
        self._replicated = sharding.replicated(policy.mesh)
        shardings = TrainState(self._replicated, param_shardings, opt_shardings)
        shapes = TrainState(
            step=jax.ShapeDtypeStruct((), np.int32),
            params=params,
            opt_state=jax.eval_shape(optimizer.init, params),
        )
        self.abstract: TrainState = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        )
        self._init_optimizer = jax.jit(optimizer.init, out_shardings=opt_shardings)
        self._compiled = make_train_step(
            policy.score, token_loss, optimizer, stream_weights, shardings, plan.epochs
        )
        self._scorer = make_reference_scorer(policy.score)
        self._products = make_gradient_products(policy.score, token_loss, self._replicated)

    def init(self, params: Params) -> TrainState:
        """`params` themselves, with a fresh optimiser."""
        step = jax.device_put(np.zeros((), np.int32), self._replicated)
        return TrainState(step=step, params=params, opt_state=self._init_optimizer(params))

    def pack(
        self, members: list[packing.TrainSequence], rng: np.random.Generator | None = None
    ) -> TrainBatch:
        """Training sequences as a batch of `step`'s static shape, in NumPy arrays.

        Args:
          rng: deals groups to minibatches, where there are several.
        """
        return packing.make_minibatches(members, self._minibatches, rng, self._pack_minibatch)

    def learning_microbatches(self, batch: TrainBatch) -> np.ndarray:
        """[U, M] bool, the microbatches with a gradient; others are scored for metrics alone."""
        return np.any(learns(batch, self._token_loss), axis=(2, 3))

    def step(self, state: TrainState, batch: TrainBatch) -> tuple[TrainState, Metrics]:
        """The compiled update, on a batch of NumPy arrays; `state` is donated."""
        return self._compiled(state, self._put(batch))

    def lower(self, with_reference: bool = False) -> jax.stages.Lowered:
        """The update's program from shapes alone; nothing is allocated.

        Args:
          with_reference: batches hold reference log-probs.
        """
        batch = self.abstract_batch
        if with_reference:
            batch = batch._replace(ref_logprobs=batch.old_logprobs)
        with jax.set_mesh(self._mesh):
            return cast(Any, self._compiled).lower(self.abstract, batch)  # it is jitted

    def reference_logprobs(self, params: Params, batch: TrainBatch) -> jax.Array:
        """[U, M, R, T] the log-probs of a batch's tokens under other parameters."""
        return self._scorer(params, self._put(batch))

    def gradient_stats(
        self,
        params: Params,
        members: Mapping[str, list[packing.TrainSequence]],
        reference: Params | None = None,
    ) -> dict[str, float]:
        """Norms and cosines of the gradients of a batch's parts, see `rl/transfer`.

        Args:
          members: the sequences of each of `PARTS`, as far as it has any.
          reference: parameters of the KL term; None without one.
        """
        rng = np.random.default_rng(0)  # into which minibatch a group goes is of no account here
        parts = self._put(stack_parts([self.pack(members.get(part, []), rng) for part in PARTS]))
        if reference is not None:
            parts = parts._replace(ref_logprobs=self._scorer(reference, parts))
        return gradient_measures(jax.device_get(self._products(params, parts)))

    @property
    def sizes(self) -> StateSizes:
        weights = jax.tree.leaves(self.abstract.params)
        saved = [*weights, *jax.tree.leaves(self.abstract.opt_state)]
        return StateSizes(
            parameters=sum(x.size for x in weights),
            weight_bytes=sum(x.size * x.dtype.itemsize for x in weights),
            checkpoint_bytes=sum(x.size * x.dtype.itemsize for x in saved),
            device_bytes=bytes_per_device(saved),
        )

    def _put(self, batch: TrainBatch) -> TrainBatch:
        return put_batch(batch, self._mesh, *sharding.batch_axes(self._mesh))


def shares_prompts(mesh: Mesh) -> bool:
    """Whether completions of one prompt share it in an update's rows: on CPUs, whose attention is
    the portable one. The kernels of accelerators know no second segment."""
    return bool(mesh.devices.flat[0].platform == "cpu")


def not_finite(metrics: Mapping[str, Any]) -> str | None:
    """The name of the first of an update's metrics that show whether its state may be saved (loss,
    gradient, parameters) and is not finite; None if all are."""
    names = ("loss/total", "grad_norm", "param_norm")
    return next((name for name in names if not np.isfinite(metrics[name])), None)


def bytes_per_device(tree: Any) -> int:
    """Bytes of abstract arrays on one device, by their shardings."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def make_policy_update(config: Config, policy: Policy, schedule: optax.Schedule) -> Update:
    """The RL update of a run: the joint objective of both streams (paper: L_base + lambda
    L_corr)."""
    return Update(
        policy,
        policy_loss(config.algorithm, policy.longest_completion),
        configured_optimizer(config.optimizer, schedule, policy.model.param_dtype, config.seed),
        stream_weights=(1.0, config.correction.weight),
        plan=policy_plan(config),
    )


def configured_optimizer(
    optimizer: Optimizer, schedule: optax.Schedule, param_dtype: str, seed: int
) -> optax.GradientTransformation:
    """The optimiser of a run, in each of its phases, with the phase's own learning rates.

    Args:
      seed: of the run; parameters of 16 bits are rounded at random.
    """
    return make_optimizer(
        schedule,
        optimizer.b1,
        optimizer.b2,
        optimizer.weight_decay,
        optimizer.grad_clip,
        optimizer.name,
        optimizer.mu_dtype or None,
        param_dtype,
        functools.partial(random_key, seed),
    )


def policy_plan(config: Config) -> BatchPlan:
    """The batch of an RL step."""
    batch, k = config.batch, config.correction
    return BatchPlan(
        sequences=(config.num_attempts, config.num_corrections),
        microbatch_rows=batch.microbatch_rows,
        row_tokens=batch.row_tokens,
        group_sizes=(config.rollout.group_size, k.group_size * k.wrong_group_multiple),
        minibatches=batch.minibatches,
        epochs=batch.epochs,
    )


def policy_loss(algorithm: Algorithm, longest_completion: int) -> PolicyLoss:
    """The RL objective's settings."""
    return PolicyLoss(
        clip_low=algorithm.clip_low,
        clip_high=algorithm.clip_high,
        kl_coef=algorithm.kl_coef,
        kl_estimator=algorithm.kl_estimator,
        entropy_coef=algorithm.entropy_coef,
        surrogate=algorithm.surrogate,
        ratio=algorithm.ratio,
        dual_clip=algorithm.dual_clip,
        old_logprobs=algorithm.old_logprobs,
        tis_cap=algorithm.tis_cap,
        aggregation=Aggregation(algorithm.aggregation, longest_completion),
    )


def _batch_shape(policy: Policy, plan: BatchPlan) -> tuple[int, int, int, int]:
    """[U, M, R, T] of a batch.

    Raises:
      CipoError: as `Update`.
    """
    R, T = plan.microbatch_rows, plan.row_tokens
    check_row_tokens(T, policy.mesh.shape[sharding.TOKENS], "config.batch.row_tokens")
    shards = sharding.row_count(policy.mesh)
    if R % shards:
        raise CipoError(
            f"config.batch.microbatch_rows: got {R}, wanted a multiple of {shards}, the product "
            "of mesh.data and mesh.fsdp, over which rows are split"
        )
    return plan.minibatches, packing.microbatch_count(rows_needed(policy, plan), R), R, T


def rows_needed(policy: Policy, plan: BatchPlan) -> int:
    """Rows that hold a minibatch of the plan, whatever the lengths of its sequences.

    Raises:
      CipoError: the rows are too short for the longest sequence.
    """
    streams = [
        (count, group_size, prompt + policy.longest_completion)
        for count, group_size, prompt in zip(
            plan.sequences,
            plan.group_sizes,
            (policy.longest_prompt, policy.longest_correction_prompt),
            strict=True,
        )
        if count
    ]
    longest = max((length for _, _, length in streams), default=0)
    if longest > plan.row_tokens:
        raise CipoError(
            f"config.batch.row_tokens: got {plan.row_tokens}, wanted 0 (derived) or at least "
            f"{longest}, the longest prompt plus completion that can occur"
        )
    return sum(
        packing.row_capacity(
            packing.minibatch_sequences(count, group_size, plan.minibatches),
            length,
            plan.row_tokens,
        )
        for count, group_size, length in streams
    )
