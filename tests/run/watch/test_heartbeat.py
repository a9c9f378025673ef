"""Lines of long phases, and the times of all."""

import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from cipo_jax.run.rollout import Attempter
from cipo_jax.run.watch.heartbeat import Heartbeat, time_left
from cipo_jax.types import Completion, Outcome, Problem, Prompt, Verdict


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time.monotonic says, to be set."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_long_phase_says_what_it_waits_for(clock: list[float]) -> None:
    left = 37
    beat = Heartbeat(30.0, prints=False)
    beat.begin("rollout", "the device")
    assert beat.due(129.9) is None
    with beat.waiting(lambda: "verdicts"), beat.waiting(lambda: f"{left} left"):
        assert beat.due(130.0) == "rollout  30 s: 37 left"
        left = 5
        assert beat.due(162.0) == "rollout  62 s: 5 left"
    assert beat.due(220.0) == "rollout  120 s: the device"
    clock[0] = 221.0
    beat.begin("correct")
    assert beat.due(250.0) == "correct  29 s"


def test_silence_counts_over_phases_and_ends_with_every_line(clock: list[float]) -> None:
    beat = Heartbeat(30.0, prints=False)
    assert beat.due(1000.0) is None  # there is no phase
    said = []
    for second in range(300):
        clock[0] = 100.0 + second
        if second % 20 == 0:
            beat.begin(f"phase {second // 20}")
        if second == 200:
            beat.said()
        if line := beat.due(clock[0]):
            said.append((second, line))
    seconds = [30, 60, 90, 120, 150, 180, 230, 260, 290]
    assert said == [(s, f"phase {s // 20}  {s % 20} s") for s in seconds]
    beat.end()
    assert beat.due(1000.0) is None


def test_counting_says_how_many_items_were_taken(clock: list[float]) -> None:
    beat = Heartbeat(10.0, prints=False)
    beat.begin("verify")
    said = []
    for _ in beat.counting(range(4), "items judged", 4):
        clock[0] += 10
        said.append(beat.due(clock[0]))
    assert said == [
        "verify  10 s: 0 of 4 items judged",
        "verify  20 s: 1 of 4 items judged, about 60 s",
        "verify  30 s: 2 of 4 items judged, about 30 s",
        "verify  40 s: 3 of 4 items judged, about 13 s",
    ]
    for _ in beat.counting("ab", "attempts"):
        clock[0] += 10
        said.append(beat.due(clock[0]))
    assert said[4:] == ["verify  50 s: 0 attempts", "verify  60 s: 1 attempts"]
    assert beat.due(clock[0] + 10) == "verify  70 s"


def test_the_time_left_is_what_the_rest_takes_at_the_same_speed() -> None:
    assert time_left(30, 40, 60.0) == ", about 20 s"
    assert time_left(0, 40, 60.0) == time_left(40, 40, 60.0) == ""


def test_the_thread_prints_what_is_due(capsys: pytest.CaptureFixture) -> None:
    printed, give_up = "", time.monotonic() + 20
    with Heartbeat(0.01) as beat:
        beat.begin("rollout", "the device")
        while not printed and time.monotonic() < give_up:
            time.sleep(0.01)
            printed = capsys.readouterr().out
    assert re.match(r"rollout  \d+ s: the device\n", printed)


@pytest.mark.parametrize("options", [{"seconds": 0.0}, {"seconds": 0.01, "prints": False}])
def test_there_need_not_be_a_thread(options: dict, capsys: pytest.CaptureFixture) -> None:
    before = threading.active_count()
    with Heartbeat(**options) as beat:
        assert threading.active_count() == before
        beat.begin("rollout")
        time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_the_thread_ends_with_the_context() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), Heartbeat(60.0):
        assert threading.active_count() == before + 1
        raise ZeroDivisionError
    assert threading.active_count() == before


def test_times_add_up_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.0, 3.0, 3.0, 7.0])
    beat = Heartbeat()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    beat.begin("update")
    beat.begin("score")
    beat.begin("update")
    beat.end()
    assert beat.take_times() == {"update": 5.0, "score": 2.0}
    assert beat.take_times() == {}


def test_what_sampling_waits_for() -> None:
    """As the attempter says it: completions that have not come, and verdicts of those that have."""
    beat = Heartbeat()
    said: list[str] = []
    verdicts: list[Future] = []

    class Pool:
        def submit(self, *_: object) -> Future:
            verdicts.append(Future())
            return verdicts[-1]

    def sample(*_: object) -> Iterator[tuple[int, Completion]]:
        for request in range(4):
            said.extend(wait() for wait in beat._waits)
            yield request, Completion(np.zeros(1, np.int32), np.zeros(1, np.float32), True)
            if request == 2:
                verdicts[0].set_result(Verdict(Outcome.WRONG))
        said.extend(wait() for wait in beat._waits)
        for verdict in verdicts[1:]:
            verdict.set_result(Verdict(Outcome.WRONG))

    tokenizer: Any = SimpleNamespace(decode=str)
    pool: Any = Pool()
    prompts = [Prompt(Problem("p", "?"), np.zeros(1, np.int32))] * 2
    attempt = Attempter(sample, pool, tokenizer, heartbeat=beat)
    assert len(attempt({}, prompts, 2, jax.random.key(0), "test")) == 4
    assert said == [
        "4 of 4 completions left, 0 verdicts outstanding",
        "3 of 4 completions left, about 0 s, 1 verdicts outstanding",
        "2 of 4 completions left, about 0 s, 2 verdicts outstanding",
        "1 of 4 completions left, about 0 s, 2 verdicts outstanding",
        "0 of 4 completions left, 3 verdicts outstanding",
    ]
    assert beat._waits == []
