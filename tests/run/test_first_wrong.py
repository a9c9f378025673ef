"""The wrong attempts of a first evaluation, and what a later one makes of them."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from invented_run import make_attempt

from cipo_jax.config.keys import Rollout
from cipo_jax.rl.replay import ReplayState
from cipo_jax.run.evaluate import plain_values
from cipo_jax.run.first_wrong import FirstWrong, follow
from cipo_jax.run.host_state import HostState
from cipo_jax.run.measures import find_metric
from cipo_jax.run.statistics import Estimate, share_estimate
from cipo_jax.types import Attempt, Completion, Outcome, Problem, Prompt, Verdict

PROBLEMS = [Problem(name, "?", "1") for name in "abc"]
PROMPTS = [Prompt(problem, np.array([1]), opening="<think>") for problem in PROBLEMS]
# By problem, which of the quoted texts a correction mends.
MENDED = {"a": {"x"}, "b": set(), "c": {"y", "z"}}


def correct(
    params: Any, prompts: Sequence[Prompt], samples: int, key: jax.Array, purpose: str
) -> list[Attempt]:
    """Mends what `MENDED` says; the correction of "lost" has no verdict."""
    assert (params, samples) == ("weights", 1)
    found = []
    for prompt in prompts:
        assert prompt.anchor is not None
        text = prompt.anchor.text
        outcome = Outcome.CORRECT if text in MENDED[prompt.problem.id] else Outcome.WRONG
        outcome = Outcome.ERROR if text == "lost" else outcome
        nothing = Completion(np.zeros(1, np.int32), np.zeros(1, np.float32), True)
        found.append(Attempt(prompt, nothing, "", Verdict(outcome)))
    return found


def at(
    step: int,
    first: FirstWrong | None,
    attempts: Sequence[Attempt],
    estimates: dict[str, Estimate] | None = None,
) -> tuple[FirstWrong, dict[str, float], list[Attempt]]:
    """What is known after the evaluation at `step`."""
    known, metrics, corrections = follow(
        first,
        step,
        estimates or {},
        attempts,
        correct,
        "weights",  # type: ignore[arg-type]
        PROMPTS,
        lambda anchor: Prompt(anchor.problem, np.array([1, 2]), anchor=anchor),
        jax.random.key(0),
    )
    assert first in (None, known)
    return known, plain_values(metrics), corrections


def wrong(*of: tuple[int, str]) -> list[Attempt]:
    """Wrong attempts with these problems and texts, and their corrections."""
    base = [make_attempt(PROBLEMS[i], text, False) for i, text in of]
    return [*base, *(make_attempt(a.problem, "", False, a) for a in base)]


def test_own_wrong_attempts_that_were_corrected_are_remembered() -> None:
    a, b, c = PROBLEMS
    mistake, right = make_attempt(a, "wrong", False), make_attempt(b, "right", True)
    never, made = make_attempt(c, "never", False), make_attempt(c, "made by the task", False)
    once = make_attempt(a, "once", False, mistake)
    twice = make_attempt(a, "twice", False, once)  # a second round quotes the first
    of_right, of_made = (make_attempt(x.problem, "", False, x) for x in (right, made))
    found, _, asked = at(7, None, [mistake, right, never, once, of_right, twice, of_made])
    assert (found.step, asked) == (7, [])
    assert [(of.problem_id, of.text) for of in found.attempts] == [("a", "wrong")]


def test_rates_by_hand() -> None:
    """Of 6 wrong attempts 3 are mended: 1 of 3 at a, 0 of 1 at b, 2 of 2 at c. Of the attempts now
    1 of 2, 0 of 2 and 2 of 2 are right there. A correction without a verdict counts nowhere."""
    texts = (0, "x"), (0, "w"), (0, "v"), (0, "lost"), (1, "x"), (2, "y"), (2, "z")
    first, _, _ = at(0, None, wrong(*texts))
    right = {0: (True, False), 1: (False, False), 2: (True, True)}
    now = [make_attempt(PROBLEMS[i], "", r) for i, rights in right.items() for r in rights]
    now += [make_attempt(a.problem, "", True, a) for a in now]  # corrections are no other attempts
    _, metrics, corrections = at(5, first, now)
    values = {k: v for k, v in metrics.items() if "stderr" not in k}
    resampled = (3 * 0.5 + 0 + 2 * 1) / 6
    assert values == pytest.approx(
        {
            "first_wrong/w2r": 3 / 6,
            "first_wrong/resampled_w2r": resampled,
            "first_wrong/w2r_gain": 3 / 6 - resampled,
        }
    )
    assert [c.prompt.anchor.text for c in corrections if c.prompt.anchor] == [
        *"xwv",
        "lost",
        *"xyz",
    ]
    assert all(find_metric(f"eval/{name}") for name in metrics)


def test_the_quoted_attempt_is_as_the_prompt_shows_it() -> None:
    """Its opening, and what failed, which `correction.show_failed_test` shows."""
    base = make_attempt(PROBLEMS[0], "x", False)
    verdict = Verdict(Outcome.TIMEOUT, extracted="7", detail="f(1) ran too long")
    base = dataclasses.replace(base, verdict=verdict)
    first, _, _ = at(0, None, [base, make_attempt(PROBLEMS[0], "", True, base)])
    _, _, (correction,) = at(5, first, [base])
    quoted = correction.prompt.anchor
    assert quoted is not None
    assert (quoted.text, quoted.verdict, quoted.prompt.opening) == ("x", verdict, "<think>")


def test_without_a_wrong_attempt_nothing_is_asked() -> None:
    nothing, _, _ = at(0, None, [])
    assert at(5, nothing, []) == (nothing, {}, [])


def test_at_the_first_evaluation_they_are_its_own() -> None:
    """Also where it is repeated, by a run that was stopped after it: nothing is corrected again."""
    rate, other = share_estimate(np.array([0.5])), share_estimate(np.array([0.25]))
    estimates = {"correction/w2r": rate, "correction/r2r": other, "pass@1": other}
    first, metrics, _ = at(0, None, wrong((0, "x")), estimates)
    assert {k: v for k, v in metrics.items() if "stderr" not in k} == {"first_wrong/w2r": 0.5}
    assert at(0, first, wrong((0, "x")), estimates) == (first, metrics, [])


def test_a_checkpoint_holds_them() -> None:
    """Text as a model may write it included."""
    first, _, _ = at(0, None, wrong((0, "x\n\ud800é"), (2, "")))
    state = HostState(ReplayState(0.3), first_wrong=first)
    raw = json.loads(json.dumps(state.to_json()))
    assert HostState.from_json(raw, Rollout(), 4) == state
    del raw["first_wrong"]  # a checkpoint of an older version
    assert HostState.from_json(raw, Rollout(), 4).first_wrong is None
