"""Whether processes of other sessions run, for tests that start or kill them."""

import time
from pathlib import Path


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


def children_of(pid: int, argument: str = "") -> list[int]:
    """The running children of a process that have `argument` on their command line."""
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for each in listed for child in each.read_text().split()]
    return [
        child
        for child in children
        if is_running(child)
        and (not argument or argument in Path(f"/proc/{child}/cmdline").read_text().split("\0"))
    ]
