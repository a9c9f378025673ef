"""The compiled update: the transformer's against plain NumPy, on one device and on a mesh; then
invariances of the step itself, with a policy that compiles in no time."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models

from cipo_jax.data.batching import TrainSequence, make_train_batch
from cipo_jax.policy import model, sharding
from cipo_jax.rl import train_step as ts
from cipo_jax.types import BASE, CORRECTION, STREAMS, TrainBatch

VOCAB, T = 16, 24  # T: tokens of a row
CONFIG = dataclasses.replace(
    tiny_models.TINY_CONFIG, vocab_size=VOCAB, num_layers=2, d_model=16, head_dim=8, mlp_dim=24
)
LOW, HIGH, WEIGHT = 0.2, 0.3, 0.7
LOSS = ts.PolicyLoss(LOW, HIGH)


@pytest.fixture(scope="module", autouse=True)
def compile_fast():
    """These programs run for milliseconds; optimising them takes seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# Policies.

transformer = functools.partial(model.token_logprobs, CONFIG)


@functools.cache
def transformer_params() -> model.Params:
    return tiny_models.tiny_params(CONFIG)


def bigram(params: Any, tokens: jax.Array, positions: jax.Array, segments: jax.Array):
    """A policy that sees the previous token only: log-probs and entropies [R, T]."""
    del segments
    table = jax.nn.log_softmax(params["embedding"] @ params["head"])
    rows = table[jnp.roll(tokens, 1, axis=1)]
    chosen = jnp.take_along_axis(rows, tokens[..., None], axis=-1)[..., 0]
    entropy = -jnp.sum(jnp.exp(rows) * rows, axis=-1)
    has_context = positions > 0
    return jnp.where(has_context, chosen, 0.0), jnp.where(has_context, entropy, 0.0)


def bigram_params() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {
        "embedding": random.normal(size=(VOCAB, 4)).astype(np.float32),
        "head": random.normal(size=(4, VOCAB)).astype(np.float32),
    }


# Sequences and batches.


def sequences(base: int = 8, correction: int = 8) -> list[TrainSequence]:
    """Random ones, without old log-probs; in the correction stream prompts are longer."""
    random = np.random.default_rng(0)

    def one(stream: int) -> TrainSequence:
        prompt = random.integers(0, VOCAB, random.integers(1, 5) + 2 * stream)
        completion = random.integers(0, VOCAB, random.integers(1, 8))
        advantage = float(random.normal())
        return TrainSequence(prompt, completion, np.zeros(len(completion)), advantage, stream)

    return [one(BASE) for _ in range(base)] + [one(CORRECTION) for _ in range(correction)]


