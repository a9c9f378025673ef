"""Whether processes of other sessions run, for tests that start or kill them."""

import time
from pathlib import Path


def read_process(pid: int, name: str) -> str:
    """A file of /proc/<pid>; empty when the process has ended, also while it is being read."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def state_of(pid: int) -> str:
    """One letter: "R" runs, "S" sleeps, "Z" has ended and is not waited for; "" is gone."""
    return read_process(pid, "stat").rpartition(")")[2].strip()[:1]


def is_running(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


def wait_until_gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


def children_of(pid: int, argument: str = "") -> list[int]:
    """The running children of a process that have `argument` on their command line."""
    threads = [task.name for task in Path(f"/proc/{pid}/task").glob("*")]
    children = [
        int(child)
        for thread in threads
        for child in read_process(pid, f"task/{thread}/children").split()
    ]
    return [
        child
        for child in children
        if is_running(child)
        and (not argument or argument in read_process(child, "cmdline").split("\0"))
    ]
