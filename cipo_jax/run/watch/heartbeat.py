"""The phases of a step: how long each took, and, if one takes long, a line that says what it waits
for, so that a slow run can be told from a stuck one.

    rollout  62 s: 37 of 384 completions left, 5 verdicts outstanding

Decides when such a line is printed; what it says comes from the code that waits.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

_LOOKS_A_LINE = 4  # looks of the thread before the first line is due
_LONGEST_LOOK = 1.0  # seconds


@dataclasses.dataclass
class _Phase:
    """What is going on; the next line is due `next` seconds after `began`."""

    name: str
    for_what: str
    began: float
    next: float


class Heartbeat:
    """Times the phases of one thread; a context manager that owns the thread which prints.

    Args:
      seconds: after which a phase is long; its next lines come after twice that, four times, and
        so on. 0 prints nothing.
      prints: whether this host does.
    """

    def __init__(self, seconds: float = 0.0, prints: bool = True) -> None:
        self._seconds = seconds
        self._phase: _Phase | None = None
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
        self._phase = _Phase(phase, for_what, time.monotonic(), self._seconds)

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
        if phase is None or now - phase.began < phase.next:
            return None
        phase.next *= 2
        what = waits[0]() if waits else phase.for_what
        return f"{phase.name}  {now - phase.began:.0f} s: {what}".rstrip(": ")

    def _watch(self) -> None:
        while not self._closed.wait(min(self._seconds / _LOOKS_A_LINE, _LONGEST_LOOK)):
            if line := self.due(time.monotonic()):
                print(line, flush=True)
