"""The policy objective against a double loop written from the papers' formulas: values,
statistics, and gradients by finite differences of that loop."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_updates import VOCAB, pack

from cipo_jax.rl.aggregate import Aggregation
from cipo_jax.rl.losses import PolicyLoss
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.types import BASE, CORRECTION, CipoError, TrainBatch

MAX_TOKENS = 9
TOKENS, SEQUENCES, CONSTANT = (
    Aggregation(kind, MAX_TOKENS) for kind in ("token_mean", "sequence_mean", "constant")
)
LOSS = functools.partial(PolicyLoss, 0.15, 0.25)
GSPO = functools.partial(LOSS, ratio="sequence")
SURROGATES = {
    "clip": LOSS(),
    "dual_clip": LOSS(dual_clip=1.3),
    "cispo": LOSS(surrogate="cispo"),
    "sequence": GSPO(),
}
OBJECTIVES = {
    "grpo": LOSS(aggregation=SEQUENCES),
    "dapo": LOSS(aggregation=TOKENS),
    "dr_grpo": LOSS(aggregation=CONSTANT),
    "dual_clip": SURROGATES["dual_clip"],
    "cispo": SURROGATES["cispo"],
    "cispo_constant": LOSS(surrogate="cispo", aggregation=CONSTANT),
    "gspo": GSPO(aggregation=SEQUENCES),
    "gspo_tokens": GSPO(aggregation=TOKENS),
    "gspo_constant": GSPO(aggregation=CONSTANT),
    "trainer": LOSS(old_logprobs="trainer"),
    "tis": LOSS(old_logprobs="trainer", tis_cap=1.1),
    "gspo_tis": GSPO(old_logprobs="trainer", tis_cap=1.1, aggregation=SEQUENCES),
    "k2": LOSS(kl_coef=0.3, kl_estimator="k2", aggregation=SEQUENCES),
    "k3": LOSS(kl_coef=0.3, kl_estimator="k3"),
    "entropy": LOSS(entropy_coef=0.2),
    "all": LOSS(
        kl_coef=0.3,
        kl_estimator="k2",
        entropy_coef=0.2,
        dual_clip=1.3,
        old_logprobs="trainer",
        tis_cap=1.1,
        aggregation=SEQUENCES,
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A sequence and what is known of its completion; all [C] float64 but the first."""

    sequence: TrainSequence
    logprobs: np.ndarray
    entropy: np.ndarray
    trainer: np.ndarray
    sampler: np.ndarray
    reference: np.ndarray


@functools.cache
def cases() -> tuple[Case, ...]:
    """Completions whose ratios lie on both sides of both bounds, token by token and on average."""
    random = np.random.default_rng(6)

    def one(stream: int) -> Case:
        prompt, C = random.integers(0, VOCAB, random.integers(1, 4)), random.integers(1, 9)
        logprobs = -random.uniform(0.2, 4, C)
        trainer = logprobs + random.uniform(-0.4, 0.4) + random.uniform(-0.2, 0.2, C)
        return Case(
            sequence=TrainSequence(
                prompt=prompt,
                completion=random.integers(0, VOCAB, C),
                old_logprobs=np.zeros(C),
                advantage=random.choice([-1.5, -0.5, 0.0, 0.7, 1.2]),
                stream=stream,
            ),
            logprobs=logprobs,
            entropy=random.uniform(0, 2, C),
            trainer=trainer,
            sampler=trainer + random.uniform(-0.3, 0.3, C),
            reference=logprobs + random.uniform(-0.5, 0.5, C),
        )

    return tuple(one(stream) for stream in [BASE] * 8 + [CORRECTION] * 6)


# By double loop.

WEIGHTS = (1.0, 0.6)


