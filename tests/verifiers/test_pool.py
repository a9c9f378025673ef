"""One bad item costs one verdict, and no worker outlives the pool."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, as_completed

import pytest
from processes import children_of, is_running, wait_until_gone

from cipo_jax.types import CipoError, Outcome, Problem
from cipo_jax.verifiers.pool import VerifierPool

OBEY = "misbehaving_verifiers:obey"
PROBLEM = Problem(id="p", question="?", answer="yes", meta={"level": 1})


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(OBEY, workers=1, timeout_seconds=1.0, stand_ins=0) as shared:
        yield shared


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
    assert not is_running(old_pid)
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
    assert wait_until_gone(pid)
    assert pool.submit(PROBLEM, "yes").result().correct
    assert pool.stats()["restarts"] == restarts + 1


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
    assert not any(is_running(pid) for pid in pids)
    with pytest.raises(CancelledError):
        waiting.result(timeout=1)
    with pytest.raises(CipoError, match="closed"):
        pool.submit(PROBLEM, "yes")


def test_the_start_can_be_waited_for_later():
    pool = VerifierPool("no_such_module:verify", workers=2, timeout_seconds=1.0, wait=False)
    with pool, pytest.raises(CipoError, match="No module named 'no_such_module'"):
        pool.wait_until_ready()
    with VerifierPool(OBEY, workers=2, timeout_seconds=5.0, wait=False) as pool:
        early = pool.submit(PROBLEM, "yes")
        pool.wait_until_ready()
        pool.wait_until_ready()  # nothing is left to wait for
        assert early.result(5).outcome is Outcome.CORRECT


@pytest.mark.parametrize("argument", ["workers", "timeout_seconds", "stand_ins", "recycle_after"])
def test_values_out_of_range_are_refused(argument):
    arguments = {"workers": 1, "timeout_seconds": 1.0, argument: -1}
    with pytest.raises(CipoError, match=f"VerifierPool.{argument}: got -1"):
        VerifierPool(OBEY, **arguments)


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


def _kill_workers(seconds: float, ended: threading.Event, killed: list[int]) -> None:
    """Kills one worker of this process's pool after the other, one each `seconds`."""
    while not ended.wait(seconds):
        for zygote in children_of(os.getpid(), "cipo_jax.verifiers.zygote"):
            if workers := children_of(zygote):
                victim = workers[len(killed) % len(workers)]
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "workers"), [(OBEY, 1), ("math", 2)])
def test_a_worker_may_be_killed_again_and_again(kind, workers):
    ended, killed = threading.Event(), []
    with VerifierPool(kind, workers=workers, timeout_seconds=20.0) as pool:
        killer = threading.Thread(target=_kill_workers, args=(0.25, ended, killed))
        killer.start()
        try:
            outcomes = []
            while len(killed) < 15:
                futures = [pool.submit(Problem("p", "?", "5"), r"5 \boxed{5}") for _ in range(50)]
                outcomes += [future.result(timeout=60).outcome for future in futures]
        finally:
            ended.set()
            killer.join()
        assert pool.stats()["restarts"] >= 5
    assert outcomes.count(Outcome.ERROR) <= len(killed)
    assert set(outcomes) <= {Outcome.ERROR, Outcome.WRONG, Outcome.CORRECT}
    assert outcomes.count(Outcome.ERROR) < len(outcomes) / 2


def test_what_keeps_a_pool_from_opening_is_said_once(tmp_path, caplog):
    (tmp_path / "broken.py").write_text("raise RuntimeError('no good')\n")
    with pytest.raises(CipoError, match="cannot be used: RuntimeError: no good"):
        VerifierPool(f"{tmp_path}/broken.py:verify", workers=3, timeout_seconds=5.0)
    assert not caplog.text


def test_workers_that_are_killed_while_they_start_are_not_the_verifier_s_fault(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("cipo_jax.verifiers.pool._LOST_SECONDS", 2.0)
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(CipoError) as failure:
        VerifierPool(f"{tmp_path}/killed.py:verify", workers=1, timeout_seconds=5.0)
    text = str(failure.value)
    assert "was killed by SIGKILL while starting, by something outside the pool" in text
    assert int(text.partition("; ")[2].split()[0]) > 1  # in a row
    assert "cannot be used" not in text and "memory limit" not in text


def test_a_worker_that_cannot_be_replaced_is_done_without(tmp_path, caplog):
    module = tmp_path / "vanishing.py"
    module.write_text(
        "import os\ndef verify(problem, text):\n    return os._exit(1) if text == 'x' else True\n"
    )
    kind = f"{module}:verify"
    with VerifierPool(kind, workers=2, timeout_seconds=5.0, stand_ins=0) as pool:
        module.unlink()
        assert pool.submit(PROBLEM, "x").result().outcome is Outcome.ERROR
        futures = [pool.submit(PROBLEM, "") for _ in range(100)]
        assert all(future.result(timeout=20).correct for future in futures)
        deadline = time.monotonic() + 20
        while "cannot be replaced, 1 are left" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "cannot be replaced, 1 are left" in caplog.text
        assert pool.submit(PROBLEM, "").result(timeout=20).correct
