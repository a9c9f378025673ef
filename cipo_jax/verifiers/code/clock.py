"""How much time a program has used of what it may.

This file decides what counts as a program's time: the time that has passed, less the time during
which the program was ready to run and waited for a processor. So sleeping counts, and a machine
that is busy with other things costs a program nothing. Where the kernel does not tell how long a
process waited (`/proc/<pid>/schedstat`), all time that has passed counts.

Waiting is bounded too: `WALL_TIMES` times the limit after the start the program's time is over in
any case.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

WALL_TIMES = 10
_START_SECONDS = 60.0  # for the sandboxes of an item to start and stop on a busy machine
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group


class Clock:
    """The time of the processes that run one program and its tests."""

    def __init__(self, total_seconds: float):
        self.total_seconds = total_seconds
        self._began = time.monotonic()
        self._waits: dict[int, tuple[float, float]] = {}  # process -> waited at first, at last

    def restart(self) -> None:
        """The time so far was not the program's."""
        self._began = time.monotonic()

    def watch(self, process: int) -> None:
        """Counts what this process waits from now on; 0: it is not known which."""
        if process > 0 and process not in self._waits:
            waited = _waited(process)
            self._waits[process] = waited, waited

    def used(self) -> float:
        """Seconds of the program's time."""
        for process, (first, last) in self._waits.items():
            self._waits[process] = first, max(last, _waited(process))
        waited = sum(last - first for first, last in self._waits.values())
        return max(time.monotonic() - self._began - waited, 0.0)

    @property
    def is_over(self) -> bool:
        passed = time.monotonic() - self._began
        return self.used() >= self.total_seconds or passed >= WALL_TIMES * self.total_seconds


def wall_seconds(tests: Mapping[str, Any] | None, default_total: float) -> float:
    """After how many seconds there is a verdict on a program in any case.

    Args:
      default_total: the limit for all tests of a problem that has none of its own.
    """
    total = (tests or {}).get("total_time_limit", default_total)
    return WALL_TIMES * (total if isinstance(total, int | float) else default_total) + (
        _START_SECONDS
    )


def sender_of(channel: socket.socket) -> int:
    """The process that sent what is to be read next, as the kernel says; 0 if it does not."""
    size = socket.CMSG_SPACE(_CREDENTIALS.size)
    try:
        _, ancillary, _, _ = channel.recvmsg(1, size, socket.MSG_PEEK)
    except OSError:
        return 0
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return _CREDENTIALS.unpack_from(data)[0]
    return 0


def _waited(process: int) -> float:
    """How long the process has waited for a processor, in seconds: the thread that waited most."""
    waits = [0]
    try:
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/schedstat") as file:
                waits.append(int(file.read().split()[1]))
    except (OSError, ValueError, IndexError):  # it has ended, or the kernel does not tell
        pass
    return max(waits) / 1e9