def objective(loss: PolicyLoss, logprobs: list[np.ndarray], entropy: list[np.ndarray]) -> float:
    """The loss of both streams as a function of log-probs and entropies. What has a stop-gradient
    in its formula is read from `cases()` instead."""
    total = 0.0
    for stream in (BASE, CORRECTION):
        members = [i for i, case in enumerate(cases()) if case.sequence.stream == stream]
        lengths = [len(logprobs[i]) for i in members]
        sums = 0.0
        for i in members:
            case, C = cases()[i], len(logprobs[i])
            if loss.ratio == "sequence" and loss.aggregation == SEQUENCES and not loss.tis_cap:
                # GSPO, equations 5 and 7: one term a sequence.
                ratio = math.exp(sum(logprobs[i][t] - old(loss, case)[t] for t in range(C)) / C)
                sums += surrogate(loss, ratio, case.sequence.advantage)
                continue
            terms = 0.0
            for t in range(C):
                terms += token_term(loss, case, t, logprobs[i][t])
                if loss.kl_coef:
                    terms += loss.kl_coef * kl(loss, logprobs[i][t] - case.reference[t])
                terms -= loss.entropy_coef * entropy[i][t]
            sums += terms / C if loss.aggregation == SEQUENCES else terms
        normaliser = {
            "token_mean": sum(lengths),
            "sequence_mean": len(lengths),
            "constant": len(lengths) * MAX_TOKENS,
        }[loss.aggregation.kind]
        total += WEIGHTS[stream] * sums / normaliser
    return total


def old(loss: PolicyLoss, case: Case) -> np.ndarray:
    return case.trainer if loss.old_logprobs == "trainer" else case.sampler


def frozen_ratio(loss: PolicyLoss, case: Case, t: int) -> float:
    """The ratio of token t, or of the sequence, at the log-probs where the gradient is taken."""
    gaps = [case.logprobs[u] - old(loss, case)[u] for u in range(len(case.logprobs))]
    return math.exp(sum(gaps) / len(gaps) if loss.ratio == "sequence" else gaps[t])


def token_term(loss: PolicyLoss, case: Case, t: int, logprob: float) -> float:
    advantage, ratio = case.sequence.advantage, frozen_ratio(loss, case, t)
    weight = 1.0
    if loss.tis_cap:
        weight = min(math.exp(case.trainer[t] - case.sampler[t]), loss.tis_cap)
    if loss.surrogate == "cispo":
        clipped = min(max(ratio, 1 - loss.clip_low), 1 + loss.clip_high)
        return -weight * clipped * advantage * logprob
    # pi / stop_gradient(pi) carries the gradient, for the token as for GSPO-token.
    return weight * surrogate(loss, ratio * math.exp(logprob - case.logprobs[t]), advantage)


def surrogate(loss: PolicyLoss, ratio: float, advantage: float) -> float:
    clipped = min(max(ratio, 1 - loss.clip_low), 1 + loss.clip_high)
    value = min(ratio * advantage, clipped * advantage)
    if loss.dual_clip and advantage < 0:
        value = max(value, loss.dual_clip * advantage)
    return -value


def kl(loss: PolicyLoss, log_ratio: float) -> float:
    return {
        "k2": log_ratio**2 / 2,
        "k3": math.exp(-log_ratio) - 1 + log_ratio,
    }[loss.kl_estimator]


def statistics(loss: PolicyLoss) -> dict[str, list[float]]:
    """Each statistic of each token, sequence by sequence."""
    found: dict[str, list[float]] = {}

    def note(**values: float) -> None:
        for name, value in values.items():
            found.setdefault(name, []).append(value)

    for case in cases():
        advantage = case.sequence.advantage
        for t in range(len(case.logprobs)):
            ratio = frozen_ratio(loss, case, t)
            low, high = ratio < 1 - loss.clip_low, ratio > 1 + loss.clip_high
            if loss.surrogate == "clip":
                low, high = low and advantage < 0, high and advantage > 0
                if loss.dual_clip and advantage < 0:
                    high = ratio > loss.dual_clip
            trainer = case.trainer if loss.old_logprobs == "trainer" else case.logprobs
            gap = trainer[t] - case.sampler[t]
            note(
                entropy=case.entropy[t],
                ratio_mean=ratio,
                ratio_max=ratio,
                clip_frac=low or high,
                clip_low_frac=low,
                clip_high_frac=high,
                advantage_abs=abs(advantage),
                sampler_gap=abs(gap),
                sampler_k3=math.exp(gap) - 1 - gap,
            )
            if loss.kl_coef:
                note(kl=kl(loss, case.logprobs[t] - case.reference[t]))
            if loss.tis_cap:
                weight = math.exp(gap)
                note(tis_mean=min(weight, loss.tis_cap), tis_capped_frac=weight > loss.tis_cap)
    return found


