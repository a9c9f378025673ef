"""pass@k against its definition, and the evaluation of attempts whose verdicts are known."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from cipo_jax.evaluate import evaluate, pass_at_k
from cipo_jax.types import Attempt, Completion, Outcome, Problem, Prompt, Verdict


def samples_with(right: int, n: int) -> np.ndarray:
    return np.arange(n)[None] < right


# pass@k.


@pytest.mark.parametrize("n", [1, 4, 9])
def test_pass_at_k_is_the_closed_form(n: int) -> None:
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        wanted = 1 - math.comb(n - right, k) / math.comb(n, k)
        assert pass_at_k(samples_with(right, n), k)[0] == pytest.approx(wanted, abs=1e-12)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample() -> None:
    random = np.random.default_rng(0)
    correct = random.random((3, 6)) < [[0.2], [0.5], [0.7]]
    for k in (1, 3, 6):
        subsets = list(itertools.combinations(range(6), k))
        wanted = [np.mean([row[list(s)].any() for s in subsets]) for row in correct]
        np.testing.assert_allclose(pass_at_k(correct, k), wanted, atol=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    # 40000 problems with success rate 0.3, six samples each: pass@4 is 1 - 0.7^4.
    correct = np.random.default_rng(1).random((40_000, 6)) < 0.3
    assert pass_at_k(correct, 4).mean() == pytest.approx(1 - 0.7**4, abs=0.005)
    # What it replaces, any success among all six, is not.
    assert abs(correct.any(axis=1).mean() - (1 - 0.7**4)) > 0.05


def test_pass_at_k_does_not_overflow() -> None:
    value = pass_at_k(samples_with(1, 5000), 2500)[0]
    assert value == pytest.approx(0.5)
    assert pass_at_k(samples_with(0, 5000), 5000)[0] == 0


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_needs_k_samples(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} with 4 samples"):
        pass_at_k(samples_with(1, 4), k)


# Evaluation. Verdicts: three problems, four samples each; then of corrections, by (problem, sample
# that was given back).

FIRST = {
    "a": [Outcome.CORRECT, Outcome.WRONG, Outcome.WRONG, Outcome.CORRECT],
    "b": [Outcome.WRONG, Outcome.NO_ANSWER, Outcome.WRONG, Outcome.WRONG],
    "c": [Outcome.CORRECT, Outcome.CORRECT, Outcome.NO_ANSWER, Outcome.TIMEOUT],
}
CORRECTED = {
    ("a", 0): Outcome.CORRECT,
    ("a", 1): Outcome.WRONG,
    ("b", 0): Outcome.CORRECT,
    ("b", 1): Outcome.WRONG,
    ("c", 0): Outcome.CORRECT,
    ("c", 1): Outcome.WRONG,
}


PARAMS = {"weights": 0}


class Attempter:
    """Gives the verdicts above and notes what it was asked."""

    def __init__(self, first: dict[str, list[Outcome]]) -> None:
        self.first = first
        self.calls: list[tuple[int, int, Any, str]] = []

    def __call__(
        self, params: Any, prompts: Sequence[Prompt], samples: int, key: jax.Array, purpose: str
    ) -> list[Attempt]:
        assert params == PARAMS
        self.calls.append((len(prompts), samples, jax.random.key_data(key).tolist(), purpose))
        attempts = []
        for prompt in prompts:
            for j in range(samples):
                if prompt.anchor is None:
                    outcome = self.first[prompt.problem.id][j]
                else:
                    outcome = CORRECTED[prompt.problem.id, int(prompt.anchor.text)]
                length = np.zeros(j + 1, np.int32)
                completion = Completion(length, length.astype(np.float32), True)
                attempts.append(Attempt(prompt, completion, str(j), Verdict(outcome)))
        return attempts


def run(
    corrected_attempts: int, first: dict[str, list[Outcome]] = FIRST
) -> tuple[dict[str, float], list[Attempt], Attempter]:
    attempter = Attempter(first)
    metrics, attempts = evaluate(
        attempter,
        PARAMS,
        [Prompt(Problem(name, "?"), np.array([1])) for name in first],
        lambda anchor: Prompt(anchor.problem, np.array([1, 2]), anchor=anchor),
        samples=4,
        pass_at=(1, 2),
        corrected_attempts=corrected_attempts,
        key=jax.random.key(5),
    )
    return metrics, attempts, attempter


def test_rates_by_hand() -> None:
    metrics, attempts, _ = run(corrected_attempts=2)
    # Two of four right: pass@1 1/2, pass@2 1 - C(2,2)/C(4,2) = 5/6; problem b has none.
    rates = {
        "pass@1": (1 / 2 + 0 + 1 / 2) / 3,
        "pass@2": (5 / 6 + 0 + 5 / 6) / 3,
        "pass@1_stderr": np.std([1 / 2, 0, 1 / 2]) / math.sqrt(3),
        "pass@2_stderr": np.std([5 / 6, 0, 5 / 6]) / math.sqrt(3),
        "length/mean": 2.5,
        "no_answer": 2 / 12,
        # Given back: a right, wrong; b wrong, no answer; c right, right.
        "correction/accuracy_before": 3 / 6,
        "correction/accuracy_after": 3 / 6,
        "correction/r2r": 2 / 3,
        "correction/w2r": 1 / 3,
    }
    assert metrics == pytest.approx(rates)
    assert len(attempts) == 12 + 6
    assert [a.problem.id for a in attempts[:12]] == list("aaaabbbbcccc")
    quoted = [(a.problem.id, a.prompt.anchor.text) for a in attempts if a.prompt.anchor]
    assert quoted == list(itertools.product("abc", "01"))


def test_the_passes_draw_from_different_keys() -> None:
    _, _, attempter = run(corrected_attempts=1)
    first, second = attempter.calls
    assert first[:2] == (3, 4) and second[:2] == (3, 1)
    assert first[2] == jax.random.key_data(jax.random.key(5)).tolist() != second[2]


def test_without_corrections_nothing_is_said_of_them() -> None:
    metrics, attempts, attempter = run(corrected_attempts=0)
    assert not [name for name in metrics if name.startswith("correction")]
    assert (len(attempts), len(attempter.calls)) == (12, 1)


@pytest.mark.parametrize(
    ("problem", "present", "absent"), [("b", "w2r", "r2r"), ("c", "r2r", "w2r")]
)
def test_a_rate_over_nothing_is_absent(problem: str, present: str, absent: str) -> None:
    metrics, _, _ = run(corrected_attempts=2, first={problem: FIRST[problem]})
    assert f"correction/{present}" in metrics and f"correction/{absent}" not in metrics
