"""The phases of a run or a mode: how long each took, and a line where nothing was printed for long,
which says what it waits for: a slow run can be told from a stuck one.

    rollout  62 s: 37 of 384 completions left, about 7 s, 5 verdicts outstanding

Decides when such a line is printed; what it says comes from the code that waits.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_LOOKS_A_LINE = 4  # looks of the thread before the first line is due
_LONGEST_LOOK = 1.0  # seconds


@dataclasses.dataclass
class _Phase:
    """What is going on."""

    name: str
    for_what: str
    began: float


class Heartbeat:
    """Times the phases of one thread; a context manager that owns the thread which prints.

    Args:
      seconds: of silence after which a line is due; 0 prints nothing.
      prints: whether this host does.
    """

    def __init__(self, seconds: float = 0.0, prints: bool = True) -> None:
        self._seconds = seconds
        self._phase: _Phase | None = None
        self._last_line = time.monotonic()
        self._waits: list[Callable[[], str]] = []
        self._times: dict[str, float] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if seconds and prints:
            self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
            self._thread.start()

    def begin(self, phase: str, for_what: str = "") -> None:
        """Ends the phase before and begins one; its time is added to that of its name.

        Args:
          for_what: what it waits for, outside `waiting`.
        """
        self.end()
        self._phase = _Phase(phase, for_what, time.monotonic())

    def said(self) -> None:
        """Something was printed: the silence begins anew."""
        self._last_line = time.monotonic()

    def end(self) -> None:
        """Ends the phase, if there is one."""
        phase, self._phase = self._phase, None
        if phase is not None:
            elapsed = time.monotonic() - phase.began
            self._times[phase.name] = self._times.get(phase.name, 0.0) + elapsed

    def take_times(self) -> dict[str, float]:
        """{phase: seconds} of what has ended since this was last asked."""
        times, self._times = self._times, {}
        return times

    @contextlib.contextmanager
    def waiting(self, for_what: Callable[[], str]) -> Iterator[None]:
        """Inside, a line says `for_what()`, which is called from another thread; of several, the
        innermost. Any thread may enter it."""
        self._waits.append(for_what)
        try:
            yield
        finally:
            self._waits.remove(for_what)

    def counting(
        self, items: Iterable[Item], what: str, total: int | None = None
    ) -> Iterator[Item]:
        """`items`; while they are taken, a line says how many were, and about how long the rest
        takes if their `total` is known."""
        began, done = time.monotonic(), 0

        def so_far() -> str:
            if total is None:
                return f"{done} {what}"
            return f"{done} of {total} {what}{time_left(done, total, time.monotonic() - began)}"

        with self.waiting(so_far):
            for item in items:
                yield item
                done += 1

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> "Heartbeat":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def due(self, now: float) -> str | None:
        """The line that is due at `now` (of `time.monotonic`), if one is; each is due once."""
        phase, waits = self._phase, self._waits[-1:]  # once: another thread may end them meanwhile
        if phase is None or now - self._last_line < self._seconds:
            return None
        self._last_line = now
        what = waits[0]() if waits else phase.for_what
        return f"{phase.name}  {now - phase.began:.0f} s: {what}".rstrip(": ")

    def _watch(self) -> None:
        while not self._closed.wait(min(self._seconds / _LOOKS_A_LINE, _LONGEST_LOOK)):
            if line := self.due(time.monotonic()):
                print(line, flush=True)


def time_left(done: int, total: int, seconds: float) -> str:
    """ ", about 7 s" if `done` of `total` took `seconds`, as the rest of a line; "" if none are."""
    return f", about {seconds * (total - done) / done:.0f} s" if 0 < done < total else ""