def slopes(loss: PolicyLoss) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Derivatives of `objective` by every log-prob and every entropy, by central differences."""
    values = [[case.logprobs for case in cases()], [case.entropy for case in cases()]]
    step = 1e-5

    def derivative(which: int, i: int, t: int) -> float:
        ends = []
        for shift in (step, -step):
            moved = [[x.copy() for x in arrays] for arrays in values]
            moved[which][i][t] += shift
            ends.append(objective(loss, *moved))
        return (ends[0] - ends[1]) / (2 * step)

    by_logprob, by_entropy = (
        [np.array([derivative(which, i, t) for t in range(len(x))]) for i, x in enumerate(arrays)]
        for which, arrays in enumerate(values)
    )
    return by_logprob, by_entropy


# The compiled side.


def packed(values: list[np.ndarray]) -> np.ndarray:
    """[R, T]: one array per completion, laid out as the packer lays out its tokens."""
    members = [
        dataclasses.replace(case.sequence, old_logprobs=x)
        for case, x in zip(cases(), values, strict=True)
    ]
    return pack(members, 1, 12).old_logprobs[0, 0]


def microbatch() -> TrainBatch:
    whole = pack([case.sequence for case in cases()], 1, 12)
    micro = TrainBatch(*(None if x is None else x[0, 0] for x in whole[:8]))
    return micro._replace(
        old_logprobs=packed([case.sampler for case in cases()]),
        ref_logprobs=packed([case.reference for case in cases()]),
    )


def of_tokens(loss: PolicyLoss, logprobs: jax.Array, entropy: jax.Array) -> Any:
    """The total loss, and all that `PolicyLoss` returns."""
    micro = microbatch()
    trainer = packed([case.trainer for case in cases()])
    returned = loss(logprobs, entropy, micro, trainer)
    lengths = [
        [len(c.logprobs) for c in cases() if c.sequence.stream == s] for s in (BASE, CORRECTION)
    ]
    per_stream = jnp.array(
        [w / loss.aggregation.normaliser(n) for w, n in zip(WEIGHTS, lengths, strict=True)]
    )
    weights = loss.aggregation.token_weights(micro.loss_mask, micro.segments)
    return jnp.sum(per_stream[micro.stream][:, None] * weights * returned[0]), returned


@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_gradient_and_statistics_equal_the_double_loop(name: str) -> None:
    loss = OBJECTIVES[name]
    logprobs = packed([case.logprobs for case in cases()])
    entropy = packed([case.entropy for case in cases()])
    program = jax.jit(
        jax.value_and_grad(functools.partial(of_tokens, loss), argnums=(0, 1), has_aux=True)
    )
    (value, (_, means, maxima)), grads = program(logprobs, entropy)

    wanted = objective(loss, *([getattr(c, x) for c in cases()] for x in ("logprobs", "entropy")))
    assert float(value) == pytest.approx(wanted, rel=1e-5)
    for got, by_hand in zip(grads, slopes(loss), strict=True):
        np.testing.assert_allclose(got, packed(by_hand), rtol=1e-3, atol=1e-6)

    mask = microbatch().loss_mask > 0
    found = {name: np.asarray(x)[mask] for name, x in {**means, **maxima}.items()}
    by_hand = statistics(loss)
    assert found.keys() == by_hand.keys()
    for key, values in by_hand.items():
        np.testing.assert_allclose(found[key].sum(), sum(values), rtol=1e-4)
        np.testing.assert_allclose(found[key].max(), max(values), rtol=1e-4)


def test_the_cases_reach_every_branch() -> None:
    for name in ("dapo", "dual_clip", "cispo", "gspo", "tis"):
        shares = {k: np.mean(v) for k, v in statistics(OBJECTIVES[name]).items()}
        for key in ("clip_low_frac", "clip_high_frac", "tis_capped_frac"):
            assert 0.02 < shares.get(key, 0.5) < 0.98, (name, key)
    assert microbatch().segments.max() >= 2


@pytest.mark.parametrize("aggregation", [TOKENS, SEQUENCES, CONSTANT], ids=lambda a: a.kind)
@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("source", ["sampler", "trainer"])
def test_on_policy_gradient_is_reinforce(name: str, aggregation: Aggregation, source: str) -> None:
    """-A grad log pi for every token, under the aggregation's weight, to the bit."""
    loss = dataclasses.replace(SURROGATES[name], aggregation=aggregation, old_logprobs=source)
    micro = microbatch()
    logprobs = jnp.asarray(micro.old_logprobs)
    grads = jax.grad(lambda x: loss(x, x, micro, logprobs)[0].sum())(logprobs)
    np.testing.assert_array_equal(grads * micro.loss_mask, -micro.advantages * micro.loss_mask)