def one_per_row(members: Sequence[TrainSequence]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens, positions, segments [len(members), T] without packing."""
    tokens = np.zeros((len(members), T), np.int32)
    segments = np.zeros_like(tokens)
    for row, s in enumerate(members):
        tokens[row, : len(s)] = [*s.prompt, *s.completion]
        segments[row, : len(s)] = 1
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), tokens.shape)
    return tokens, positions, segments


def scored(score: Any, params: Any, members: Sequence[TrainSequence]) -> list[Any]:
    """(logprobs, entropies) of each completion, [C] float64, scored one sequence per row."""
    both = jax.jit(score)(params, *one_per_row(members))
    return [
        tuple(np.asarray(x[row, len(s.prompt) : len(s)], np.float64) for x in both)
        for row, s in enumerate(members)
    ]


def sampled(
    score: Any, params: Any, members: Sequence[TrainSequence], shift: float = 0.0
) -> list[TrainSequence]:
    """With old log-probs of the policy itself, moved by up to `shift`: 0 is on-policy."""
    random = np.random.default_rng(1)
    return [
        dataclasses.replace(
            s, old_logprobs=lp + shift * random.uniform(-1, 1, len(lp)).astype(np.float32)
        )
        for s, (lp, _) in zip(members, scored(score, params, members), strict=True)
    ]


def pack(members: Sequence[TrainSequence], microbatches: int = 2, rows: int = 4) -> TrainBatch:
    return make_train_batch(members, microbatches, rows, T)


def used_rows(batch: TrainBatch) -> np.ndarray:
    return batch.segments.any(axis=-1)


# Updates.


class Recorded(NamedTuple):
    """An optimiser state that holds the last gradient."""

    grads: Any


def recorder() -> optax.GradientTransformation:
    """Passes the gradient on and remembers it."""
    return optax.GradientTransformation(
        lambda params: Recorded(jax.tree.map(jnp.zeros_like, params)),
        lambda grads, state, params=None: (grads, Recorded(grads)),
    )


ADAMW = optax.chain(
    recorder(), ts.make_optimizer(optax.constant_schedule(1e-3), 0.9, 0.95, 0.0, 1.0)
)


@functools.cache
def step_of(score: Any, token_loss: Any = LOSS, weights: tuple[float, float] = (1.0, WEIGHT)):
    return ts.make_train_step(score, token_loss, ADAMW, weights)


class Result(NamedTuple):
    params: Any
    grads: Any
    metrics: dict[str, float]
    step: int


def update(step: Any, params: Any, *batches: TrainBatch) -> Result:
    """The state after one update per batch; the gradient and metrics of the last."""
    params = jax.tree.map(jnp.array, params)  # the step takes its arguments over
    state = ts.TrainState(jnp.zeros((), jnp.int32), params, ADAMW.init(params))
    for batch in batches:
        state, metrics = step(state, batch)
    state, metrics = jax.device_get((state, metrics))
    return Result(state.params, state.opt_state[0].grads, metrics, int(state.step))


def update_bigram(members: Sequence[TrainSequence], *shape: int, **how: Any) -> Result:
    return update(step_of(bigram, **how), bigram_params(), pack(members, *shape))


def assert_close(got: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Leaf by leaf, relative to the largest entry of the leaf."""

    def compare(a: np.ndarray, b: np.ndarray) -> None:
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3))

    jax.tree.map(compare, got, wanted)


