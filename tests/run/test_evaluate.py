"""The evaluation of attempts whose verdicts are known."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from cipo_jax.run.evaluate import (
    count_votes,
    evaluate,
    evaluate_corrections,
    evaluate_critiques,
    measure_rounds,
    plain_values,
)
from cipo_jax.run.measures import find_metric
from cipo_jax.types import Attempt, Completion, Outcome, Problem, Prompt, Verdict

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
    return plain_values(metrics), attempts, attempter


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
        "error": 0,
        "correction/error": 0,
        # Given back: a right, wrong; b wrong, no answer; c right, right.
        "correction/accuracy_before": 3 / 6,
        "correction/accuracy_after": 3 / 6,
        "correction/r2r": 2 / 3,
        "correction/r2w": 1 / 3,
        "correction/w2r": 1 / 3,
        # The wrong one of a has two right ones among three others, those of b have none.
        "correction/resampled_w2r": 2 / 9,
        "correction/w2r_gain": 1 / 3 - 2 / 9,
    }
    of_corrections = [k for k in metrics if k.startswith("correction/") and "stderr" in k]
    assert {k: v for k, v in metrics.items() if k not in of_corrections} == pytest.approx(rates)
    # Of 2 each, 1, 0 and 2 were right: the residuals are 0, -1/2 and 1/2.
    assert metrics["correction/accuracy_before_stderr"] == pytest.approx(math.sqrt(1 / 18))
    assert len(of_corrections) == 8
    assert len(attempts) == 12 + 6
    assert [a.problem.id for a in attempts[:12]] == list("aaaabbbbcccc")
    quoted = [(a.problem.id, a.prompt.anchor.text) for a in attempts if a.prompt.anchor]
    assert quoted == list(itertools.product("abc", "01"))


def test_true_lines_are_counted_of_attempts_alone() -> None:
    """Sample j has j lines; those of problem a are true, and of the others the first one."""

    def true_lines(problem: Problem, text: str) -> list[bool]:
        return [problem.id == "a" or i == 0 for i in range(int(text))]

    def evaluated(checker: Any) -> dict[str, float]:
        prompts = [Prompt(Problem(name, "?"), np.array([1])) for name in FIRST]
        how = {"samples": 4, "pass_at": (1,), "corrected_attempts": 2, "key": jax.random.key(5)}
        write = lambda a: Prompt(a.problem, np.array([1, 2]), anchor=a)  # noqa: E731
        return plain_values(
            evaluate(Attempter(FIRST), PARAMS, prompts, write, **how, true_lines=checker)[0]
        )

    metrics = evaluated(true_lines)
    assert metrics["lines_true"] == pytest.approx((6 + 3 + 3) / 18)
    assert metrics["lines_true_stderr"] > 0 and find_metric("eval/lines_true_stderr")
    assert "lines_true" not in evaluated(lambda problem, text: [])
    assert "lines_true" not in evaluated(None)


def test_given_attempts_are_corrected_besides() -> None:
    prompts = {name: Prompt(Problem(name, "?"), np.array([1])) for name in FIRST}
    nothing = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), True)
    given = [
        Attempt(prompts[name], nothing, "0", Verdict(outcome))
        for name, outcome in (("a", Outcome.CORRECT), ("b", Outcome.WRONG), ("c", Outcome.WRONG))
    ]
    attempter = Attempter(FIRST)
    metrics, attempts = evaluate(
        attempter,
        PARAMS,
        list(prompts.values()),
        lambda anchor: Prompt(anchor.problem, np.array([1, 2]), anchor=anchor),
        samples=4,
        pass_at=(1,),
        corrected_attempts=2,
        given=given,
        key=jax.random.key(5),
    )
    values = plain_values(metrics)
    rates = {
        "accuracy_before": 1 / 3,
        "accuracy_after": 1,
        "r2r": 1,
        "r2w": 0,
        "w2r": 1,
        "error": 0,
    }
    shown = {k: v for k, v in values.items() if k.startswith("given/") and "stderr" not in k}
    assert shown == pytest.approx({f"given/{k}": v for k, v in rates.items()})
    # What is said of own attempts is as without.
    alone, _, _ = run(corrected_attempts=2)
    assert {k: values[k] for k in alone if k.startswith("corr")} == {
        k: v for k, v in alone.items() if k.startswith("corr")
    }
    assert [a.prompt.anchor for a in attempts[-3:]] == given
    assert len({str(call[2]) for call in attempter.calls}) == 3


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


# Rounds. By problem and by what was written: "1cc" is what two corrections made of sample 1.

ROUNDS = {
    "a": {"0": "r", "1": "w", "2": "w", "3": "w", "0c": "w", "0cc": "r", "0ccc": "r"}
    | {"1c": "w", "1cc": "w", "1ccc": "w"},
    "b": {"0": "w", "1": "w", "2": "w", "3": "r", "0c": "r", "0cc": "error"}
    | {"1c": "w", "1cc": "r", "1ccc": "w"},
}
OUTCOMES = {"r": Outcome.CORRECT, "w": Outcome.WRONG, "error": Outcome.ERROR}


def run_rounds(**arguments: Any) -> tuple[dict[str, Any], list[Attempt], list[list[int]]]:
    """Attempts take 4 tokens, corrections 2."""
    keys = []

    def attempt(params: Any, prompts: Any, samples: int, key: Any, purpose: str) -> list[Attempt]:
        keys.append(jax.random.key_data(key).tolist())
        made = []
        for prompt, j in itertools.product(prompts, range(samples)):
            text = f"{prompt.anchor.text}c" if prompt.anchor else str(j)
            tokens = np.zeros(2 if prompt.anchor else 4, np.int32)
            done = Completion(tokens, tokens.astype(np.float32), True)
            outcome = OUTCOMES[ROUNDS[prompt.problem.id][text]]
            made.append(Attempt(prompt, done, text, Verdict(outcome)))
        return made

    metrics, attempts = evaluate(
        attempt,
        PARAMS,
        [Prompt(Problem(name, "?", answer="1"), np.array([1])) for name in ROUNDS],
        lambda anchor: Prompt(anchor.problem, np.array([1, 2]), anchor=anchor),
        samples=4,
        pass_at=(1,),
        corrected_attempts=2,
        key=jax.random.key(5),
        **arguments,
    )
    return metrics, attempts, keys


def test_rounds_by_hand() -> None:
    metrics, attempts, keys = run_rounds(correction_rounds=3, same_answers=lambda pairs: [])
    assert [a.text for a in attempts[8:]] == [
        *("0c", "1c", "0c", "1c", "0cc", "1cc", "0cc", "1cc"),
        *("0ccc", "1ccc", "1ccc"),  # what has no verdict is not corrected
    ]
    assert len(set(map(str, keys))) == 4
    # pass@1 is 1/4, pass@2 1/2, pass@3 3/4, of both problems. Nobody answers wrongly, so that a
    # vote is right wherever an attempt is.
    rounds = {
        1: {"accuracy": 1 / 4, "solved": 1 / 2, "attempts": 6 / 4, "pass": 3 / 8},
        2: {"accuracy": 2 / 3, "solved": 2 / 3, "attempts": 8 / 4, "pass": 1 / 2},
        3: {"accuracy": 1 / 3, "solved": 2 / 3, "attempts": 10 / 4, "pass": 5 / 8},
    }
    for r, of in rounds.items():
        of |= {"solved_gain": of["solved"] - of["pass"], "vote": of["pass"]}
        found = {name: metrics[f"correction/round_{r}/{name}"].value for name in of}
        assert found == pytest.approx(of)
    gain = metrics["correction/round_2/solved_gain"]
    assert gain.low < gain.value < gain.high
    assert metrics["correction/w2r_gain"].value == pytest.approx(1 / 3 - 1 / 3)


def test_one_round_is_what_it_was() -> None:
    one, attempts, _ = run_rounds()
    more, further, _ = run_rounds(correction_rounds=3)
    assert not [name for name in one if "round_" in name]
    assert {name: more[name] for name in one} == one
    assert [a.text for a in further[: len(attempts)]] == [a.text for a in attempts]
    assert not [name for name in more if name.endswith("vote")]  # without a judge of answers
    assert all(find_metric(f"eval/{name}") for name in more)


def test_too_few_samples_for_the_tokens_of_a_round_say_nothing_of_it() -> None:
    wrong, right = (
        Attempt(
            Prompt(Problem("p", "?"), np.array([1])),
            Completion(np.zeros(4, np.int32), np.zeros(4, np.float32), True),
            "",
            Verdict(outcome),
        )
        for outcome in (Outcome.WRONG, Outcome.CORRECT)
    )
    metrics = measure_rounds([[wrong, wrong, right]], [[wrong, right]], rounds=2)
    assert metrics["correction/round_1/pass"].value == 1
    assert metrics["correction/round_2/attempts"].value == 3
    kept = {"accuracy", "solved", "attempts"}
    assert {k.rpartition("/")[2] for k in metrics if "round_2" in k} == kept


# Attempts without a verdict.

FAILED = {
    "a": [Outcome.CORRECT, Outcome.ERROR, Outcome.WRONG, Outcome.ERROR],
    "b": [Outcome.ERROR, Outcome.NO_ANSWER, Outcome.WRONG, Outcome.CORRECT],
    "c": [Outcome.ERROR] * 4,
}


def test_errors_are_neither_right_nor_wrong() -> None:
    metrics, attempts, attempter = run(corrected_attempts=2, first=FAILED)
    rates = {
        "pass@1": (1 / 2 + 1 / 3) / 2,
        "pass@2": (1 + 2 / 3) / 2,
        "no_answer": (0 + 1 / 3) / 2,
        "error": (2 + 1 + 4) / 12,
        "length/mean": 2.5,
        # Given back: the right one of a, of b the one without an answer.
        "correction/accuracy_before": 1 / 2,
        "correction/accuracy_after": 1 / 2,
        "correction/r2r": 1,
        "correction/r2w": 0,
        "correction/w2r": 0,
        "correction/error": 0,
        "correction/resampled_w2r": 1 / 2,  # of two others with a verdict
        "correction/w2r_gain": -1 / 2,
    }
    assert {k: v for k, v in metrics.items() if "stderr" not in k} == pytest.approx(rates)
    assert attempter.calls[1][0] == 2 and len(attempts) == 12 + 2


def test_without_any_verdict_only_errors_and_lengths_are_known() -> None:
    metrics, _, _ = run(corrected_attempts=1, first={"c": FAILED["c"]})
    assert metrics == {"error": 1.0, "length/mean": 2.5}


def test_corrections_and_critiques_without_a_verdict_are_left_out() -> None:
    none = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), True)
    right, wrong, failed = Outcome.CORRECT, Outcome.WRONG, Outcome.ERROR
    outcomes = [right, failed, failed, failed, wrong, wrong]  # of three prompts, two each

    def attempt(params: Any, prompts: Any, samples: int, key: Any, purpose: str) -> list[Attempt]:
        return [Attempt(prompts[i // 2], none, "", Verdict(o)) for i, o in enumerate(outcomes)]

    problems = [
        Problem(str(i), "?", answer) for i, answer in enumerate(["correct", "incorrect"] * 2)
    ]
    prompts = [Prompt(p, np.array([1])) for p in problems[:3]]
    anchors = [
        Attempt(p, none, "", Verdict(o))
        for p, o in zip(prompts, [wrong, right, right], strict=True)
    ]
    key = jax.random.key(0)
    found, _ = evaluate_corrections(attempt, PARAMS, anchors, lambda a: a.prompt, 2, key)
    shown = {k: v for k, v in plain_values(found).items() if "stderr" not in k}
    assert shown == pytest.approx(
        {
            "correction/accuracy_before": 1 / 2,
            "correction/accuracy_after": 1 / 2,
            "correction/w2r": 1,
            "correction/r2r": 0,
            "correction/r2w": 1,
            "correction/error": 1 / 2,
        }
    )
    found, _ = evaluate_critiques(attempt, PARAMS, prompts, 2, key, list("abc"))
    values = plain_values(found)
    # The one find is not known; the third is a false alarm.
    assert values["critique/accuracy"] == pytest.approx(1 / 2) and values["error"] == 1 / 2
    assert values["critique/f1"] == 0


# Votes, given attempts, critiques.


def answered(problem: Problem, answers: Sequence[str | None], right: str) -> list[Attempt]:
    none = np.zeros(0, np.int32)
    completion = Completion(none, none.astype(np.float32), True)
    outcomes = [
        Outcome.NO_ANSWER if a is None else Outcome.CORRECT if a == right else Outcome.WRONG
        for a in answers
    ]
    return [
        Attempt(Prompt(problem, np.array([1])), completion, "", Verdict(outcome, extracted=a))
        for a, outcome in zip(answers, outcomes, strict=True)
    ]


def test_wrong_answers_that_are_equal_are_one_class() -> None:
    group = answered(Problem("a", "?", "7"), ["7", "1/2", "0.5", None, "3", "7", "0.50"], "7")
    halves = {"1/2", "0.5", "0.50"}

    def same(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [set(pair) <= halves for pair in pairs]

    assert count_votes(group, same) == (2, [3, 1], 1)
    failed = [
        Attempt(a.prompt, a.completion, "", Verdict(Outcome.ERROR, extracted="7")) for a in group
    ]
    assert count_votes([*group, *failed], same) == (2, [3, 1], 1)
    assert count_votes(group, lambda pairs: [False] * len(pairs)) == (2, [1, 1, 1, 1], 1)


def test_majority_needs_answers_and_an_equality() -> None:
    problem = Problem("a", "?", "7")

    def attempt(params: Any, prompts: Any, samples: int, key: Any, purpose: str) -> list[Attempt]:
        return answered(prompts[0].problem, ["7", "7", "1", "2"], "7")

    def metrics(problem: Problem, same: Any) -> dict[str, float]:
        prompts = [Prompt(problem, np.array([1]))]
        key = jax.random.key(0)
        found, _ = evaluate(
            attempt,
            PARAMS,
            prompts,
            lambda a: a.prompt,
            samples=4,
            pass_at=(1, 4),
            corrected_attempts=0,
            key=key,
            same_answers=same,
        )
        return plain_values(found)

    def never(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [False] * len(pairs)

    with_votes = metrics(problem, never)
    assert with_votes["maj@4"] == 1.0 and with_votes["maj@1"] == with_votes["pass@1"] == 0.5
    assert "maj@4" not in metrics(problem, None)
    assert "maj@4" not in metrics(Problem("a", "?", tests={"type": "stdin"}), never)


def test_given_attempts_by_hand() -> None:
    problems = [Problem("x/1", "?"), Problem("x/2", "?"), Problem("y", "?")]
    before = [Outcome.CORRECT, Outcome.WRONG, Outcome.WRONG]
    after = [[True, False], [True, True], [False, False]]
    none = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), True)
    anchors = [
        Attempt(Prompt(p, np.array([1])), none, "", Verdict(o))
        for p, o in zip(problems, before, strict=True)
    ]

    def attempt(params: Any, prompts: Any, samples: int, key: Any, purpose: str) -> list[Attempt]:
        assert samples == 2 and [p.anchor for p in prompts] == anchors
        verdicts = [Outcome.CORRECT if r else Outcome.WRONG for row in after for r in row]
        return [
            Attempt(prompts[i // 2], none, "", Verdict(verdict))
            for i, verdict in enumerate(verdicts)
        ]

    metrics, attempts = evaluate_corrections(
        attempt,
        PARAMS,
        anchors,
        lambda a: Prompt(a.problem, np.array([1]), anchor=a),
        samples=2,
        key=jax.random.key(0),
        groups=["x", "x", "y"],
    )
    shown = {k: v for k, v in plain_values(metrics).items() if "stderr" not in k}
    assert shown == pytest.approx(
        {
            "correction/accuracy_before": 1 / 3,
            "correction/accuracy_after": (0.5 + 1 + 0) / 3,
            "correction/r2r": 0.5,
            "correction/r2w": 0.5,
            "correction/w2r": 0.5,
            "correction/error": 0,
        }
    )
    assert len(attempts) == 6
    # One of the two groups has no right attempt, and a single one says little.
    assert metrics["correction/r2r"].low < 0.01 and metrics["correction/r2r"].high > 0.99


def test_critiques_by_hand() -> None:
    labels = ["incorrect", "incorrect", "correct", "correct", "incorrect"]
    said = ["incorrect", "correct", "correct", "incorrect", None]
    prompts = [Prompt(Problem(str(i), "?", label), np.array([1])) for i, label in enumerate(labels)]

    def attempt(params: Any, prompts: Any, samples: int, key: Any, purpose: str) -> list[Attempt]:
        return [
            answered(p.problem, [s], p.problem.answer)[0]
            for p, s in zip(prompts, said, strict=True)
        ]

    metrics, _ = evaluate_critiques(
        attempt, PARAMS, prompts, samples=1, key=jax.random.key(0), groups=list("abcde")
    )
    # One of three wrong attempts found, one false alarm.
    assert metrics["critique/accuracy"].value == pytest.approx(2 / 5)
    assert metrics["critique/f1"].value == pytest.approx(2 / (2 + 2 + 1))
    assert metrics["no_answer"].value == pytest.approx(1 / 5)
