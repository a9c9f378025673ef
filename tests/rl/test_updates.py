"""Several updates per rollout batch, aggregations and the trainer's own old log-probs through the
compiled step; what it costs; and the comparison of the streams' gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from forms import fast
from tiny_updates import (
    ADAMW,
    HIGH,
    LOSS,
    LOW,
    WEIGHT,
    Result,
    assert_close,
    assert_same_bits,
    bigram,
    bigram_params,
    initial_state,
    off_policy,
    one_per_row,
    pack,
    scored,
    step_of,
    update,
)

from cipo_jax.rl import train_step as ts
from cipo_jax.rl.advantages import NORMS, group_advantages
from cipo_jax.rl.aggregate import Aggregation
from cipo_jax.rl.losses import PolicyLoss
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.rl.rewards import shaped_rewards
from cipo_jax.types import BASE, CORRECTION, STREAMS, TrainBatch

SEQUENCE_MEAN = Aggregation("sequence_mean")
CONSTANT = Aggregation("constant", 7)
GSPO = PolicyLoss(LOW, HIGH, ratio="sequence", aggregation=SEQUENCE_MEAN)
TIS = PolicyLoss(LOW, HIGH, old_logprobs="trainer", tis_cap=1.1)
LOSSES = {
    "grpo": PolicyLoss(LOW, HIGH, aggregation=SEQUENCE_MEAN),
    "dr_grpo": PolicyLoss(LOW, HIGH, aggregation=CONSTANT),
    "cispo": PolicyLoss(LOW, HIGH, surrogate="cispo"),
    "gspo": GSPO,
    "tis": TIS,
}


def packed_for(loss: PolicyLoss, members: list[TrainSequence], *shape: int, **how: Any):
    return pack(members, *shape, normaliser=loss.aggregation.normaliser, **how)


def update_with(loss: PolicyLoss, members: list[TrainSequence], *shape: int, **how: Any) -> Result:
    return update(step_of(bigram, loss), bigram_params(), packed_for(loss, members, *shape, **how))


def cut(batch: TrainBatch, u: int) -> TrainBatch:
    """Minibatch u of a batch, as a batch of one minibatch."""
    return jax.tree.map(lambda x: x[u : u + 1], batch)


def scores_like(batch: TrainBatch, params: Any) -> np.ndarray:
    """[U, M, R, T]: the policy's log-probs of a batch's completions, 0 elsewhere."""
    logprobs = ts.make_reference_scorer(bigram)(params, batch)
    return np.asarray(logprobs) * batch.loss_mask


# One update.


def unpacked_loss(loss: PolicyLoss, params: Any, members: list[TrainSequence]) -> jax.Array:
    """The joint loss with one sequence per row and plain sums over sequences."""
    logprobs, _ = bigram(params, *one_per_row(members))
    total = jnp.zeros(())
    for stream, weight in ((BASE, 1.0), (CORRECTION, WEIGHT)):
        of_stream = [(row, s) for row, s in enumerate(members) if s.stream == stream]
        terms = []
        for row, s in of_stream:
            new = logprobs[row, len(s.prompt) : len(s)]
            ratio = jnp.exp(new - s.old_logprobs)
            if loss.ratio == "sequence":
                ratio = jnp.exp(jnp.mean(new - s.old_logprobs))
            clipped = jnp.clip(ratio, 1 - LOW, 1 + HIGH)
            objective = jnp.minimum(ratio * s.advantage, clipped * s.advantage)
            if loss.surrogate == "cispo":
                objective = jax.lax.stop_gradient(clipped) * s.advantage * new
            if loss.tis_cap:  # on-policy for the trainer, whatever the sampler said
                mismatch = jnp.exp(jax.lax.stop_gradient(new) - s.old_logprobs)
                objective = jnp.minimum(mismatch, loss.tis_cap) * s.advantage * new
            terms.append(objective)
        lengths = [len(s.completion) for _, s in of_stream]
        total -= (
            weight
            * {
                "token_mean": lambda t=terms, n=lengths: sum(map(jnp.sum, t)) / sum(n),
                "sequence_mean": lambda t=terms, n=lengths: sum(map(jnp.mean, t)) / len(n),
                "constant": lambda t=terms, n=lengths: sum(map(jnp.sum, t)) / (7 * len(n)),
            }[loss.aggregation.kind]()
        )
    return total


@pytest.mark.parametrize("name", fast(list(LOSSES), 0))
def test_gradient_equals_that_of_the_unpacked_sequences(name: str) -> None:
    loss, members = LOSSES[name], off_policy()
    wanted = jax.jit(jax.grad(lambda p: unpacked_loss(loss, p, members)))(bigram_params())
    assert_close(update_with(loss, members).grads, wanted, 1e-4)


@pytest.mark.parametrize("shape", [(1, 8), (8, 1)])
def test_sequence_objectives_do_not_depend_on_rows(shape: tuple[int, int]) -> None:
    members = off_policy()
    whole, split = update_with(GSPO, members), update_with(GSPO, members, *shape)
    assert_close(split.grads, whole.grads)
    assert split.metrics == pytest.approx(whole.metrics, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_sequences_without_advantage_are_measured_without_a_gradient(name: str) -> None:
    loss = LOSSES[name]
    members = [
        dataclasses.replace(s, advantage=s.advantage * (i % 3 > 0))
        for i, s in enumerate(off_policy())
    ]
    all_of_them = update_with(loss, members)
    some = update_with(loss, members, zero_advantages_learn=False)
    assert some.metrics["base/trained_tokens"] < some.metrics["base/tokens"]
    assert_close(some.grads, all_of_them.grads)
    assert some.metrics == pytest.approx(all_of_them.metrics, rel=1e-5, abs=1e-6)


def test_single_update_against_the_trainer_s_own_log_probs_is_reinforce() -> None:
    loss = dataclasses.replace(TIS, tis_cap=None)
    # Off the sampler's policy, on the trainer's.
    members = off_policy()
    result = update_with(loss, members)
    assert result.metrics["base/ratio_mean"] == result.metrics["base/ratio_max"] == 1
    assert result.metrics["base/clip_frac"] == 0 and result.metrics["base/sampler_gap"] > 0.1
    on_policy = [
        dataclasses.replace(s, old_logprobs=lp)
        for s, (lp, _) in zip(members, scored(bigram, bigram_params(), members), strict=True)
    ]
    assert_close(result.grads, update_with(LOSS, on_policy).grads)


def test_the_gradient_depends_on_lambda_risk_unless_the_group_s_std_cancels_it() -> None:
    correct = np.array([[1, 0], [0, 1], [1, 1], [0, 1]], bool)
    right = np.array([True, False, True, True])
    members = off_policy()
    corrections = [s for s in members if s.stream == CORRECTION]

    def gradient(norm: str, lambda_risk: float) -> Any:
        shaped = shaped_rewards(correct, correct, right, lambda_risk)
        advantages = group_advantages(shaped, norm, bare_outcomes=correct)
        return update_with(
            LOSS,
            [
                dataclasses.replace(s, advantage=float(a))
                for s, a in zip(corrections, advantages.reshape(-1), strict=True)
            ],
        ).grads

    @jax.jit
    def change(a: Any, b: Any) -> jax.Array:
        return optax.tree.norm(optax.tree.sub(a, b)) / optax.tree.norm(b)

    acting = set()
    for norm in NORMS:
        gap = change(gradient(norm, 0.5), gradient(norm, 0.0))
        acting |= {norm} if gap > 0.05 else set()
        assert gap > 0.05 or gap < 1e-5
    assert acting == set(NORMS) - {"group"}


# Several updates.


def by_separate_calls(loss: PolicyLoss, batch: TrainBatch, epochs: int) -> Result:
    """The same updates, one call each."""
    single = [cut(batch, u) for u in range(len(batch.tokens))]
    return update(step_of(bigram, loss), bigram_params(), *(single * epochs))


@pytest.mark.parametrize(("minibatches", "epochs"), [(3, 1), (2, 2)])
def test_updates_in_one_call_equal_separate_calls(minibatches: int, epochs: int) -> None:
    batch = packed_for(GSPO, off_policy(), 2, 4, minibatches=minibatches)
    together = update(step_of(bigram, GSPO, epochs=epochs), bigram_params(), batch)
    apart = by_separate_calls(GSPO, batch, epochs)
    assert_close(together.params, apart.params, 1e-6)
    assert_close(together.grads, apart.grads, 1e-4)
    assert (together.step, apart.step) == (1, minibatches * epochs)


def test_old_log_probs_of_the_trainer_are_those_before_the_first_update() -> None:
    loss = dataclasses.replace(TIS, tis_cap=None)
    batch = pack(off_policy(), 2, 4, minibatches=2)
    together = update(step_of(bigram, loss, epochs=2), bigram_params(), batch)
    known = batch._replace(old_logprobs=scores_like(batch, bigram_params()))
    apart = by_separate_calls(LOSS, known, 2)
    assert_close(together.params, apart.params, 1e-6)
    # By the last update the policy has moved away from them.
    assert together.metrics["base/ratio_max"] > 1.001


def test_metrics_of_several_updates_are_their_averages() -> None:
    batch = pack(off_policy(), 2, 4, minibatches=2)
    together = update(step_of(bigram, epochs=2), bigram_params(), batch).metrics
    singles, step, state = [], step_of(bigram), initial_state()(bigram_params())
    for u in (0, 1, 0, 1):
        state, metrics = step(state, cut(batch, u))
        singles.append({k: float(v) for k, v in metrics.items()})
    for stream in STREAMS:
        tokens = [m[f"{stream}/tokens"] for m in singles]
        assert together[f"{stream}/tokens"] == sum(tokens) / 2
        for name in ("entropy", "ratio_mean", "clip_frac", "sampler_gap", "sampler_k3"):
            values = [m[f"{stream}/{name}"] for m in singles]
            mean = np.average(values, weights=tokens)
            assert together[f"{stream}/{name}"] == pytest.approx(mean, rel=1e-4, abs=1e-6)
        largest = max(m[f"{stream}/ratio_max"] for m in singles)
        assert together[f"{stream}/ratio_max"] == pytest.approx(largest, rel=1e-5)
    for name in ("loss/total", "loss/base", "loss/correction", "grad_norm"):
        mean = np.mean([m[name] for m in singles])
        assert together[name] == pytest.approx(mean, rel=1e-4, abs=1e-6)


def test_a_stream_in_one_minibatch_only_has_the_metrics_of_that_one() -> None:
    members = [s for s in off_policy() if s.stream == BASE or s.group == 0]
    batch = pack(members, 2, 4, minibatches=2)
    counts = batch.token_counts[:, CORRECTION]
    assert (counts == 0).sum() == 1
    metrics = update(step_of(bigram), bigram_params(), batch).metrics
    u = int(counts.argmax())
    before = [cut(batch, v) for v in range(u)]
    alone = update(step_of(bigram), bigram_params(), *before, cut(batch, u)).metrics
    for key in ("loss/correction", "correction/entropy", "correction/tokens"):
        assert metrics[key] == pytest.approx(alone[key], rel=1e-5)


def test_zero_advantages_leave_the_parameters_as_they_are_through_all_updates() -> None:
    members = [dataclasses.replace(s, advantage=0.0) for s in off_policy()]
    for loss in (LOSS, GSPO, TIS):
        batch = pack(members, 2, 4, minibatches=2)
        result = update(step_of(bigram, loss, epochs=2), bigram_params(), batch)
        assert_same_bits(result.params, bigram_params())


def test_weight_zero_is_grpo_to_the_bit_through_all_updates() -> None:
    members = off_policy()
    step = step_of(bigram, TIS, weights=(1.0, 0.0), epochs=2)
    # Base groups are dealt before those of the other stream, so they are dealt the same way.
    both = pack(members, 4, 4, minibatches=2)
    base_only = pack([s for s in members if s.stream == BASE], 4, 4, minibatches=2)
    with_corrections = update(step, bigram_params(), both)
    assert with_corrections.metrics["correction/tokens"] > 0
    assert_same_bits(with_corrections.params, update(step, bigram_params(), base_only).params)


# What it costs.


def microbatches_scored(loss: PolicyLoss, batch: TrainBatch, epochs: int = 1) -> int:
    calls = []

    def watched(*args: Any, **rows: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return bigram(*args, **rows)

    step = ts.make_train_step(watched, loss, ADAMW, (1.0, WEIGHT), epochs=epochs)
    update(step, bigram_params(), batch)
    jax.effects_barrier()
    return len(calls)


@pytest.mark.slow
def test_the_trainer_s_old_log_probs_cost_a_forward_pass_only_with_several_updates() -> None:
    members = off_policy()
    once, twice = (pack(members, 5, 4, minibatches=u) for u in (1, 2))
    used_once, used_twice = (int(b.loss_mask.any(axis=(2, 3)).sum()) for b in (once, twice))
    assert used_once < 5 and used_twice < 10
    assert microbatches_scored(TIS, once) == used_once
    assert microbatches_scored(TIS, twice, epochs=2) == (1 + 2) * used_twice
    assert microbatches_scored(LOSS, twice, epochs=2) == 2 * used_twice


def test_batches_of_one_shape_compile_once() -> None:
    step = ts.make_train_step(bigram, TIS, ADAMW, (1.0, WEIGHT), epochs=2)
    state = initial_state()(bigram_params())
    sizes = []
    for number in range(4):
        # Other lengths, numbers of sequences and rows each time; at last nothing at all.
        members = off_policy()[number * 3 :] if number < 3 else []
        batch = pack(members, 3, 4, minibatches=2, zero_advantages_learn=False)
        state, _ = step(state, batch)
        sizes.append(step._cache_size())
    assert sizes == [1] * 4
    assert int(state.step) == 4