def assert_same_bits(got: Any, wanted: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def off_policy(score: Any = bigram, params: Any = None) -> list[TrainSequence]:
    return sampled(score, bigram_params() if params is None else params, sequences(), shift=0.5)


# By double loop.


def by_double_loop(
    members: Sequence[TrainSequence], scores: Sequence[Any]
) -> tuple[dict[str, float], list[np.ndarray]]:
    """The metrics, and the derivative of the total loss by the log-prob of each token."""
    metrics: dict[str, float] = {"loss/total": 0.0}
    slopes = [np.zeros(len(s.completion)) for s in members]
    for stream, name in enumerate(STREAMS):
        count = sum(len(s.completion) for s in members if s.stream == stream)
        sums = dict.fromkeys(
            ("loss", "entropy", "clip_frac", "sampler_gap", "advantage_abs", "ratio_max"), 0.0
        )
        for s, (logprobs, entropies), slope in zip(members, scores, slopes, strict=True):
            if s.stream != stream:
                continue
            for t in range(len(s.completion)):
                ratio = math.exp(logprobs[t] - s.old_logprobs[t])
                bound = 1 + HIGH if s.advantage > 0 else 1 - LOW
                clipped = ratio > bound if s.advantage > 0 else ratio < bound
                sums["loss"] -= (bound if clipped else ratio) * s.advantage
                sums["entropy"] += entropies[t]
                sums["clip_frac"] += clipped
                sums["sampler_gap"] += abs(logprobs[t] - s.old_logprobs[t])
                sums["advantage_abs"] += abs(s.advantage)
                sums["ratio_max"] = max(sums["ratio_max"], ratio)
                weight = (1.0, WEIGHT)[stream] / count
                slope[t] = 0.0 if clipped else -weight * ratio * s.advantage
        metrics[f"{name}/tokens"] = count
        metrics[f"{name}/ratio_max"] = sums.pop("ratio_max")
        metrics[f"loss/{name}"] = sums.pop("loss") / count
        metrics |= {f"{name}/{key}": value / count for key, value in sums.items()}
        metrics["loss/total"] += (1.0, WEIGHT)[stream] * metrics[f"loss/{name}"]
    return metrics, slopes


@functools.cache
def transformer_gradient():
    """(params, rows, slopes [n, T]) -> gradient of sum(slopes * logprobs), nothing packed."""
    return jax.jit(jax.grad(lambda p, rows, slopes: jnp.sum(slopes * transformer(p, *rows)[0])))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_loss_metrics_and_gradient_equal_the_double_loop(shift: float) -> None:
    params = transformer_params()
    members = sampled(transformer, params, sequences(), shift)
    batch = pack(members)
    assert batch.segments.max() >= 3 and set(batch.stream[0].tolist()) == {BASE, CORRECTION}
    result = update(step_of(transformer), params, batch)

    scores = scored(transformer, params, members)
    wanted, slopes = by_double_loop(members, scores)
    metrics = dict(result.metrics)
    grad_norm = metrics.pop("grad_norm")
    assert metrics == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert (wanted["base/clip_frac"] > 0.1) == (shift > 0)

    if shift == 0:  # on-policy, the gradient is REINFORCE's: -A per token, over its stream's count
        counts = [wanted[f"{name}/tokens"] for name in STREAMS]
        slopes = [
            np.full(len(s.completion), -(1.0, WEIGHT)[s.stream] * s.advantage / counts[s.stream])
            for s in members
        ]
    padded = np.zeros((len(members), T), np.float32)
    for row, (s, slope) in enumerate(zip(members, slopes, strict=True)):
        padded[row, len(s.prompt) : len(s)] = slope
    gradient = transformer_gradient()(params, one_per_row(members), padded)
    assert_close(result.grads, gradient, 1e-4)
    assert grad_norm == pytest.approx(float(optax.global_norm(gradient)), rel=1e-4)


def test_zero_advantages_leave_the_parameters_as_they_are() -> None:
    params = transformer_params()
    members = [dataclasses.replace(s, advantage=0.0) for s in off_policy(transformer, params)]
    result = update(step_of(transformer), params, pack(members), pack(members))
    assert_same_bits(result.params, jax.device_get(params))
    assert (result.metrics["grad_norm"], result.step) == (0, 2)


def test_weight_zero_is_grpo_to_the_bit() -> None:
    params = transformer_params()
    members = off_policy(transformer, params)
    grpo = step_of(transformer, weights=(1.0, 0.0))
    both, base_only = pack(members), pack([s for s in members if s.stream == BASE])
    assert used_rows(both).sum() > used_rows(base_only).sum()
    with_corrections = update(grpo, params, both, both)
    assert_same_bits(with_corrections.params, update(grpo, params, base_only, base_only).params)
    # The corrections have a loss of their own, and with a weight they would act.
    assert with_corrections.metrics["correction/tokens"] > 0
    acting = update(step_of(transformer), params, both, both).params
    assert np.abs(acting["embedding"] - with_corrections.params["embedding"]).max() > 1e-4


def test_updates_do_not_depend_on_the_mesh() -> None:
    params = transformer_params()
    batch = pack(off_policy(transformer, params))
    wanted = update(step_of(transformer), params, batch, batch)

    mesh = sharding.make_mesh(2, 2, 2)
    shardings = model.param_shardings(CONFIG, mesh)
    state_shardings = ts.TrainState(
        step=sharding.replicated(mesh),
        params=shardings,
        opt_state=sharding.optimizer_shardings(
            ADAMW, model.abstract_params(CONFIG), shardings, mesh
        ),
    )
    rules = sharding.logical_rules(mesh, CONFIG.axis_sizes)
    step = ts.make_train_step(
        functools.partial(transformer, rules=rules), LOSS, ADAMW, (1.0, WEIGHT), state_shardings
    )
    with jax.set_mesh(mesh):
        state = jax.device_put(
            ts.TrainState(np.zeros((), np.int32), params, ADAMW.init(params)), state_shardings
        )
        rows = jax.device_put(batch, ts.batch_shardings(mesh, sharding.ROWS))
        assert {x.data.shape for x in rows.tokens.addressable_shards} == {(2, 1, T)}
        for _ in range(2):
            state, metrics = step(state, rows)
    gate = state.params["layers"]["gate"]
    assert gate.addressable_shards[0].data.size * 4 == gate.size
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), wanted.params, params)
    assert min(jax.tree.leaves(moved)) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
        jax.device_get(state.params),
        wanted.params,
    )
    assert jax.device_get(metrics) == pytest.approx(wanted.metrics, rel=1e-4, abs=1e-5)


