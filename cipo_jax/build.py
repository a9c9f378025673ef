"""From the config to the parts of a run: mesh, model, tokenizer, prompts, sampler, verifier pool.

Every mode of the program builds the same parts here, so that training and evaluation cannot
disagree about them. Nothing is decided about steps and order; that is the caller's.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from cipo_jax.attempts import MakeAttempts, make_attempter
from cipo_jax.config import Config
from cipo_jax.data import batching, prompts
from cipo_jax.data.datasets import ProblemSource, open_problems
from cipo_jax.data.tokenizer import Tokenizer, load_tokenizer
from cipo_jax.policy import hf_config, hf_weights, model, sharding
from cipo_jax.policy.model import ModelConfig, Params
from cipo_jax.rl.aggregate import Aggregation
from cipo_jax.rl.losses import PolicyLoss, TokenLoss
from cipo_jax.rl.optimizer import make_optimizer
from cipo_jax.rl.train_step import (
    Metrics,
    Score,
    TrainState,
    make_reference_scorer,
    make_stream_gradient_stats,
    make_train_step,
    put_batch,
)
from cipo_jax.sampling.decode import DecodeSettings
from cipo_jax.sampling.engine import make_sampler, prompt_buckets
from cipo_jax.types import Attempt, CipoError, Demonstration, Problem, Prompt, TrainBatch
from cipo_jax.verifiers.pool import VerifierPool


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of. `longest_*` bound lengths in tokens, for static shapes."""

    mesh: Mesh
    model: ModelConfig
    tokenizer: Tokenizer
    base_prompt: Callable[[Problem], Prompt]
    correction_prompt: Callable[[Attempt], Prompt]
    demonstration_tokens: Callable[[Demonstration], tuple[np.ndarray, np.ndarray]]
    longest_prompt: int
    longest_correction_prompt: int
    score: Score
    attempt: MakeAttempts
    isolation: str  # how generated programs are kept from the machine; "" if none are run


@dataclasses.dataclass(frozen=True)
class Update:
    """An optimiser's side of the run.

    Attributes:
      abstract: the TrainState's shapes, dtypes and shardings.
      init: parameters -> TrainState with a fresh optimiser; takes the parameters over.
      step: the compiled update, on a batch of NumPy arrays.
      pack: training sequences -> the batch of `step`'s static shape; with several minibatches it
        also takes the generator that deals groups to them.
      reference_logprobs: the log-probs of a batch's tokens under other parameters.
      gradient_stats: norms of the streams' gradients on a batch and their cosine.
    """

    abstract: TrainState
    init: Callable[[Params], TrainState]
    step: Callable[[TrainState, TrainBatch], tuple[TrainState, Metrics]]
    pack: Callable[..., TrainBatch]
    reference_logprobs: Callable[[Params, TrainBatch], jax.Array]
    gradient_stats: Callable[[Params, TrainBatch], Metrics]


@contextlib.contextmanager
def open_parts(config: Config) -> Iterator[Parts]:
    """Builds the parts; mesh and verifier pool live as long as the context.

    Raises:
      CipoError: whatever in the config cannot work with the files and devices at hand.
    """
    c = config
    if jax.process_count() > 1:
        raise CipoError(
            f"started on {jax.process_count()} hosts, wanted one: this version runs on the devices "
            "of a single host"
        )
    if c.model.source and not Path(c.model.source).is_dir():
        raise CipoError(
            f"config.model.source: got {c.model.source!r}, wanted an existing directory in Hugging "
            "Face format; `hf download <model> --local-dir <directory>` makes one"
        )
    mesh = sharding.make_mesh(c.mesh.data, c.mesh.fsdp, c.mesh.tensor)
    tokenizer = load_tokenizer(c.data.tokenizer or c.model.source)
    model_config = _model_config(c, tokenizer)
    longest_correction = c.data.max_prompt_tokens
    if c.correction.weight > 0 or c.eval.corrected_attempts or c.cold_start.max_steps:
        longest_correction = prompts.correction_prompt_budget(
            tokenizer,
            c.data.correction_template,
            c.data.chat_template,
            c.data.max_prompt_tokens,
            c.data.max_attempt_tokens,
        )
    longest = longest_correction + c.data.max_completion_tokens
    if longest > model_config.max_positions:
        raise CipoError(
            f"config.data: the longest prompt ({longest_correction} tokens, with max_prompt_tokens "
            f"and max_attempt_tokens) plus max_completion_tokens = {c.data.max_completion_tokens} "
            f"is {longest} tokens, but the model has {model_config.max_positions} positions"
        )
    rules = sharding.logical_rules(mesh, model_config.axis_sizes)
    sample = make_sampler(
        model_config,
        mesh,
        DecodeSettings(
            max_new_tokens=c.data.max_completion_tokens,
            chunk=c.sampling.chunk,
            temperature=c.sampling.temperature,
            stop_ids=tokenizer.stop_ids,
        ),
        c.sampling.slots,
        prompt_buckets(c.sampling.prompt_buckets, longest_correction),
    )
    with (
        jax.set_mesh(mesh),
        VerifierPool(
            c.verifier.kind,
            c.verifier.workers,
            c.verifier.timeout_seconds,
            allow_unsandboxed_code=c.verifier.allow_unsandboxed_code,
        ) as pool,
    ):
        yield Parts(
            mesh=mesh,
            model=model_config,
            tokenizer=tokenizer,
            base_prompt=lambda problem: prompts.base_prompt(
                problem,
                tokenizer,
                c.data.prompt_template,
                c.data.chat_template,
                c.data.max_prompt_tokens,
            ),
            correction_prompt=lambda anchor: prompts.correction_prompt(
                anchor,
                tokenizer,
                c.data.correction_template,
                c.data.chat_template,
                c.data.max_attempt_tokens,
                c.correction.show_failed_test,
            ),
            demonstration_tokens=lambda demo: prompts.demonstration_tokens(
                demo,
                tokenizer,
                prompt_template=c.data.prompt_template,
                correction_template=c.data.correction_template,
                chat=c.data.chat_template,
                max_prompt_tokens=c.data.max_prompt_tokens,
                max_attempt_tokens=c.data.max_attempt_tokens,
                max_completion_tokens=c.data.max_completion_tokens,
            ),
            longest_prompt=c.data.max_prompt_tokens,
            longest_correction_prompt=longest_correction,
            score=functools.partial(
                _score, model_config, rules=rules, temperature=c.sampling.temperature
            ),
            attempt=make_attempter(sample, pool, tokenizer),
            isolation=pool.about,
        )


