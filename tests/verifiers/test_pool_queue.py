"""Which item is judged when: stand-ins for workers that take long, and a bounded queue."""

import queue
import threading
import time

import pytest

from cipo_jax.types import CipoError, Outcome, Problem
from cipo_jax.verifiers.pool import VerifierPool

OBEY = "misbehaving_verifiers:obey"
PROBLEM = Problem(id="p", question="?", answer="yes")


@pytest.mark.parametrize("text", ["hang", "spin"])
def test_a_worker_that_is_on_one_item_for_long_gets_a_stand_in(text):
    with VerifierPool(OBEY, workers=1, timeout_seconds=60.0, stand_ins=1) as pool:
        assert pool.stats()["workers"] == 1
        hanging = pool.submit(PROBLEM, text)
        quick = [pool.submit(PROBLEM, "yes") for _ in range(100)]
        assert all(future.result(timeout=20).correct for future in quick)
        assert not hanging.done()
        assert pool.stats()["workers"] == 2


def test_without_long_items_there_are_no_stand_ins_and_no_more_at_work():
    with VerifierPool(OBEY, workers=1, timeout_seconds=60.0, stand_ins=3) as pool:
        for _ in range(300):
            assert pool.submit(PROBLEM, "yes").result().correct
        assert pool.stats()["workers"] == 1
        # Long ones start them all; afterwards only one works again at a time, and none is lost.
        long = [pool.submit(PROBLEM, "sleep 1") for _ in range(5)]
        assert all(future.result(timeout=30).correct for future in long)
        assert pool.stats()["workers"] == 4
        quick = [pool.submit(PROBLEM, "sleep 0.01") for _ in range(20)]
        start = time.monotonic()
        assert all(future.result().correct for future in quick)
        assert time.monotonic() - start > 20 * 0.01


def test_what_is_long_depends_on_what_is_typical():
    with VerifierPool(OBEY, workers=1, timeout_seconds=60.0, stand_ins=1) as pool:

        def seconds(items: int) -> float:
            start = time.monotonic()
            futures = [pool.submit(PROBLEM, "sleep 0.06") for _ in range(items)]
            assert all(future.result().correct for future in futures)
            return time.monotonic() - start

        assert seconds(64) < 64 * 0.06  # not typical yet: there is a stand-in
        assert seconds(10) > 10 * 0.06  # usual by now: one at a time
        long = pool.submit(PROBLEM, "sleep 3")
        assert pool.submit(PROBLEM, "yes").result().correct and not long.done()


def test_stand_ins_that_cannot_be_started_are_done_without(tmp_path, monkeypatch, caplog):
    module = tmp_path / "once.py"
    module.write_text(
        "import time\ndef verify(problem, text):\n    time.sleep(0.5)\n    return True\n"
    )
    with VerifierPool(f"{module}:verify", workers=1, timeout_seconds=5.0) as pool:
        module.unlink()
        assert all(pool.submit(PROBLEM, "").result().correct for _ in range(3))
        futures = [pool.submit(PROBLEM, "") for _ in range(4)]
        assert all(future.result().correct for future in futures)
    assert "stand-in" in caplog.text and "once.py" in caplog.text


def test_submitting_waits_while_the_queue_is_full(monkeypatch):
    monkeypatch.setattr("cipo_jax.verifiers.pool.MAX_WAITING", 3)
    with VerifierPool(OBEY, workers=1, timeout_seconds=0.5, stand_ins=0) as pool:
        most = 0
        futures = []
        for text in ["hang", "hang", *["yes"] * 500]:
            futures.append(pool.submit(PROBLEM, text))
            most = max(most, pool.stats()["waiting"])
        assert most == 3
        outcomes = [future.result().outcome for future in futures]
    assert outcomes == [Outcome.TIMEOUT] * 2 + [Outcome.CORRECT] * 500


def test_a_full_queue_stops_neither_the_pool_s_answers_nor_its_end(monkeypatch):
    monkeypatch.setattr("cipo_jax.verifiers.pool.MAX_WAITING", 2)
    pool = VerifierPool(OBEY, workers=1, timeout_seconds=60.0, stand_ins=0)
    ends = []

    def submit_much() -> None:
        try:
            for _ in range(10):
                pool.submit(PROBLEM, "hang")
        except CipoError as error:
            ends.append(str(error))

    submitting = threading.Thread(target=submit_much)
    submitting.start()
    while pool.stats()["waiting"] < 2:
        time.sleep(0.01)
    submitting.join(timeout=0.2)
    assert submitting.is_alive()  # it waits
    start = time.monotonic()
    pool.stats()
    pool.slowest()
    pool.close()
    submitting.join()
    assert time.monotonic() - start < 2.0
    assert ends == ["VerifierPool.submit: the pool is closed; submit before close()"]


def test_a_callback_may_submit_though_the_queue_is_full(monkeypatch):
    monkeypatch.setattr("cipo_jax.verifiers.pool.MAX_WAITING", 1)
    with VerifierPool(OBEY, workers=1, timeout_seconds=5.0, stand_ins=0) as pool:
        later: queue.SimpleQueue = queue.SimpleQueue()
        first = pool.submit(PROBLEM, "sleep 0.3")
        first.add_done_callback(lambda _: later.put(pool.submit(PROBLEM, "yes")))
        second = pool.submit(PROBLEM, "yes")  # fills the queue
        assert first.result().correct and second.result().correct
        assert later.get(timeout=5).result().correct
