"""One bad item costs one verdict; no worker outlives the pool or its process."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, as_completed
from pathlib import Path

import pytest
from places import TESTS

from cipo_jax.types import CipoError, Outcome, Problem
from cipo_jax.verifiers.pool import VerifierPool

OBEY = "misbehaving_verifiers:obey"
PROBLEM = Problem(id="p", question="?", answer="yes", meta={"level": 1})


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(OBEY, workers=1, timeout_seconds=1.0, stand_ins=0) as shared:
        yield shared


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _wait_until_gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not _is_running(pid)


def _worker_pid(pool: VerifierPool) -> int:
    return int(pool.submit(PROBLEM, "pid").result().extracted or "")


def test_math_results_belong_to_their_items():
    problems = [Problem(str(i), "?", str(i)) for i in range(200)]
    with VerifierPool("math", workers=2, timeout_seconds=5.0) as pool:
        futures = {
            pool.submit(problem, rf"\boxed{{{i + i % 3}}}"): i for i, problem in enumerate(problems)
        }
        for future in as_completed(futures):
            i, verdict = futures[future], future.result()
            assert verdict.correct == (i % 3 == 0)
            assert verdict.extracted == str(i + i % 3)
            assert 0 < verdict.seconds < 5
        assert pool.submit(problems[0], "no idea").result().outcome is Outcome.NO_ANSWER
        assert pool.submit(Problem("x", "?", r"2\sqrt{2}"), r"\boxed{\sqrt{8}}").result().correct
        unanswerable = pool.submit(Problem("x", "?"), r"\boxed{1}").result()
        assert unanswerable.outcome is Outcome.ERROR
        assert "'x' has no reference answer" in unanswerable.detail
        stats = pool.stats()
    assert stats["verified"] == 203
    assert stats["errors"] == 1
    assert stats["timeouts"] == stats["restarts"] == 0
    assert 0 < stats["latency_p50_seconds"] <= stats["latency_p99_seconds"]
    assert stats["latency_p99_seconds"] <= stats["busy_seconds"]


@pytest.mark.parametrize(
    ("text", "outcome", "detail"),
    [
        ("yes", Outcome.CORRECT, ""),
        ("no", Outcome.WRONG, ""),
        ("numpy", Outcome.CORRECT, ""),
        ("score 1", Outcome.CORRECT, "score 1"),
        ("score 0.25", Outcome.WRONG, "score 0.25"),
        ("score 2", Outcome.ERROR, "wanted Verdict, bool, or a score"),
        ("score nan", Outcome.ERROR, "wanted Verdict, bool, or a score"),
        ("none", Outcome.ERROR, "returned str no verdict"),
        ("contradiction", Outcome.ERROR, "returned wrong with score 1"),
        ("raise", Outcome.ERROR, "ZeroDivisionError: division by zero"),
        ("sys.exit", Outcome.ERROR, "SystemExit"),
        ("allocate 3000000000", Outcome.ERROR, "MemoryError"),
        ("print", Outcome.CORRECT, ""),
        ("yes\x00\ud800", Outcome.WRONG, ""),
        ("yes" * 2_000_000, Outcome.WRONG, ""),
    ],
    ids=lambda value: str(value)[:12].encode("ascii", "replace").decode(),
)
def test_what_the_verifier_does_becomes_a_verdict(pool, text, outcome, detail):
    before = pool.stats()
    verdict = pool.submit(PROBLEM, text).result()
    assert verdict.outcome is outcome
    assert detail in verdict.detail
    assert pool.submit(PROBLEM, "yes").result().correct  # the answers stay in step
    assert pool.stats()["restarts"] == before["restarts"]


@pytest.mark.parametrize(
    ("text", "outcome", "detail"),
    [
        ("hang", Outcome.TIMEOUT, "killed after 1 s"),
        ("spin", Outcome.TIMEOUT, "killed after 1 s"),
        ("exit", Outcome.ERROR, "exited with status 3"),
        ("segfault", Outcome.ERROR, "killed by SIGSEGV"),
    ],
)
def test_a_lost_worker_costs_one_verdict_and_is_replaced(pool, text, outcome, detail):
    before, old_pid = pool.stats(), _worker_pid(pool)
    start = time.monotonic()
    verdict = pool.submit(PROBLEM, text).result()
    assert verdict.outcome is outcome
    assert detail in verdict.detail
    assert pool.submit(PROBLEM, "yes").result().correct
    assert time.monotonic() - start < 1.0 + 2.0  # the limit, and a restart on a busy machine
    assert _worker_pid(pool) != old_pid
    assert not _is_running(old_pid)
    after = pool.stats()
    assert after["restarts"] - before["restarts"] == 1
    assert after["timeouts"] - before["timeouts"] == (outcome is Outcome.TIMEOUT)
    assert after["errors"] - before["errors"] == (outcome is Outcome.ERROR)


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_killed_from_outside_costs_one_verdict(pool, name):
    pid = _worker_pid(pool)
    future = pool.submit(PROBLEM, "sleep 0.9")
    time.sleep(0.2)
    os.kill(pid, name)
    verdict = future.result()
    assert verdict.outcome is Outcome.ERROR
    assert name.name in verdict.detail
    assert pool.submit(PROBLEM, "yes").result().correct


def test_a_worker_killed_while_idle_costs_no_verdict(pool):
    restarts, pid = pool.stats()["restarts"], _worker_pid(pool)
    os.kill(pid, signal.SIGKILL)
    assert _wait_until_gone(pid)
    assert pool.submit(PROBLEM, "yes").result().correct
    assert pool.stats()["restarts"] == restarts + 1


def test_prints_go_to_stderr_only(capfd):
    with VerifierPool(OBEY, workers=1, timeout_seconds=5.0) as pool:
        assert pool.submit(PROBLEM, "print").result().correct
    printed = capfd.readouterr()
    assert printed.out == ""
    assert '{"outcome": "correct"}' in printed.err


def test_long_fields_are_cut(pool):
    verdict = pool.submit(PROBLEM, "huge").result()
    assert verdict.outcome is Outcome.WRONG
    assert len(verdict.extracted) == 1_000
    assert len(verdict.detail) == 500


def test_the_time_limit_counts_neither_queueing_nor_starting(pool):
    pool.submit(PROBLEM, "exit")  # a worker has to start before the next item
    futures = [pool.submit(PROBLEM, "sleep 0.4") for _ in range(4)]
    assert [future.result().outcome for future in futures] == [Outcome.CORRECT] * 4


def test_the_worker_has_no_accelerator_runtime(pool):
    modules = (pool.submit(PROBLEM, "modules").result().extracted or "").split()
    assert "cipo_jax" in modules
    assert not {"jax", "jaxlib", "tensorflow", "torch", "flax"} & set(modules)


def test_the_pool_stays_responsive_while_every_worker_hangs():
    with VerifierPool(OBEY, workers=1, timeout_seconds=60.0, stand_ins=1) as pool:
        hanging = [pool.submit(PROBLEM, "hang") for _ in range(2)]
        waiting = [pool.submit(PROBLEM, "yes") for _ in range(1_000)]
        start = time.monotonic()
        pool.stats()
        pool.slowest()
        assert time.monotonic() - start < 0.5
        while not all(future.running() for future in hanging):
            time.sleep(0.01)
        assert not any(future.done() for future in hanging + waiting)
        start = time.monotonic()
    assert time.monotonic() - start < 2.0
    assert all(future.cancelled() for future in waiting)
    assert [future.result().outcome for future in hanging] == [Outcome.ERROR] * 2


def test_recycling_replaces_workers_between_items():
    with VerifierPool(OBEY, workers=1, timeout_seconds=5.0, recycle_after=2) as pool:
        pids = [_worker_pid(pool) for _ in range(5)]
        stats = pool.stats()
    first, _, second, _, third = pids
    assert pids == [first, first, second, second, third]
    assert len({first, second, third}) == 3
    assert (stats["recycled"], stats["restarts"], stats["errors"]) == (2, 0, 0)


def test_slowest_items_come_first_by_id(pool):
    slow = Problem(id="slow one", question="?", answer="yes")
    seconds = pool.submit(slow, "sleep 0.95").result().seconds
    assert ("slow one", seconds) in pool.slowest()
    times = [seconds for _, seconds in pool.slowest()]
    assert times == sorted(times, reverse=True)
    assert len(times) <= 10


def test_after_close_nothing_runs_and_nothing_is_taken():
    pool = VerifierPool(OBEY, workers=2, timeout_seconds=60.0)
    pids = {int(pool.submit(PROBLEM, "pid").result().extracted or "") for _ in range(20)}
    waiting = [pool.submit(PROBLEM, "hang") for _ in range(3)][-1]
    pool.close()
    pool.close()
    assert not any(_is_running(pid) for pid in pids)
    with pytest.raises(CancelledError):
        waiting.result(timeout=1)
    with pytest.raises(CipoError, match="closed"):
        pool.submit(PROBLEM, "yes")


def test_what_a_verifier_started_is_killed_with_it(pool, tmp_path):
    pid_file = tmp_path / "pid"
    assert pool.submit(PROBLEM, f"child {pid_file}").result().outcome is Outcome.TIMEOUT
    assert _wait_until_gone(int(pid_file.read_text()))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("maths", "'maths' cannot be used.*not one of \\['auto', 'code', 'math'\\]"),
        ("no_such_module:verify", "No module named 'no_such_module'"),
        ("misbehaving_verifiers:no_such", "has no attribute 'no_such'"),
        ("misbehaving_verifiers:not_callable", "is not callable"),
        ("misbehaving_verifiers:one_argument", "cannot be called with \\(problem, text\\)"),
        ("no_such_file.py:verify", "No such file.*no_such_file.py"),
    ],
)
def test_a_verifier_that_cannot_be_loaded_is_refused(kind, message):
    with pytest.raises(CipoError, match="(?s)" + message):
        VerifierPool(kind, workers=2, timeout_seconds=1.0)


def test_the_start_can_be_waited_for_later():
    pool = VerifierPool("no_such_module:verify", workers=2, timeout_seconds=1.0, wait=False)
    with pool, pytest.raises(CipoError, match="No module named 'no_such_module'"):
        pool.wait_until_ready()
    with VerifierPool(OBEY, workers=2, timeout_seconds=5.0, wait=False) as pool:
        early = pool.submit(PROBLEM, "yes")
        pool.wait_until_ready()
        pool.wait_until_ready()  # nothing is left to wait for
        assert early.result(5).outcome is Outcome.CORRECT


def test_a_memory_limit_below_what_the_worker_needs_is_refused():
    with pytest.raises(CipoError, match="verifier.kind: 'math' cannot be used"):
        VerifierPool("math", workers=1, timeout_seconds=1.0, memory_limit_bytes=60 << 20)


@pytest.mark.parametrize(
    "argument",
    ["workers", "timeout_seconds", "stand_ins", "recycle_after"],
)
def test_values_out_of_range_are_refused(argument):
    arguments = {"workers": 1, "timeout_seconds": 1.0, argument: -1}
    with pytest.raises(CipoError, match=f"VerifierPool.{argument}: got -1"):
        VerifierPool(OBEY, **arguments)


def test_a_problem_that_cannot_be_pickled_is_refused(pool):
    restarts = pool.stats()["restarts"]
    future = pool.submit(Problem("q", "?", meta={"function": lambda: 0}), "yes")
    with pytest.raises(CipoError, match="problem 'q' cannot be sent"):
        future.result()
    assert pool.submit(PROBLEM, "yes").result().correct
    assert pool.stats()["restarts"] == restarts


def test_extraction_rules_reach_the_workers():
    problem = Problem("p", "?", "3")
    text = "#### 3\n\\boxed{4}, then 5"
    for rules, extracted in ((("hashes", "boxed"), "3"), (["last_number"], "5")):
        with VerifierPool("math", workers=1, timeout_seconds=5.0, extraction=rules) as pool:
            verdict = pool.submit(problem, text).result()
        assert (verdict.extracted, verdict.correct) == (extracted, extracted == "3")
    with pytest.raises(CipoError, match=r"extraction: got \['box'\], wanted some of boxed, "):
        VerifierPool("math", workers=1, timeout_seconds=5.0, extraction=["box"])


def test_an_own_verifier_may_be_a_file(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("LIMIT = 3\n")
    (tmp_path / "math.py").write_text(  # a name that is taken
        "import dataclasses\n"
        "from beside import LIMIT\n"
        "@dataclasses.dataclass\n"
        "class Judge:\n"
        "    limit: int\n"
        "    def __call__(self, problem, text): return len(text) <= self.limit\n"
        "judge = Judge(LIMIT)\n"
    )
    monkeypatch.chdir(tmp_path)
    with VerifierPool("math.py:judge", workers=1, timeout_seconds=5.0, recycle_after=1) as pool:
        assert pool.submit(PROBLEM, "yes").result().correct
        monkeypatch.chdir("/")  # the next worker still finds it
        assert pool.submit(PROBLEM, "no, no").result().outcome is Outcome.WRONG


def test_workers_that_cannot_be_started_any_more_fail_what_waits(tmp_path, monkeypatch):
    module = tmp_path / "vanishing_verifier.py"
    module.write_text("import os\ndef verify(problem, text):\n    os._exit(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with VerifierPool("vanishing_verifier:verify", workers=1, timeout_seconds=5.0) as pool:
        module.unlink()
        futures = [pool.submit(PROBLEM, "") for _ in range(3)]
        assert futures[0].result().outcome is Outcome.ERROR
        for future in futures[1:]:
            with pytest.raises(CipoError, match="No module named 'vanishing_verifier'"):
                future.result(timeout=30)
        with pytest.raises(CipoError, match="No module named 'vanishing_verifier'"):
            pool.submit(PROBLEM, "")


PARENT = textwrap.dedent(
    """
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
    sys.path.insert(0, {here!r})
    from cipo_jax.types import Problem
    from cipo_jax.verifiers.pool import VerifierPool

    problem = Problem("p", "?", "yes")
    pool = VerifierPool({kind!r}, workers=2, timeout_seconds=600.0)
    pids = set()
    while len(pids) < 2:
        both = [pool.submit(problem, "pid"), pool.submit(problem, "pid")]
        pids |= {{int(future.result().extracted) for future in both}}
    pool.submit(problem, "hang")  # one worker hangs, the other is idle
    time.sleep(0.1)
    print(*pids, flush=True)
    {ending}
    """
)


@pytest.mark.parametrize(
    ("ending", "signal_number", "status"),
    [
        ("time.sleep(600)", signal.SIGKILL, -signal.SIGKILL),
        ("time.sleep(600)", signal.SIGTERM, -signal.SIGTERM),
        ("time.sleep(600)", signal.SIGINT, -signal.SIGINT),
        ("raise RuntimeError('on purpose')", None, 1),
        ("", None, 0),
        ("import os; os._exit(7)", None, 7),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGINT", "exception", "plain end", "os._exit"],
)
def test_no_worker_outlives_the_process(ending, signal_number, status):
    script = PARENT.format(here=str(TESTS), kind=OBEY, ending=ending)
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    if signal_number is not None:
        parent.send_signal(signal_number)
    assert parent.wait(timeout=60) == status
    assert all(_wait_until_gone(pid) for pid in pids)
