"""The compiled update: the transformer's against plain NumPy, on one device and on a mesh; then
invariances of the step itself, with a policy that compiles in no time."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models
from forms import fast
from tiny_updates import (
    ADAMW,
    HIGH,
    LOSS,
    LOW,
    VOCAB,
    WEIGHT,
    T,
    assert_close,
    assert_same_bits,
    bigram,
    bigram_params,
    initial_state,
    off_policy,
    one_per_row,
    pack,
    sampled,
    scored,
    sequences,
    step_of,
    update,
    update_bigram,
    used_rows,
)

from cipo_jax.policy import model, sharding
from cipo_jax.rl import train_step as ts
from cipo_jax.rl.losses import PolicyLoss, demonstration_loss
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.types import BASE, CORRECTION, STREAMS

CONFIG = dataclasses.replace(
    tiny_models.TINY_CONFIG,
    vocab_size=VOCAB,
    num_layers=2,
    d_model=16,
    head_dim=8,
    mlp_dim=24,
    qk_norm=False,
    tie_embeddings=True,
)

# Policies.

transformer = functools.partial(model.token_logprobs, CONFIG)


@functools.cache
def transformer_params() -> model.Params:
    return jax.device_get(tiny_models.tiny_params(CONFIG))


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
            (
                *("loss", "entropy", "advantage_abs", "sampler_gap", "sampler_k3"),
                *("clip_frac", "clip_low_frac", "clip_high_frac", "ratio_mean", "ratio_max"),
            ),
            0.0,
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
                sums["clip_low_frac"] += clipped and ratio < 1
                sums["clip_high_frac"] += clipped and ratio > 1
                sums["sampler_gap"] += abs(logprobs[t] - s.old_logprobs[t])
                sums["sampler_k3"] += ratio - 1 - math.log(ratio)
                sums["ratio_mean"] += ratio
                sums["advantage_abs"] += abs(s.advantage)
                sums["ratio_max"] = max(sums["ratio_max"], ratio)
                weight = (1.0, WEIGHT)[stream] / count
                slope[t] = 0.0 if clipped else -weight * ratio * s.advantage
        metrics[f"{name}/tokens"] = metrics[f"{name}/trained_tokens"] = count
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
    assert batch.segments.max() >= 3 and set(batch.stream[0, 0].tolist()) == {BASE, CORRECTION}
    result = update(step_of(transformer), params, batch)

    scores = scored(transformer, params, members)
    wanted, slopes = by_double_loop(members, scores)
    metrics = dict(result.metrics)
    grad_norm, param_norm = metrics.pop("grad_norm"), metrics.pop("param_norm")
    assert param_norm == pytest.approx(float(jax.jit(optax.tree.norm)(result.params)), rel=1e-5)
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
    assert grad_norm == pytest.approx(float(jax.jit(optax.tree.norm)(gradient)), rel=1e-4)


@pytest.mark.slow
def test_a_shared_prompt_changes_no_metric_and_no_gradient() -> None:
    params = transformer_params()
    prompts = {(s.stream, s.group): np.resize(s.prompt, 9 + s.group) for s in sequences()}
    members = [dataclasses.replace(s, prompt=prompts[s.stream, s.group]) for s in sequences()]
    members = sampled(transformer, params, members, shift=0.5)
    # Whole groups are not learned from, as where all are wrong.
    members = [dataclasses.replace(s, advantage=s.advantage * (s.group > 0)) for s in members]
    shared, apart = (
        pack(members, 4, share_prompts=share, zero_advantages_learn=False)
        for share in (True, False)
    )
    assert used_rows(shared).sum() < used_rows(apart).sum()
    got, wanted = (update(step_of(transformer), params, batch) for batch in (shared, apart))
    assert got.metrics == pytest.approx(wanted.metrics, rel=1e-5, abs=1e-6)
    assert_close(got.grads, wanted.grads)


def test_zero_advantages_leave_the_parameters_as_they_are() -> None:
    params = transformer_params()
    members = [dataclasses.replace(s, advantage=0.0) for s in off_policy(transformer, params)]
    result = update(step_of(transformer), params, pack(members), pack(members))
    assert_same_bits(result.params, params)
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


@pytest.mark.parametrize(
    ("sizes", "held"),
    fast([((2, 2, 2), (1, 2, 1, T)), ((1, 2, 2, 2), (1, 2, 2, T // 2))], 1, arguments=2),
)
def test_updates_do_not_depend_on_the_mesh(sizes: tuple[int, ...], held: tuple[int, ...]) -> None:
    params = transformer_params()
    batch = pack(off_policy(transformer, params))
    wanted = update(step_of(transformer), params, batch, batch)

    mesh = sharding.make_mesh(*sizes)
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
        state = jax.device_put(jax.device_get(initial_state()(params)), state_shardings)
        rows = ts.put_batch(batch, mesh, *sharding.batch_axes(mesh))
        assert {x.data.shape for x in rows.tokens.addressable_shards} == {held}
        for _ in range(2):
            state, metrics = step(state, rows)
    gate = state.params["layers"]["gate"]
    assert gate.addressable_shards[0].data.size * np.prod(sizes[1:]) == gate.size
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), wanted.params, params)
    assert min(jax.tree.leaves(moved)) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
        jax.device_get(state.params),
        wanted.params,
    )
    assert {k: float(v) for k, v in metrics.items()} == pytest.approx(
        wanted.metrics, rel=1e-4, abs=1e-5
    )


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
    assert_same_bits(update_bigram(members, 4, 4), update_bigram(members, 2, 4))


def test_empty_microbatches_cost_nothing() -> None:
    scored_microbatches = []

    def watched(*args: Any, **rows: Any) -> Any:
        jax.debug.callback(lambda: scored_microbatches.append(1))
        return bigram(*args, **rows)

    step = ts.make_train_step(watched, LOSS, ADAMW, (1.0, WEIGHT))
    batch = pack(off_policy(), 5, 4)
    update(step, bigram_params(), batch)
    jax.effects_barrier()
    assert len(scored_microbatches) == batch.loss_mask.any(axis=(2, 3)).sum() == 2


def test_microbatches_without_a_gradient_are_scored_alone() -> None:
    forward, backward = [], []

    @jax.custom_vjp
    def watch(x: jax.Array) -> jax.Array:
        return x

    def back(_: None, cotangent: jax.Array) -> tuple[jax.Array]:
        jax.debug.callback(lambda: backward.append(1))
        return (cotangent,)

    watch.defvjp(lambda x: (x, None), back)

    def watched(*args: Any, **rows: Any) -> Any:
        jax.debug.callback(lambda: forward.append(1))
        logprobs, entropy = bigram(*args, **rows)
        return watch(logprobs), entropy

    idle = [dataclasses.replace(s, advantage=0.0) for s in off_policy()]
    batch = pack([*off_policy(), *idle], 9, 2, zero_advantages_learn=False)
    update(ts.make_train_step(watched, LOSS, ADAMW, (1.0, WEIGHT)), bigram_params(), batch)
    jax.effects_barrier()
    learning = ((batch.advantages != 0) & (batch.loss_mask > 0)).any(axis=(2, 3)).sum()
    assert len(forward) == used_rows(batch).any(axis=2).sum() > len(backward) == learning > 0


def test_metrics_are_of_all_completions_whichever_have_a_gradient() -> None:
    """With a KL or entropy term all have one, without only some: the curves must be the same."""
    members = [
        dataclasses.replace(s, advantage=s.advantage * (i % 3 > 0))
        for i, s in enumerate(off_policy())
    ]
    all_of_them = update_bigram(members, 4, 4)
    batch = pack(members, 4, 4, zero_advantages_learn=False)
    some = update(step_of(bigram), bigram_params(), batch)
    assert_close(some.grads, all_of_them.grads)
    assert some.metrics == pytest.approx(all_of_them.metrics, rel=1e-5, abs=1e-6)
    assert some.metrics["base/trained_tokens"] < some.metrics["base/tokens"]


def test_what_is_not_trained_is_measured_alone() -> None:
    members = off_policy()
    left_out = {1, 4, 9, 12}
    marked = [dataclasses.replace(s, trained=i not in left_out) for i, s in enumerate(members)]
    kept = [s for i, s in enumerate(members) if i not in left_out]
    with_entropy = dataclasses.replace(LOSS, entropy_coef=0.1)
    for loss in (LOSS, with_entropy):
        got, wanted = (update_bigram(m, 4, 4, token_loss=loss) for m in (marked, kept))
        assert_close(got.grads, wanted.grads)
        everyone = update_bigram(members, 4, 4, token_loss=loss)
        for name in ("entropy", "sampler_gap", "clip_frac", "ratio_max", "tokens"):
            key = f"base/{name}"
            assert got.metrics[key] == pytest.approx(everyone.metrics[key], rel=1e-5), name
        for name in ("loss/total", "loss/base", "base/trained_tokens"):
            assert got.metrics[name] == pytest.approx(wanted.metrics[name], rel=1e-5), name


def test_padding_rows_and_longer_rows_change_nothing() -> None:
    members = off_policy()
    wanted = update_bigram(members, 1, 8)
    assert_close(update_bigram(members, 1, 12).grads, wanted.grads)
    longer = update(step_of(bigram), bigram_params(), pack(members, 1, 8, 2 * T))
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
    assert_same_bits(update(step, bigram_params(), soiled), update(step, bigram_params(), batch))


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
    once, thrice = (update_bigram(members + n * corrections, 4, 4) for n in (0, 2))
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
        update_bigram(members, 4, 4, weights=weights).grads
        for weights in ((1.0, WEIGHT), (1.0, 0.0), (0.0, 1.0))
    )
    assert_close(joint, jax.tree.map(lambda b, c: b + WEIGHT * c, base, correction))


def test_a_stream_without_tokens_is_nan_in_the_metrics_alone() -> None:
    result = update_bigram([s for s in off_policy() if s.stream == BASE])
    missing = {k for k, v in result.metrics.items() if np.isnan(v)}
    assert missing == {
        k
        for k in result.metrics
        if (k.startswith("correction/") or k == "loss/correction") and not k.endswith("tokens")
    }
    assert "correction/ratio_max" in missing and result.metrics["correction/tokens"] == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.params))


def test_a_stream_that_is_only_measured_has_no_loss_and_all_other_metrics() -> None:
    """As corrections that the verifier failed on."""
    members = off_policy()
    measured = [dataclasses.replace(s, trained=s.stream == BASE) for s in members]
    result, whole = update_bigram(measured), update_bigram(members)
    assert {k for k, v in result.metrics.items() if np.isnan(v)} == {"loss/correction"}
    assert result.metrics["correction/trained_tokens"] == 0
    for name in ("correction/tokens", "correction/entropy", "loss/base"):
        assert result.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-6)
    assert result.metrics["loss/total"] == pytest.approx(whole.metrics["loss/base"], rel=1e-6)


def test_demonstration_loss_is_the_mean_negative_log_likelihood() -> None:
    members = [s for s in off_policy() if s.stream == BASE]
    result = update_bigram(members, token_loss=demonstration_loss)
    scores = scored(bigram, bigram_params(), members)
    nll = -np.concatenate([logprobs for logprobs, _ in scores]).mean()
    assert result.metrics["loss/base"] == pytest.approx(nll, rel=1e-5)
    assert result.metrics["loss/total"] == pytest.approx(nll, rel=1e-5)
    again = update_bigram(
        [dataclasses.replace(s, advantage=-3.0) for s in members],
        token_loss=demonstration_loss,
    )
    assert_same_bits(again.params, result.params)


def test_kl_to_the_reference_is_added_with_its_coefficient() -> None:
    members = off_policy()
    reference = {**bigram_params(), "head": bigram_params()["head"][:, ::-1].copy()}
    batch = pack(members, 4, 4)
    ref_logprobs = ts.make_reference_scorer(bigram)(reference, batch)
    assert not ref_logprobs[~used_rows(batch)].any()
    with_kl = step_of(bigram, PolicyLoss(LOW, HIGH, kl_coef=0.1))
    results = [
        update(step_of(bigram), bigram_params(), batch).metrics,
        update(with_kl, bigram_params(), batch._replace(ref_logprobs=ref_logprobs)).metrics,
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
