"""What a hostile program cannot do. Each attack is one property; each runs only in a sandbox.

An attack is a program for the problem "double(n) returns 2 * n" that does something hostile and
then answers wrongly, so that CORRECT would mean that it got away with cheating. What it found or
managed it raises as an error, whose text is in the verdict.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import (
    CALLS,
    CHEATS,
    FAULTS,
    FORBIDDEN,
    HANGS,
    HONEST,
    LIMITS,
    QUESTION,
    SECRET,
    SURVIVORS,
    TESTS,
    judge_and_go_on,
)
from outlivers import OUTLIVERS, outliver
from places import ROOT

from cipo_jax.types import Outcome, Problem
from cipo_jax.verifiers.code.tests import verify_code
from cipo_jax.verifiers.pool import VerifierPool
from cipo_jax.verifiers.sandbox.layers import Limits


@pytest.mark.parametrize("attack", FORBIDDEN)
def test_a_forbidden_act_fails(sandbox, attack, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    harness = Path(__file__)
    abstract = f"cipo-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0{abstract}")
        local.listen()
        act = FORBIDDEN[attack].format(
            port=server.getsockname()[1],
            secret=str(secret),
            harness=str(harness),
            project=str(ROOT),
            abstract=abstract,
        )
        body = "\n".join("        " + line for line in act.splitlines())
        program = (
            "def double(n):\n    try:\n" + body + "\n    except BaseException:\n"
            "        return n + n\n    return 'IT WORKED'\n"
        )
        # The act fails, then the program answers rightly: CORRECT says that nothing came of it.
        assert judge_and_go_on(sandbox, "call", program).outcome is Outcome.CORRECT
    assert secret.read_text() == "SECRET"


def test_the_acts_would_be_noticed(sandbox):
    """The form of the test above tells an act that works from one that fails."""
    program = (
        "def double(n):\n    try:\n        open('/tmp/own', 'w').close()\n"
        "    except BaseException:\n        return n + n\n    return 'IT WORKED'\n"
    )
    assert judge_and_go_on(sandbox, "call", program).outcome is Outcome.WRONG


def test_an_end_of_iteration_does_not_end_the_tests_loop(best):
    tests = {"type": "assert", "asserts": ["assert all(map(double, [1, 2]))"], **LIMITS}
    problem = Problem("p", QUESTION, tests=tests)
    cheat = "def double(n): raise StopIteration"
    assert verify_code(problem, cheat, sandbox=best).outcome is Outcome.WRONG
    assert verify_code(problem, HONEST, sandbox=best).correct


@pytest.mark.parametrize("kind", TESTS)
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_does_not_pass(best, cheat, kind):
    verdict = judge_and_go_on(best, kind, CHEATS[cheat])
    assert verdict.outcome in (Outcome.WRONG, Outcome.TIMEOUT), verdict
    assert SECRET not in verdict.detail


@pytest.mark.parametrize("kind", TESTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_programs_fault_is_no_error(sandbox, fault, kind):
    """Also where a program harms the process that runs it; ERROR is for tests and sandboxes."""
    verdict = judge_and_go_on(sandbox, kind, FAULTS[fault])
    assert verdict.outcome in (Outcome.WRONG, Outcome.TIMEOUT), verdict


@pytest.mark.parametrize("kind", ["assert", "stdin"])
@pytest.mark.parametrize("hang", HANGS)
def test_what_does_not_end_is_a_timeout(best, hang, kind):
    call = "if True:\n" if kind == "stdin" else "def double(n):\n"
    program = HANGS[hang].format(call=call)
    if kind == "stdin":
        program = program.replace("return ", "print").replace("print9", "print(9") + (
            ")" if hang == "big power" else ""
        )
    verdict = judge_and_go_on(best, kind, program, time_limit=0.4)
    assert verdict.outcome is Outcome.TIMEOUT, verdict
    assert "killed after" in verdict.detail


@pytest.mark.parametrize("filtered", [True, False], ids=["seccomp", "no seccomp"])
@pytest.mark.parametrize("survivor", SURVIVORS)
def test_nothing_survives(sandbox, survivor, filtered, monkeypatch):
    """Also where libseccomp is missing: the pid namespace and the limits must do."""
    if not filtered:
        monkeypatch.setattr(sandbox, "filter", None)
    before = _sleepers()
    program = (
        "import os, subprocess, sys, threading, time\ndef double(n):\n    try:\n        "
        + SURVIVORS[survivor]
        + "\n    except BaseException: pass\n    return 0\n"
    )
    verdict = judge_and_go_on(sandbox, "call", program)
    assert verdict.outcome in (Outcome.WRONG, Outcome.TIMEOUT), verdict
    deadline = time.monotonic() + 5
    while _sleepers() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _sleepers() - before


@pytest.mark.parametrize(
    ("kind", "filtered"),
    [
        ("call", True),
        ("call", False),
        *(
            pytest.param(kind, filtered, marks=pytest.mark.slow)
            for kind in ("assert", "stdin")
            for filtered in (False, True)
        ),
    ],
)
@pytest.mark.parametrize("name", OUTLIVERS)
def test_no_process_outlives_its_verdict(any_sandbox, name, kind, filtered, monkeypatch):
    if not filtered:
        monkeypatch.setattr(any_sandbox, "filter", None)
    before, memory = _sleepers(), _resident_bytes()
    start = time.monotonic()
    verdict = judge_and_go_on(any_sandbox, kind, outliver(name, kind), time_limit=0.4)
    assert time.monotonic() - start < 0.4 + 4.0  # starts and an honest program, on a busy machine
    assert verdict.outcome in (Outcome.TIMEOUT, Outcome.WRONG), verdict
    assert not _sleepers() - before  # without any waiting
    assert not _dead()
    assert _resident_bytes() - memory < 32 << 20


@pytest.mark.parametrize("kind", ["call", "assert", "stdin"])
def test_no_program_outlives_its_worker(sandbox, kind):
    """The pool kills a worker at once: nobody can ask for the end of its sandboxes any more."""
    before = _sleepers()
    tests = {**TESTS[kind], "time_limit": 60, "total_time_limit": 60}
    script = (
        "import sys\nfrom cipo_jax.types import Problem\n"
        "from cipo_jax.verifiers.code.tests import verify_code\n"
        "from cipo_jax.verifiers.sandbox.layers import Sandbox\n"
        f"sandbox = Sandbox({sandbox.layer!r})\nsandbox.filter = None\n"
        f"problem = Problem('p', {QUESTION!r}, tests={tests!r})\n"
        f"verify_code(problem, {outliver('cleared signal', kind)!r}, sandbox=sandbox)\n"
    )
    judge = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    sandboxes = {"stdin": 2, "call": 1}.get(kind, 2)  # processes that wait, with the programs
    deadline = time.monotonic() + 20
    while len(_sleepers() - before) < sandboxes and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert len(_sleepers() - before) >= sandboxes
    os.killpg(judge.pid, signal.SIGKILL)
    judge.wait()
    deadline = time.monotonic() + 5
    while _sleepers() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _sleepers() - before


def test_what_runs_in_a_sandbox_would_be_seen(sandbox):
    """Else the test above could not fail."""
    before = _sleepers()
    job = {"role": "functions", "programs": ["import time\ntime.sleep(60)"]}
    with sandbox.start(job, Limits()):
        deadline = time.monotonic() + 5
        while not _sleepers() - before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _sleepers() - before


def test_a_killed_worker_takes_its_sandboxes_along(best, monkeypatch):
    """The pool kills a worker whose item takes too long; what that item runs must go as well."""
    before = _sleepers()
    program = "def double(n):\n    while True: pass"
    tests = {**CALLS, "time_limit": 60, "total_time_limit": 60}
    with VerifierPool("code", workers=1, timeout_seconds=1.0) as pool:
        monkeypatch.setattr(pool, "_seconds_for", lambda problem: 1.0)
        verdict = pool.submit(Problem("p", QUESTION, tests=tests), program).result()
        assert verdict.outcome is Outcome.TIMEOUT
        assert pool.submit(Problem("p", QUESTION, tests=CALLS), HONEST).result().correct
        pool.submit(Problem("p", QUESTION, tests=tests), program)
        time.sleep(0.3)
    deadline = time.monotonic() + 5
    while _sleepers() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _sleepers() - before


@pytest.fixture(scope="module", autouse=True)
def adopt_orphans() -> Iterator[None]:
    """Has the kernel make this process the parent of whatever its descendants leave behind."""
    set_child_subreaper = 36  # from linux/prctl.h
    ctypes.CDLL(None).prctl(set_child_subreaper, 1)
    yield
    ctypes.CDLL(None).prctl(set_child_subreaper, 0)


def _resident_bytes() -> int:
    """Of all processes below this one."""
    below = _sleepers()
    listed = subprocess.run(["ps", "-eo", "pid=,rss="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return sum(int(kilobytes) << 10 for pid, kilobytes in rows if int(pid) in below)


def _dead() -> list[str]:
    """Children of this process that have ended and that nobody has waited for."""
    command = ["ps", "--ppid", str(os.getpid()), "-o", "stat=,pid="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if line.strip().startswith("Z")]


def _sleepers() -> set[int]:
    """Processes below this one, those that were left behind included, that run a sandbox's
    interpreter or what the survivors start. Other tests' and other programs' do not count."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}

    def is_below(pid: int) -> bool:
        while pid and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid != 0

    marks = ("-I -S -c", "/bin/sleep 60", "time.sleep(60)")
    return {
        int(pid)
        for pid, _, *arguments in rows
        if any(mark in " ".join(arguments) for mark in marks) and is_below(int(pid))
    }


