"""The path from prompts to attempts: order, and which verdict belongs to which text."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
import pytest

from cipo_jax.attempts import make_attempter
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

    def attempt(self) -> list[Attempt]:
        attempter = make_attempter(self.sample, self.pool, Tokenizer())  # type: ignore[arg-type]
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
    nothing = make_attempter(lambda *_: iter(()), Pool(), Tokenizer())  # type: ignore[arg-type]
    assert nothing({}, [], SAMPLES, jax.random.key(0), "test") == []
