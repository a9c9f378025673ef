"""Being asked to end: what a run does on SIGTERM.

Preempted machines, schedulers and `kill` send SIGTERM and some seconds later SIGKILL. The run then
abandons the current rollout or evaluation (both are functions of the seed and the step), saves the
state of the last finished step, and exits with `EXIT_CODE`. The same command continues it. A
further SIGTERM changes nothing; SIGINT (Ctrl-C) ends a run at once, without saving.

Decided here: the exit code and how the signal is caught. The loops decide where a run checks for
it: between decode chunks, while verdicts are awaited, and between steps of the cold start.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator

# sysexits.h calls it EX_TEMPFAIL, "try again"; nothing else in this program exits with it.
EXIT_CODE = 75


class Preempted(Exception):
    """The run was asked to end. Code that catches it saves what is worth keeping and re-raises."""


class Notice:
    """Whether the run has been asked to end; once given it stays."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def given(self) -> bool:
        return self._event.is_set()

    def give(self) -> None:
        self._event.set()


@contextlib.contextmanager
def notice_of_sigterm() -> Iterator[Notice]:
    """A notice that SIGTERM gives, as long as the context lasts. Outside the main thread, which
    alone may handle signals, nothing gives it."""
    notice = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = signal.signal(signal.SIGTERM, lambda *_: notice.give())
    try:
        yield notice
    finally:
        # None: it was not set from Python.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