def test_a_file_raced_against_the_judge_changes_nothing(best):
    """Files that look like the judge's are swapped while it runs; it reads none of them."""
    program = (
        "import os, threading\n"
        "def swap():\n    for i in range(99_999):\n"
        "        for name in ('result', 'stdout', 'out.json', 'passed'):\n"
        "            try:\n                open('/tmp/' + name, 'w').write('true')\n"
        "                os.replace('/tmp/' + name, '/tmp/expected')\n"
        "            except OSError: pass\n"
        "threading.Thread(target=swap, daemon=True).start()\ndef double(n): return 0"
    )
    for kind in TESTS:
        assert judge_and_go_on(best, kind, program).outcome is Outcome.WRONG


# Looks through all frames and all containers for the expected value, and returns it.
SEARCH = """
import gc, sys
def double(n):
    needle = n * 229293444 + 18  # no constant of this program
    text = str(needle)
    own = (id(needle), id(text))
    def holds(v):
        if id(v) in own:
            return False
        return v == needle if type(v) is int else type(v) is str and text in v
    places, frame = [], sys._getframe(1)
    while frame:
        places += [frame.f_locals, frame.f_globals, frame.f_code.co_consts]
        frame = frame.f_back
    for place in places + gc.get_objects():
        if type(place) in (list, tuple, dict) and place is not places:
            for v in list(place.values() if type(place) is dict else place):
                if holds(v):
                    return needle
    return 0
"""


@pytest.mark.parametrize("kind", ["assert", "check_fn", "call"])
def test_frames_and_heap_hold_no_expected_value(best, kind):
    tests = {**TESTS[kind]}
    marked = "4815162342"
    if kind == "call":
        tests["cases"] = [{"input": [21], "output": int(marked)}]
    else:
        source = f"assert {'double' if kind == 'assert' else 'candidate'}(21) == {marked}"
        if kind == "assert":
            tests["asserts"] = [source]
        else:
            tests["code"] = f"def check(candidate):\n    {source}\n"
    problem = Problem("p", QUESTION, tests=tests)
    verdict = verify_code(problem, f"```python\n{SEARCH}\n```", sandbox=best)
    assert verdict.outcome is Outcome.WRONG
    assert marked not in verdict.detail
    planted = f"{SEARCH}\nPLANTED = [{marked}]"  # there it is found
    assert verify_code(problem, f"```python\n{planted}\n```", sandbox=best).correct
