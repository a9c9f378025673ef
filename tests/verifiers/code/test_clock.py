"""What counts as a program's time."""

import os
import subprocess
import sys
import time

import pytest
from sandboxes import judge

from cipo_jax.types import Outcome
from cipo_jax.verifiers.code.clock import Clock, wall_seconds

SPIN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"
CALLS = {"type": "call", "entry_point": "f", "cases": [{"input": [1], "output": 2}]}
STDIN = {"type": "stdin", "cases": [{"input": "1", "output": "2"}] * 2}
ASSERTS = {"type": "assert", "asserts": ["assert f(1) == 2"]}


@pytest.fixture
def busy():
    """Four spinning processes for each processor."""
    command = [sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(command) for _ in range(4 * len(os.sched_getaffinity(0)))]
    yield
    for process in spinning:
        process.kill()
        process.wait()


def program(tests: dict, wait: str) -> str:
    if tests["type"] == "stdin":
        return f"{wait}print(int(input()) + 1)"
    return "def f(n):\n" + "".join(f"    {line}\n" for line in [*wait.splitlines(), "return n + 1"])


@pytest.mark.slow
@pytest.mark.parametrize("tests", [CALLS, STDIN, ASSERTS], ids=lambda t: t["type"])
def test_a_busy_machine_costs_a_program_nothing(tests, busy):
    spin = program(tests, SPIN.format(seconds=0.5))
    limited = {**tests, "time_limit": 1.2, "total_time_limit": 4.0}
    if not os.path.exists("/proc/self/schedstat"):
        pytest.skip("the kernel does not tell how long a process waits")
    # How long it takes by the wall clock is the scheduler's choice: often well over a second.
    assert judge(limited, spin).outcome is Outcome.CORRECT
    too_long = program(tests, SPIN.format(seconds=3.0))
    assert judge(limited, too_long).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize("tests", [CALLS, STDIN, ASSERTS], ids=lambda t: t["type"])
def test_sleeping_counts(tests):
    sleeps = program(tests, "import time\ntime.sleep(60)\n")
    start = time.monotonic()
    assert judge({**tests, "time_limit": 0.5}, sleeps).outcome is Outcome.TIMEOUT
    assert time.monotonic() - start < 15


def test_a_clock_without_the_kernels_word_counts_all_time():
    clock = Clock(0.05)
    clock.watch(0)
    clock.watch(1 << 22)  # there is no such process
    assert not clock.is_over
    time.sleep(0.06)
    assert clock.used() >= 0.05
    assert clock.is_over


def test_there_is_a_verdict_in_any_case():
    assert wall_seconds({"total_time_limit": 120}, 10.0) > 1200
    assert wall_seconds({}, 10.0) == wall_seconds(None, 10.0) > 100
    assert wall_seconds({"total_time_limit": "much"}, 10.0) == wall_seconds({}, 10.0)
