"""How long until all hosts know of a slow or dying one, by a clock that the test moves."""

from types import SimpleNamespace
from typing import Any

import pytest

from cipo_jax.run.hosts.preemption import Notice
from cipo_jax.run.hosts.processes import SILENCE_SECONDS, WATCH_SECONDS, Watcher


class Store:
    """A coordinator's key-value store.

    Attributes:
      answered: entries that it has sent.
    """

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.answered = 0

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None:
        assert allow_overwrite
        self.entries[key] = value

    def key_value_dir_get(self, place: str) -> list[tuple[str, str]]:
        found = [entry for entry in self.entries.items() if entry[0].startswith(place)]
        self.answered += len(found)
        return found


class Run:
    """Several hosts, each with a watcher that looks every WATCH_SECONDS, one after the other."""

    def __init__(self, count: int) -> None:
        self.store, self.now = Store(), 0.0
        self.hosts: list[Any] = [
            SimpleNamespace(count=count, index=i, first=i == 0, failure=None, notice=Notice())
            for i in range(count)
        ]
        self.watchers = [Watcher(host, self.store, begin=False) for host in self.hosts]
        self.known: dict[int, float] = {}  # host -> when it knew of a failure

    def go_on(self, seconds: float, without: int | None = None) -> None:
        """Lets all hosts live on but one."""
        end = self.now + seconds
        while self.now < end:
            for host, watcher in zip(self.hosts, self.watchers, strict=True):
                if host.index != without:
                    watcher.look(self.now + WATCH_SECONDS * host.index / len(self.hosts))
                    if host.failure is not None:
                        self.known.setdefault(host.index, self.now)
            self.now += WATCH_SECONDS


@pytest.mark.parametrize("count", [2, 5, 64])
@pytest.mark.parametrize("dying", [1, -1, 0])
def test_all_know_of_a_silent_host_after_two_looks_more(count: int, dying: int) -> None:
    run, dying = Run(count), dying % count
    run.go_on(10)
    died = run.now
    run.go_on(SILENCE_SECONDS - WATCH_SECONDS, without=dying)
    assert not run.known
    run.go_on(3 * WATCH_SECONDS, without=dying)
    assert run.known.keys() == set(range(count)) - {dying}
    assert max(run.known.values()) - died <= SILENCE_SECONDS + 2 * WATCH_SECONDS
    others = [host for host in run.hosts if host.index != dying]
    assert all(f"host {dying} has shown no sign of life" in host.failure for host in others)


def test_a_host_that_never_came_is_silent_too() -> None:
    run = Run(3)
    run.go_on(SILENCE_SECONDS + 2 * WATCH_SECONDS, without=2)
    assert run.known.keys() == {0, 1}


@pytest.mark.parametrize("slow", [0, 2])
def test_a_slow_host_is_waited_for(slow: int) -> None:
    run = Run(4)
    for _ in range(3):
        run.go_on(5)
        run.go_on(SILENCE_SECONDS - 2 * WATCH_SECONDS, without=slow)
    run.go_on(SILENCE_SECONDS)
    assert not run.known


@pytest.mark.parametrize("failed", [0, 3])
def test_a_failure_is_known_after_a_look(failed: int) -> None:
    run = Run(4)
    run.go_on(10)
    run.watchers[failed].announce("the pool is broken")
    began = run.now
    run.go_on(WATCH_SECONDS)
    assert run.known == dict.fromkeys(range(4), began)
    assert all(f"host {failed} has failed" in host.failure for host in run.hosts)
    assert [watcher.look(run.now) for watcher in run.watchers] == [i == failed for i in range(4)]


def test_a_preemption_is_told_once_and_known_after_two_looks() -> None:
    run = Run(64)
    run.go_on(2)
    run.hosts[40].notice.give()
    run.go_on(2 * WATCH_SECONDS)
    assert all(host.notice.given for host in run.hosts) and not run.known
    assert sum("preempted" in key for key in run.store.entries) == 1


def test_a_host_that_has_ended_is_not_silent() -> None:
    run = Run(3)
    run.go_on(5)
    run.watchers[1]._put("cipo_jax/signs/", "ended", "")
    run.go_on(2 * SILENCE_SECONDS, without=1)
    assert not run.known


def test_what_the_store_answers_grows_with_the_hosts_and_not_with_their_square() -> None:
    def answered(count: int) -> int:
        run = Run(count)
        run.go_on(4 * WATCH_SECONDS)  # all have been seen
        before = run.store.answered
        run.go_on(WATCH_SECONDS)
        return run.store.answered - before

    # The first host reads the signs of all others, and each host the first one's.
    assert [answered(count) for count in (2, 16, 256)] == [2 * n - 1 for n in (2, 16, 256)]