def make_update(
    config: Config,
    parts: Parts,
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
    devices = sharding.row_count(parts.mesh)
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
            (parts.longest_prompt, parts.longest_correction_prompt),
            strict=True,
        )
        if count
    )
    microbatches = batching.microbatch_count(rows, R)

    params = model.abstract_params(parts.model)
    param_shardings = model.param_shardings(parts.model, parts.mesh)
    opt_shardings = sharding.optimizer_shardings(optimizer, params, param_shardings, parts.mesh)
    replicated = sharding.replicated(parts.mesh)
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
        parts.score, token_loss, optimizer, stream_weights, shardings, epochs
    )

    def init(params: Params) -> TrainState:
        step = jax.device_put(np.zeros((), np.int32), replicated)
        return TrainState(step=step, params=params, opt_state=init_optimizer(params))

    def step(state: TrainState, batch: TrainBatch) -> tuple[TrainState, Metrics]:
        return compiled(state, put_batch(batch, parts.mesh, sharding.ROWS))

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

    scorer = make_reference_scorer(parts.score)

    def reference_logprobs(params: Params, batch: TrainBatch) -> jax.Array:
        return scorer(params, put_batch(batch, parts.mesh, sharding.ROWS))

    statistics = make_stream_gradient_stats(parts.score, token_loss)

    def gradient_stats(params: Params, batch: TrainBatch) -> Metrics:
        return statistics(params, put_batch(batch, parts.mesh, sharding.ROWS))

    return Update(
        abstract=abstract,
        init=init,
        step=step,
        pack=pack,
        reference_logprobs=reference_logprobs,
        gradient_stats=gradient_stats,
    )


def _score(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    *,
    rules: sharding.Rules,
    temperature: float,
) -> tuple[jax.Array, jax.Array]:
    return model.token_logprobs(config, params, tokens, positions, segments, temperature, rules)


def _model_config(config: Config, tokenizer: Tokenizer) -> ModelConfig:
    """The architecture: that of `model.source`, or the config's own sizes."""
    m = config.model
    if m.source:
        loaded = hf_config.config_from_hf(
            Path(m.source),
            param_dtype=m.param_dtype,
            compute_dtype=m.compute_dtype,
            remat=m.remat,
        )
        if tokenizer.vocab_size > loaded.vocab_size:
            raise CipoError(
                f"config.data.tokenizer: {config.data.tokenizer or m.source!r} has "
                f"{tokenizer.vocab_size} tokens, but the model in {m.source!r} embeds only "
                f"{loaded.vocab_size}; use the tokenizer that belongs to the model"
            )
        return loaded
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        num_layers=m.num_layers,
        d_model=m.d_model,
        num_heads=m.num_heads,
        num_kv_heads=m.num_kv_heads,
        head_dim=m.head_dim,
        mlp_dim=m.mlp_dim,
        rope_theta=m.rope_theta,
        qk_norm=m.qk_norm,
        tie_embeddings=m.tie_embeddings,
        param_dtype=m.param_dtype,
        compute_dtype=m.compute_dtype,
        remat=m.remat,
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


def make_policy_update(
    config: Config, parts: Parts, schedule: optax.Schedule, num_anchors: int
) -> Update:
    """The RL update: the joint objective of both streams."""
    o, loss = config.optimizer, policy_loss(config)
    group_sizes = (config.rollout.group_size, config.correction.group_size)
    return make_update(
        config,
        parts,
        loss,
        make_optimizer(
            schedule, o.b1, o.b2, o.weight_decay, o.grad_clip, o.name, o.mu_dtype or None
        ),
        stream_weights=(1.0, config.correction.weight),
        sequences=(
            config.rollout.problems_per_step * group_sizes[0],
            num_anchors * group_sizes[1],
        ),
        group_sizes=group_sizes,
        minibatches=config.batch.minibatches,
        epochs=config.batch.epochs,
    )


def open_split(config: Config, split: str) -> ProblemSource:
    """The problems to train on ("train"), to watch the cold start with ("dev": of the training
    source, apart from "train" where it can be), or to evaluate on ("test")."""
    d = config.data
    return open_problems(
        d.eval if split == "test" else d.train,
        config.seed,
        split,
        min_operations=d.min_operations,
        max_operations=d.max_operations,
    )


def fresh_params(config: Config, parts: Parts) -> Params:
    """Parameters before any training: those of `model.source`, or random ones from the seed."""
    if config.model.source:
        return hf_weights.load_params(Path(config.model.source), parts.model, parts.mesh)
    return model.init_params(parts.model, jax.random.key(config.seed), parts.mesh)
