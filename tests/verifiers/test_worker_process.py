"""What is sent to a worker, how long it may take, and what is killed with it."""

from collections.abc import Iterator

import pytest
from processes import wait_until_gone

from cipo_jax.types import CipoError, Outcome, Problem
from cipo_jax.verifiers.pool import VerifierPool

OBEY = "misbehaving_verifiers:obey"
PROBLEM = Problem(id="p", question="?", answer="yes", meta={"level": 1})


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(OBEY, workers=1, timeout_seconds=1.0, stand_ins=0) as shared:
        yield shared


def test_the_time_limit_counts_neither_queueing_nor_starting(pool):
    pool.submit(PROBLEM, "exit")  # a worker has to start before the next item
    futures = [pool.submit(PROBLEM, "sleep 0.4") for _ in range(4)]
    assert [future.result().outcome for future in futures] == [Outcome.CORRECT] * 4


def test_what_a_verifier_started_is_killed_with_it(pool, tmp_path):
    pid_file = tmp_path / "pid"
    assert pool.submit(PROBLEM, f"child {pid_file}").result().outcome is Outcome.TIMEOUT
    assert wait_until_gone(int(pid_file.read_text()))


def test_a_memory_limit_below_what_the_worker_needs_is_refused():
    with pytest.raises(CipoError, match="verifier.kind: 'math' cannot be used"):
        VerifierPool("math", workers=1, timeout_seconds=1.0, memory_limit_bytes=60 << 20)


def test_a_problem_that_cannot_be_pickled_is_refused(pool):
    restarts = pool.stats()["restarts"]
    future = pool.submit(Problem("q", "?", meta={"function": lambda: 0}), "yes")
    with pytest.raises(CipoError, match="problem 'q' cannot be sent"):
        future.result()
    assert pool.submit(PROBLEM, "yes").result().correct
    assert pool.stats()["restarts"] == restarts