# Invariances.


@pytest.mark.parametrize("shape", [(2, 4), (8, 1)])
def test_microbatching_changes_nothing(shape: tuple[int, int]) -> None:
    members = off_policy()
    whole, split = update_bigram(members, 1, 8), update_bigram(members, *shape)
    assert_close(split.grads, whole.grads)
    assert_close(split.params, whole.params)
    assert split.metrics == pytest.approx(whole.metrics, rel=1e-5, abs=1e-6)


def test_empty_microbatches_change_nothing_to_the_bit() -> None:
    members = off_policy()
    assert_same_bits(update_bigram(members, 5, 4), update_bigram(members, 2, 4))


def test_padding_rows_and_longer_rows_change_nothing() -> None:
    members = off_policy()
    wanted = update_bigram(members, 1, 8)
    assert_close(update_bigram(members, 1, 12).grads, wanted.grads)
    longer = update(step_of(bigram), bigram_params(), make_train_batch(members, 1, 8, 2 * T))
    assert_close(longer.grads, wanted.grads)


def test_what_lies_off_the_completions_does_not_matter() -> None:
    batch = pack(off_policy())
    random = np.random.default_rng(2)

    def soil(values: np.ndarray) -> np.ndarray:
        return np.where(batch.loss_mask > 0, values, random.normal(size=values.shape)).astype("f")

    soiled = batch._replace(
        advantages=soil(batch.advantages), old_logprobs=soil(batch.old_logprobs)
    )
    step = step_of(bigram)
    assert_same_bits(
        update(step, bigram_params(), soiled), update(step, bigram_params(), batch)
    )


def test_the_order_of_sequences_does_not_matter() -> None:
    members = off_policy()
    shuffled = [members[i] for i in np.random.default_rng(4).permutation(len(members))]
    assert (pack(shuffled).tokens != pack(members).tokens).any()
    result, wanted = update_bigram(shuffled), update_bigram(members)
    assert_close(result.grads, wanted.grads)
    assert result.metrics == pytest.approx(wanted.metrics, rel=1e-5, abs=1e-6)


def test_each_stream_has_its_own_normaliser() -> None:
    members = off_policy()
    corrections = [s for s in members if s.stream == CORRECTION]
    once, thrice = (
        update_bigram(members + n * corrections, 4, 4, token_loss=LOSS) for n in (0, 2)
    )
    # Three times the correction tokens: the same mean over them, and the base stream as it was.
    assert thrice.metrics["correction/tokens"] == 3 * once.metrics["correction/tokens"]
    assert_close(thrice.grads, once.grads)
    # Some of them twice: the base gradient is still the same.
    base = [
        update_bigram(members + corrections[:n], 4, 4, weights=(1.0, 0.0)).grads for n in (0, 3)
    ]
    assert_close(base[1], base[0])


def test_the_joint_gradient_is_the_weighted_sum_of_the_streams() -> None:
    members = off_policy()
    joint, base, correction = (
        update_bigram(members, weights=weights).grads
        for weights in ((1.0, WEIGHT), (1.0, 0.0), (0.0, 1.0))
    )
    assert_close(joint, jax.tree.map(lambda b, c: b + WEIGHT * c, base, correction))


