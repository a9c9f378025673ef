"""What workers share: the modules they import; not the state of a verifier."""

import os
from pathlib import Path

from processes import children_of, read_process, state_of

from cipo_jax.types import Problem
from cipo_jax.verifiers.pool import VerifierPool

PROBLEM = Problem(id="p", question="?", answer="yes")

STATEFUL = """
import os, random, sys
import numpy as np
calls = 0
BEFORE = "sympy" in sys.modules

def verify(problem, text):
    global calls
    calls += 1
    if text == "exit":
        os._exit(1)
    draws = (random.random(), np.random.random())
    return Verdict("correct", f"{calls} {draws} {BEFORE} {__name__} {os.getppid()}")

from cipo_jax.types import Verdict
"""


def test_a_verifier_is_new_in_each_worker(tmp_path):
    (tmp_path / "stateful.py").write_text(STATEFUL)
    with VerifierPool(f"{tmp_path}/stateful.py:verify", workers=1, timeout_seconds=5.0) as pool:
        seen = []
        for _ in range(3):
            first, second = (pool.submit(PROBLEM, "").result().extracted for _ in range(2))
            assert (first[0], second[0]) == ("1", "2")
            seen.append(first)
            pool.submit(PROBLEM, "exit").result()
    assert len(set(seen)) == 3  # random numbers differ
    assert all(" False verifier_stateful " in each for each in seen)  # not what math alone needs
    assert len({each.split()[-1] for each in seen}) == 1  # of the same process


def test_a_verifier_that_has_changed_is_read_anew(tmp_path):
    module = tmp_path / "changing.py"
    module.write_text("def verify(problem, text):\n    return True\n")
    kind = f"{module}:verify"
    with VerifierPool(kind, workers=1, timeout_seconds=5.0, recycle_after=1) as pool:
        assert pool.submit(PROBLEM, "").result().correct
        module.write_text("def verify(problem, text):\n    return len(text) > 99_999\n")
        os.utime(module, (0, 0))
        assert [pool.submit(PROBLEM, "").result().correct for _ in range(3)][-1] is False


def test_a_math_worker_has_no_import_left_to_do():
    with VerifierPool("math", workers=1, timeout_seconds=20.0) as pool:
        pool.submit(PROBLEM, "").result()
        (zygote,) = children_of(os.getpid(), "cipo_jax.verifiers.zygote")
        (worker,) = children_of(zygote)
        maps = Path(f"/proc/{worker}/smaps_rollup").read_text()
    sizes = {line.split()[0]: int(line.split()[1]) for line in maps.splitlines()[1:]}
    assert sizes["Rss:"] > 2 * (sizes["Private_Dirty:"] + sizes["Private_Clean:"])  # most is shared


LEAVING = """
import os, time

def verify(problem, text):
    if text == "leave" and os.fork() == 0:
        os.setsid()
        os._exit(0)
    if text == "leave":
        time.sleep(0.2)
    os._exit(1)
"""


def test_the_dead_that_workers_leave_behind_are_waited_for(tmp_path):
    (tmp_path / "leaving.py").write_text(LEAVING)
    with VerifierPool(f"{tmp_path}/leaving.py:verify", workers=1, timeout_seconds=5.0) as pool:
        for text in ("leave", "leave", "", ""):  # those of one worker at the end of the next
            pool.submit(PROBLEM, text).result()
        (zygote,) = children_of(os.getpid(), "cipo_jax.verifiers.zygote")
        below = read_process(zygote, f"task/{zygote}/children").split()
        states = [state_of(int(pid)) for pid in below]
    assert "Z" not in states
