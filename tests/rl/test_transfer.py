"""Norms and cosines of the gradients of a batch's parts, against NumPy's."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import pytest
from forms import fast
from tiny_updates import (
    ADAMW,
    HIGH,
    LOSS,
    LOW,
    VOCAB,
    bigram,
    bigram_params,
    initial_state,
    off_policy,
    pack,
    sampled,
    sequences,
)

from cipo_jax.rl import train_step as ts
from cipo_jax.rl.aggregate import Aggregation
from cipo_jax.rl.losses import PolicyLoss
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.rl.transfer import PARTS, gradient_measures, make_gradient_products, stack_parts
from cipo_jax.types import BASE, CORRECTION

Members = Mapping[str, Sequence[TrainSequence]]
PROGRAM = make_gradient_products(bigram, LOSS)


def measured(members: Members, program=PROGRAM, minibatches: int = 1, **how) -> dict[str, float]:
    packed = [pack(members.get(p, []), 2, 8, minibatches=minibatches, **how) for p in PARTS]
    return gradient_measures(jax.device_get(program(bigram_params(), stack_parts(packed))))


def parts_of(members: Sequence[TrainSequence]) -> dict[str, list[TrainSequence]]:
    """The corrections by their number in turn."""
    found = {"base": [s for s in members if s.stream == BASE]}
    for i, s in enumerate(s for s in members if s.stream == CORRECTION):
        found.setdefault(PARTS[1 + i % 3], []).append(s)
    return found


def numpy_gradient(members: Sequence[TrainSequence], total: int) -> np.ndarray:
    """Of -sum A log p / total on-policy, with respect to embedding and head, in one row."""
    embedding, head = (bigram_params()[n].astype(np.float64) for n in ("embedding", "head"))
    logits = embedding @ head
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    of_logits = np.zeros_like(logits)
    for s in members:
        tokens = [*s.prompt, *s.completion]
        for t in range(len(s.prompt), len(tokens)):
            before, chosen = tokens[t - 1], tokens[t]
            of_logits[before] += s.advantage / total * (p[before] - np.eye(VOCAB)[chosen])
    return np.concatenate([(of_logits @ head.T).ravel(), (embedding.T @ of_logits).ravel()])


def test_norms_and_cosines_are_those_of_numpy() -> None:
    members = parts_of(sampled(bigram, bigram_params(), sequences()))
    totals = [
        sum(len(s.completion) for part in parts for s in members[part])
        for parts in (PARTS[:1], PARTS[1:])
    ]
    g = {p: numpy_gradient(members[p], totals[p != "base"]) for p in PARTS}
    g |= {"wrong": g["solved"] + g["unsolved"]}
    g |= {"correction": g["right"] + g["wrong"]}
    names = ("base", "correction", "right", "wrong", "unsolved")
    norms = {f"grad/{name}_norm": np.linalg.norm(g[name]) for name in names}

    def cosine(a: str, b: str) -> float:
        return float(g[a] @ g[b] / np.linalg.norm(g[a]) / np.linalg.norm(g[b]))

    wanted = norms | {
        "grad/cosine": cosine("base", "correction"),
        "grad/right_cosine": cosine("base", "right"),
        "grad/wrong_cosine": cosine("base", "wrong"),
        "grad/unsolved_cosine": cosine("base", "unsolved"),
        "grad/right_wrong_cosine": cosine("right", "wrong"),
    }
    got = measured(members)
    assert got == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert all(1e-3 < abs(value) < 0.999 for value in wanted.values() if abs(value) <= 1)
    # What has no gradient is measured in the others' place, and changes nothing.
    idle = dataclasses.replace(members["right"][0], advantage=0.0, trained=False)
    assert measured({**members, "right": [*members["right"], idle]}) == pytest.approx(got)


@pytest.mark.parametrize(
    "loss", fast([LOSS, PolicyLoss(LOW, HIGH, aggregation=Aggregation("sequence_mean", 8))], 0)
)
def test_the_streams_gradients_are_those_of_the_update(loss: PolicyLoss) -> None:
    """Off-policy, whatever the minibatches, and with completions that are measured alone."""
    how = {"normaliser": loss.aggregation.normaliser}
    members = off_policy()
    members[3] = dataclasses.replace(members[3], trained=False)
    program = make_gradient_products(bigram, loss)
    whole, dealt = (measured(parts_of(members), program, u, **how) for u in (1, 3))
    assert dealt == pytest.approx(whole, rel=1e-4)
    batch = pack(members, 4, 4, **how)
    gradients = []
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        step = ts.make_train_step(bigram, loss, ADAMW, weights)
        state, _ = step(initial_state()(bigram_params()), batch)
        gradients.append(jax.flatten_util.ravel_pytree(state.opt_state[0].grads)[0])
    base, correction = map(np.asarray, gradients)
    assert whole["grad/base_norm"] == pytest.approx(np.linalg.norm(base), rel=1e-5)
    assert whole["grad/correction_norm"] == pytest.approx(np.linalg.norm(correction), rel=1e-5)
    cosine = base @ correction / np.linalg.norm(base) / np.linalg.norm(correction)
    assert whole["grad/cosine"] == pytest.approx(cosine, rel=1e-4)


def test_equal_and_opposite_parts_have_cosines_of_one() -> None:
    base = sampled(bigram, bigram_params(), sequences(correction=0))

    def mirrored(sign: int) -> list[TrainSequence]:
        return [
            dataclasses.replace(s, stream=CORRECTION, advantage=sign * s.advantage) for s in base
        ]

    both = measured({"base": base, "right": mirrored(1), "unsolved": mirrored(-1)})
    assert both["grad/right_cosine"] == pytest.approx(1, rel=1e-5)
    assert both["grad/wrong_cosine"] == both["grad/unsolved_cosine"] == pytest.approx(-1, rel=1e-5)
    assert both["grad/right_wrong_cosine"] == pytest.approx(-1, rel=1e-5)
    assert both["grad/correction_norm"] == pytest.approx(0, abs=1e-4)


def test_what_is_zero_has_no_cosine() -> None:
    alone = measured({"base": [s for s in off_policy() if s.stream == BASE]})
    assert alone["grad/correction_norm"] == 0
    assert alone.keys() == {"grad/base_norm", "grad/correction_norm"}
    assert measured({}) == {"grad/base_norm": 0, "grad/correction_norm": 0}


def test_all_steps_take_one_program() -> None:
    program = make_gradient_products(bigram, LOSS)
    for number in (0, 4, 8, 16):
        measured(parts_of(off_policy()[number:]), program)
    assert program._cache_size() == 1
