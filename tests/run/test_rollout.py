"""The path from prompts to attempts: order, and which verdict belongs to which text."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
import pytest

from cipo_jax.run.rollout import Attempter
from cipo_jax.types import Attempt, Completion, Outcome, Problem, Prompt, Verdict

SAMPLES = 3
ARRIVAL = [7, 0, 3, 8, 1, 6, 2, 5, 4]  # requests in the order in which they finish
PROMPTS = [Prompt(Problem(f"p{i}", "?"), np.array([i], np.int32)) for i in range(3)]


class Tokenizer:
    def decode(self, ids: list[int]) -> str:
        assert isinstance(ids, list)
        return "-".join(map(str, ids))


class Answer(Future):
    """Fails where another future would wait for ever."""

    def result(self, timeout: float | None = None) -> Any:
        assert self.done()
        return super().result(timeout)


class Pool:
    """Answers when asked to, and notes the order of submissions."""

    def __init__(self) -> None:
        self.submitted: list[tuple[str, str]] = []
        self.open: list[Future] = []

    def submit(self, problem: Problem, text: str) -> Future:
        self.submitted.append((problem.id, text))
        self.open.append(Answer())
        return self.open[-1]

    def answer(self) -> None:
        """The verdict repeats what was judged; the last submission is answered first."""
        for (problem, text), future in reversed(list(zip(self.submitted, self.open, strict=True))):
            future.set_result(Verdict(Outcome.WRONG, extracted=f"{problem}:{text}"))


class Setup:
    def __init__(self) -> None:
        self.pool = Pool()
        self.asked: list[Any] = []
        self.submitted_at: list[int] = []  # submissions when each completion is asked for

    def sample(
        self, params: Any, prompts: Sequence[np.ndarray], samples: int, key: Any
    ) -> Iterator[tuple[int, Completion]]:
        self.asked = [params, [p.tolist() for p in prompts], samples, key]
        for request in ARRIVAL:
            self.submitted_at.append(len(self.pool.submitted))
            tokens = np.array([request, 10 * request], np.int32)
            yield request, Completion(tokens, tokens.astype(np.float32), finished=True)
        self.pool.answer()

    def attempter(self, *options: Any) -> Attempter:
        return Attempter(self.sample, self.pool, Tokenizer(), *options)  # type: ignore[arg-type]

    def attempt(self, *options: Any) -> list[Attempt]:
        return ask(self.attempter(*options))


def ask(attempter: Attempter) -> list[Attempt]:
    return attempter("params", PROMPTS, SAMPLES, "key", "test")  # type: ignore[arg-type]


@pytest.fixture
def done() -> tuple[Setup, list[Attempt]]:
    setup = Setup()
    return setup, setup.attempt()


def test_attempts_are_prompt_major_whatever_the_order_of_arrival(done: Any) -> None:
    setup, attempts = done
    assert setup.asked == ["params", [[0], [1], [2]], SAMPLES, "key"]
    assert [int(a.completion.tokens[0]) for a in attempts] == list(range(9))
    assert [a.prompt for a in attempts] == [PROMPTS[i // SAMPLES] for i in range(9)]


def test_each_attempt_has_its_own_text_and_verdict(done: Any) -> None:
    _, attempts = done
    for request, attempt in enumerate(attempts):
        assert attempt.text == f"{request}-{10 * request}"
        assert attempt.verdict.extracted == f"{attempt.problem.id}:{attempt.text}"


def test_completions_go_to_the_pool_while_others_are_being_sampled(done: Any) -> None:
    setup, _ = done
    assert setup.submitted_at == list(range(9))
    assert [text for _, text in setup.pool.submitted] == [f"{r}-{10 * r}" for r in ARRIVAL]


def test_a_failure_of_the_pool_is_not_swallowed() -> None:
    setup = Setup()

    def fail() -> None:
        for future in setup.pool.open:
            future.set_exception(RuntimeError("the pool is gone"))

    setup.pool.answer = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the pool is gone"):
        setup.attempt()


def test_no_prompts_no_attempts() -> None:
    nothing = Attempter(lambda *_: iter(()), Pool(), Tokenizer())  # type: ignore[arg-type]
    assert nothing({}, [], SAMPLES, jax.random.key(0), "test") == []


def test_texts_end_before_the_first_stop_string() -> None:
    """Judged and kept so; the tokens still hold it."""
    setup = Setup()
    attempts = setup.attempt(("-", "7"), 0)
    assert [a.text for a in attempts] == [str(r) if r != 7 else "" for r in range(9)]
    assert [text for _, text in setup.pool.submitted] == [
        a.text for a in map(attempts.__getitem__, ARRIVAL)
    ]
    assert [a.completion.tokens[1] for a in attempts] == [10 * r for r in range(9)]
    # A stop string that is complete with min_new_tokens tokens does not end a text.
    assert Setup().attempt(("7",), 1)[7].text.startswith("7")


def test_time_hidden_behind_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling takes 4 s after the first completion, the verdicts 2 s more; calls add up."""
    setup = Setup()
    clock = [100.0]
    monkeypatch.setattr("cipo_jax.run.rollout.time.monotonic", lambda: clock[0])
    sample, result = setup.sample, Answer.result

    def slow_sample(*args: Any) -> Iterator[tuple[int, Completion]]:
        clock[0] += 10  # before there is anything to verify
        for i, item in enumerate(sample(*args)):
            clock[0] += 0.5 if i else 0
            yield item

    def slow_result(answer: Answer, timeout: float | None = None) -> Any:
        clock[0] += 2 / 9
        return result(answer, timeout)

    setup.sample = slow_sample  # type: ignore[method-assign]
    monkeypatch.setattr(Answer, "result", slow_result)
    judged = {"latency_p50_seconds": 0.1, "latency_p99_seconds": 0.9, "restarts": 5}
    setup.pool.stats = lambda: judged  # type: ignore[attr-defined]
    attempter = setup.attempter()
    for _ in range(2):
        ask(attempter)
        setup.pool.submitted.clear()
        setup.pool.open.clear()
    measures = attempter.take_measures()
    assert measures["time/verify_wait"] == pytest.approx(2 * 2)
    assert measures["time/verify_hidden"] == pytest.approx(1 - 2 / 6)
    assert (measures["time/verify_p50"], measures["time/verify_p99"]) == (0.1, 0.9)
    assert measures["verify/lost_workers"] == 5
    # Counted anew, and nothing is said of nothing.
    judged["restarts"] = 6
    again = attempter.take_measures()
    assert again["time/verify_wait"] == 0 and "time/verify_hidden" not in again
    assert again["verify/lost_workers"] == 1


def test_verifiers_see_the_tag_by_which_the_prompt_opened_a_thought():
    setup = Setup()
    prompts = [dataclasses.replace(prompt, opening="<think>") for prompt in PROMPTS]
    attempts = setup.attempter()({}, prompts, SAMPLES, jax.random.key(0), "sampling")
    assert {text[:7] for _, text in setup.pool.submitted} == {"<think>"}
    assert not any("<think>" in attempt.text for attempt in attempts)