def test_a_stream_without_tokens_is_nan_in_the_metrics_alone() -> None:
    result = update_bigram([s for s in off_policy() if s.stream == BASE])
    missing = {k for k, v in result.metrics.items() if np.isnan(v)}
    assert missing == {
        k
        for k in result.metrics
        if (k.startswith("correction/") or k == "loss/correction") and k != "correction/tokens"
    }
    assert "correction/ratio_max" in missing and result.metrics["correction/tokens"] == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.params))


def test_demonstration_loss_is_the_mean_negative_log_likelihood() -> None:
    members = [s for s in off_policy() if s.stream == BASE]
    result = update_bigram(members, token_loss=ts.demonstration_loss)
    scores = scored(bigram, bigram_params(), members)
    nll = -np.concatenate([logprobs for logprobs, _ in scores]).mean()
    assert result.metrics["loss/base"] == pytest.approx(nll, rel=1e-5)
    assert result.metrics["loss/total"] == pytest.approx(nll, rel=1e-5)
    again = update_bigram(
        [dataclasses.replace(s, advantage=-3.0) for s in members],
        token_loss=ts.demonstration_loss,
    )
    assert_same_bits(again.params, result.params)


def test_kl_to_the_reference_is_added_with_its_coefficient() -> None:
    members = off_policy()
    reference = {**bigram_params(), "head": bigram_params()["head"][:, ::-1].copy()}
    batch = pack(members, 4, 4)
    ref_logprobs = ts.make_reference_scorer(bigram)(reference, batch)
    assert not ref_logprobs[~used_rows(batch)].any()
    batch = batch._replace(ref_logprobs=ref_logprobs)
    results = [
        update(step_of(bigram, ts.PolicyLoss(LOW, HIGH, coef)), bigram_params(), batch).metrics
        for coef in (0.0, 0.1)
    ]
    pairs = zip(
        scored(bigram, bigram_params(), members), scored(bigram, reference, members), strict=True
    )
    gaps = [theirs[0] - ours[0] for ours, theirs in pairs]
    for stream, name in enumerate(STREAMS):
        gap = np.concatenate([g for s, g in zip(members, gaps, strict=True) if s.stream == stream])
        kl = (np.exp(gap) - 1 - gap).mean()
        assert results[1][f"{name}/kl"] == pytest.approx(kl, rel=1e-4)
        added = results[1][f"loss/{name}"] - results[0][f"loss/{name}"]
        assert added == pytest.approx(0.1 * kl, rel=1e-3)


# The optimiser.


def test_norms_and_biases_are_not_decayed() -> None:
    params = {
        "embedding": np.ones((2, 2)),
        "layers": {"q": np.ones((2, 2)), "q_bias": np.ones(2), "q_norm": {"scale": np.ones(2)}},
        "final_norm": {"scale": np.ones(2)},
    }
    optimizer = ts.make_optimizer(optax.constant_schedule(0.1), 0.9, 0.95, 0.5, 1.0)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    changed = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(x.mean())
        for path, x in jax.tree_util.tree_leaves_with_path(updates)
        if np.any(x)
    }
    assert changed == pytest.approx({"embedding": -0.05, "layers/q": -0.05})


def test_gradients_are_clipped_by_their_global_norm() -> None:
    params = {"a": np.zeros(3), "b": np.zeros(4)}
    optimizer = ts.make_optimizer(optax.constant_schedule(0.1), 0.0, 0.0, 0.0, 0.5)
    gradient = {"a": np.full(3, 30.0), "b": np.full(4, -40.0)}
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    moment = optax.tree.get(state, "mu")
    assert float(optax.global_norm(moment)) == pytest.approx(0.5, rel=1e-5)


def test_warm_up_is_linear_and_then_constant() -> None:
    values = [float(ts.warmup_schedule(0.8, 4)(i)) for i in range(6)]
    assert values == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    for steps in (0, 1):
        assert [float(ts.warmup_schedule(0.8, steps)(i)) for i in (0, 5)] == pytest.approx([0.8] * 2)
