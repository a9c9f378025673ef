"""The process that workers are forked from may be killed, and ends with the pool."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from places import TESTS
from processes import children_of, is_running, wait_until_gone

from cipo_jax.types import CipoError, Outcome, Problem
from cipo_jax.verifiers.pool import VerifierPool

OBEY = "misbehaving_verifiers:obey"
PROBLEM = Problem(id="p", question="?", answer="yes")
ZYGOTE = "cipo_jax.verifiers.zygote"


def test_it_may_be_killed_at_no_cost():
    with VerifierPool(OBEY, workers=1, timeout_seconds=2.0, stand_ins=0) as pool:
        (zygote,) = children_of(os.getpid(), ZYGOTE)
        pid = pool.submit(PROBLEM, "pid").result().extracted
        os.kill(zygote, signal.SIGKILL)
        assert wait_until_gone(zygote)
        assert pool.submit(PROBLEM, "pid").result().extracted == pid  # the worker goes on
        assert pool.submit(PROBLEM, "hang").result().outcome is Outcome.TIMEOUT
        assert wait_until_gone(int(pid))
        assert pool.submit(PROBLEM, "yes").result().correct  # from another zygote
        (second,) = children_of(os.getpid(), ZYGOTE)
        assert second != zygote
    assert not is_running(second)


def test_nothing_is_left_of_a_pool_that_was_closed_while_it_started():
    pool = VerifierPool("math", workers=2, timeout_seconds=5.0, wait=False)
    while not (started := children_of(os.getpid(), ZYGOTE)):
        time.sleep(0.01)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 3
    assert not any(map(is_running, started))
    with pytest.raises(CipoError):
        pool.submit(PROBLEM, "yes")


PARENT = textwrap.dedent(
    """
    import sys, time
    sys.path.insert(0, {tests!r})
    from cipo_jax.types import Problem
    from cipo_jax.verifiers.pool import VerifierPool
    pool = VerifierPool({kind!r}, workers=2, timeout_seconds=600.0)
    futures = [pool.submit(Problem("p", "?", "yes"), text) for text in ("spin", "hang")]
    while not all(future.running() for future in futures):
        time.sleep(0.01)
    time.sleep(0.3)
    print("ready", flush=True)
    time.sleep(600)
    """
)


@pytest.mark.parametrize("number", [signal.SIGCONT, signal.SIGSTOP, signal.SIGKILL])
def test_all_end_with_the_pool_s_process(number):
    """Also if the process that would kill the workers is stopped, or was killed before."""
    script = PARENT.format(tests=str(TESTS), kind=OBEY)
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    (zygote,) = children_of(parent.pid, ZYGOTE)
    workers = children_of(zygote)
    assert len(workers) == 2
    os.kill(zygote, number)
    time.sleep(0.1)
    assert all(map(is_running, workers))
    parent.kill()
    parent.wait()
    assert all(map(wait_until_gone, workers))
    if number == signal.SIGSTOP:
        os.kill(zygote, signal.SIGCONT)
    assert wait_until_gone(zygote)