@pytest.mark.parametrize("name", SURROGATES)
def test_without_advantage_the_gradient_is_exactly_zero(name: str) -> None:
    micro = microbatch()
    micro = micro._replace(advantages=np.zeros_like(micro.advantages))
    logprobs = packed([case.logprobs for case in cases()])
    grads = jax.grad(lambda x: SURROGATES[name](x, x, micro, None)[0].sum())(logprobs)
    assert not np.asarray(grads).any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_lies_off_the_completions_may_be_anything(name: str) -> None:
    loss, micro = OBJECTIVES[name], microbatch()
    logprobs = packed([case.logprobs for case in cases()])
    trainer = packed([case.trainer for case in cases()])

    def gradient(old: np.ndarray, ref: np.ndarray) -> np.ndarray:
        batch = micro._replace(old_logprobs=old, ref_logprobs=ref)

        def total(x: jax.Array) -> jax.Array:
            return jnp.sum(micro.loss_mask * loss(x, x, batch, trainer)[0])

        return np.asarray(jax.grad(total)(logprobs))

    # exp of it is infinite, and infinity times a mask of 0 is not a number.
    soiled = [
        np.where(micro.loss_mask > 0, x, -300) for x in (micro.old_logprobs, -micro.ref_logprobs)
    ]
    clean = gradient(micro.old_logprobs, micro.ref_logprobs)
    np.testing.assert_array_equal(gradient(soiled[0], -soiled[1]), clean)


def test_gspo_gives_all_tokens_of_a_sequence_one_ratio() -> None:
    micro = microbatch()
    logprobs = packed([case.logprobs for case in cases()])
    ratio = np.asarray(GSPO()(logprobs, logprobs, micro, None)[2]["ratio_max"])
    distinct = set()
    for row in range(len(ratio)):
        for segment in range(1, micro.segments[row].max() + 1):
            of_sequence = ratio[row, micro.segments[row] == segment]
            assert len(set(of_sequence.tolist())) == 1
            distinct.add(float(of_sequence[0]))
    assert len(distinct) == len(cases())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surrogate": "ppo"}, "surrogate: got 'ppo'"),
        ({"ratio": "word"}, "ratio: got 'word'"),
        ({"kl_estimator": "k1"}, "kl_estimator: got 'k1'"),
        ({"kl_estimator": "k4"}, "kl_estimator: got 'k4'"),
        ({"old_logprobs": "both"}, "old_logprobs: got 'both'"),
        ({"dual_clip": 0.9}, "dual_clip: got 0.9, wanted a value > 1"),
        ({"dual_clip": 3.0, "surrogate": "cispo"}, "dual_clip: got 3.0, wanted 0 with surrogate"),
        ({"ratio": "sequence", "surrogate": "cispo"}, "ratio: got 'sequence', wanted 'token'"),
        ({"tis_cap": 2.0}, "tis_cap: got 2.0, wanted 0, or old_logprobs='trainer'"),
        ({"tis_cap": -1.0, "old_logprobs": "trainer"}, "tis_cap: got -1.0"),
        ({"clip_low": 1.5}, "clip_low: got 1.5"),
        ({"clip_high": 0.0}, "clip_high: got 0.0"),
    ],
)
def test_settings_that_say_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CipoError, match=message):
        PolicyLoss(**{"clip_low": 0.2, "clip_high": 0.2, **change})


def test_trainer_log_probs_must_be_given_where_they_are_used() -> None:
    with pytest.raises(ValueError, match="needs trainer_logprobs"):
        LOSS(old_logprobs="trainer")(np.zeros((1, 2)), np.zeros((1, 2)), microbatch(), None)


def test_only_kl_and_entropy_act_without_advantage() -> None:
    acting = {name for name, loss in OBJECTIVES.items() if loss.needs_zero_advantages}
    assert acting == {"k2", "k3", "entropy", "all"}
