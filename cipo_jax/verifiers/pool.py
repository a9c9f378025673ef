"""The verifier pool: judges completions in worker processes that may hang, crash or be killed.

This file decides which item goes to which worker and when, that a worker's death costs one verdict,
and when a worker is replaced. How a worker is started and one item's time is limited is decided in
`worker_process.py`, how an item is judged in `worker.py`.

Each worker process has a thread here that has it started, hands it one item at a time, and replaces
it. Workers are forked from a process that has imported what they need (`zygote.py`); that one is
started with `subprocess`. Neither is ever a fork of this process, whose accelerator runtime has
threads. The kernel kills the workers when this process ends, whatever ends it (see `worker.py`).

A worker that cannot load its verifier is tried again a few times, and then given up. One that is
killed from outside while it starts is no sign of that: it is tried again for a minute. The pool
goes on with those that are left, and fails when there are none.

An item that hangs occupies its worker until its time limit. So that a few of them do not delay the
others, a worker that has been on one item for several times the typical time gets a stand-in:
another worker that takes items from the queue. At most `stand_ins` are started, when first needed;
they stay. If h items hang for t seconds each, and all others together take b seconds, the whole
takes about max(b, h t / (workers + stand_ins)), plus the processor time of hanging items.
"""

import atexit
import collections
import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from cipo_jax.types import CipoError, Problem, Verdict
from cipo_jax.verifiers.code.clock import wall_seconds
from cipo_jax.verifiers.math.answer import DEFAULT_RULES
from cipo_jax.verifiers.statistics import Statistics
from cipo_jax.verifiers.worker import Options, absolute
from cipo_jax.verifiers.worker_process import WorkerProcess
from cipo_jax.verifiers.zygote_process import LostError, Setup, Zygote

MAX_WAITING = 4096  # items in the queue; a caller that submits more has to wait
_START_ATTEMPTS = 3  # for the replacement of a worker, in case the machine is short of something
_LOST_SECONDS = 60.0  # for which a worker that is killed while it starts is tried again
# How long a worker is on one item before it gets a stand-in: the larger of this multiple of the
# typical time and this number of seconds.
_LONG_TIMES, _LONG_SECONDS = 4, 0.05
_log = logging.getLogger(__name__)

Future: TypeAlias = "concurrent.futures.Future[Verdict]"
_Item = tuple[Problem, str, Future]


class VerifierPool:
    """Worker processes that judge completions.

    Use as a context manager, or call `close`. All methods may be called from any thread.
    """

    def __init__(
        self,
        kind: str,
        workers: int,
        timeout_seconds: float,
        *,
        stand_ins: int = 2,
        recycle_after: int = 10_000,
        memory_limit_bytes: int = 2 << 30,
        extraction: Sequence[str] = DEFAULT_RULES,
        allow_unsandboxed_code: bool = False,
        partial_credit: bool = False,
        wait: bool = True,
    ):
        """Starts the workers and waits until they are ready.

        Args:
          kind: "math"; "code" (runs the program against `Problem.tests` in a sandbox); "auto" (code
            for problems with tests, else math); or your own function, see `worker.py`.
          timeout_seconds: wall time for one item, without its time in the queue and the start of a
            process. Past it the worker is killed and the verdict is TIMEOUT. With "code": of all
            tests, unless the problem has its own `total_time_limit`, see `code/clock.py`.
          stand_ins: the most processes beyond `workers`.
          recycle_after: items after which a worker is replaced, against slow leaks.
          memory_limit_bytes: address space of one worker.
          extraction, allow_unsandboxed_code, partial_credit: see `worker.Options`.
          wait: False returns at once; `wait_until_ready` has to be called.

        Raises:
          CipoError: a value out of range, or a worker that cannot start; with the reason.
        """
        for name, value, least in (
            ("workers", workers, 1),
            ("timeout_seconds", timeout_seconds, 1e-3),
            ("stand_ins", stand_ins, 0),
            ("recycle_after", recycle_after, 1),
            ("memory_limit_bytes", memory_limit_bytes, 1),
        ):
            if value < least:
                raise CipoError(f"VerifierPool.{name}: got {value!r}, wanted a value >= {least}")
        rules = tuple(extraction)
        options = Options(rules, allow_unsandboxed_code, partial_credit, timeout_seconds)
        self._zygote = Zygote(Setup(absolute(kind), options, memory_limit_bytes))
        self.about = ""  # what the verifier says of itself: for "code", the isolation in use
        self._timeout_seconds = timeout_seconds
        self._runs_tests = kind in ("code", "auto")
        self._recycle_after = recycle_after
        self._max_at_work = workers

        self._lock = threading.Lock()  # guards all below
        self._has_work = threading.Condition(self._lock)
        self._has_room = threading.Condition(self._lock)
        self._waiting: collections.deque[_Item] = collections.deque()
        self._at_work: set[threading.Thread] = set()  # without those on one item for long
        self._idle = 0  # threads that wait for an item
        self._processes: set[WorkerProcess] = set()
        self._closed = False
        self._failure: CipoError | None = None
        self._statistics = Statistics()
        self._max_threads = workers + stand_ins
        self._attending = workers  # threads that have a worker, or will have
        self._starting = workers  # those that have not reported yet whether they started
        self._started: queue.SimpleQueue[CipoError | None] = queue.SimpleQueue()
        self._threads = [
            self._new_thread(f"verifier-{i}", self._started.put) for i in range(workers)
        ]

        atexit.register(self.close)
        try:
            for thread in list(self._threads):
                thread.start()
            if wait:
                self.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def wait_until_ready(self) -> None:
        """Waits until the first `workers` processes are ready.

        Raises:
          CipoError: one of them cannot start; with the reason.
        """
        while self._starting:
            self._starting -= 1
            if (failure := self._started.get()) is not None:
                raise failure

    def submit(self, problem: Problem, text: str) -> Future:
        """Queues the completion `text` of `problem`; waits while the queue is full.

        This waits for at most `timeout_seconds` and the start of a worker, even while workers hang.
        In a callback of a future it does not wait, since callbacks run in the threads that empty
        the queue.

        The future resolves with a verdict, whatever the text does to its worker. It is cancelled if
        the pool is closed first. It raises CipoError if the problem cannot be pickled, or if
        workers can no longer be started.

        Raises:
          CipoError: the pool is closed, also while this waits, or its workers cannot be started.
        """
        future: Future = concurrent.futures.Future()
        with self._lock:
            self._has_room.wait_for(self._may_submit)
            if self._closed:
                raise CipoError("VerifierPool.submit: the pool is closed; submit before close()")
            if self._failure is not None:
                raise self._failure
            self._waiting.append((problem, text, future))
            self._call_worker()
        return future

    def stats(self) -> dict[str, float]:
        """Totals since the start: `verified` (verdicts of any outcome), `timeouts`, `errors`,
        `restarts` (workers lost), `recycled`, `busy_seconds` (over all workers); now: `waiting`
        (items in the queue), `workers` (processes, stand-ins included); and `latency_p50_seconds`,
        `latency_p99_seconds` of the most recent items (0 before any)."""
        with self._lock:
            return {
                **self._statistics.summary(),
                "waiting": float(len(self._waiting)),
                "workers": float(len(self._processes)),
            }

    def slowest(self) -> list[tuple[str, float]]:
        """The slowest items as (problem id, seconds), slowest first; at most 10."""
        with self._lock:
            return self._statistics.slowest()

    def close(self) -> None:
        """Kills the workers and cancels the items in the queue; an item that is being judged ends
        as ERROR. Closing twice is harmless."""
        with self._lock:
            self._closed = True
            processes, threads = list(self._processes), list(self._threads)
        for process in processes:  # none is added once the pool is closed
            process.kill()
        self._zygote.close()
        self._drop_waiting(None)
        for thread in threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ with the lock held

    def _may_submit(self) -> bool:
        # An ended pool has an empty queue, so nobody waits for it.
        return len(self._waiting) < MAX_WAITING or threading.current_thread() in self._threads

    def _has_ended(self) -> bool:
        return self._closed or self._failure is not None

    def _may_take(self) -> bool:
        return bool(self._waiting) and len(self._at_work) < self._max_at_work

    def _call_worker(self) -> None:
        """Has an idle worker, or else a new stand-in, take an item, if one may be taken."""
        if not self._may_take():
            return
        if self._idle:
            self._has_work.notify()
        elif len(self._threads) < self._max_threads and not self._closed:
            self._threads.append(self._new_thread("verifier-stand-in"))
            self._attending += 1
            self._threads[-1].start()

    def _new_thread(self, name: str, *arguments: Any) -> threading.Thread:
        return threading.Thread(target=self._attend, args=arguments, name=name, daemon=True)

    # ------------------------------------------------------------------ in the attending threads

    def _attend(self, tell: Callable[[CipoError | None], None] | None = None) -> None:
        """Keeps one worker at work until the pool is closed or no worker can be started.

        `tell` is called once, with None or with why the start failed. A stand-in has no `tell`: if
        it cannot start, the pool continues without it.
        """
        what = "a stand-in for a worker that takes long cannot be started"
        try:
            current = self._start_worker(attempts=1)
            what = "a worker cannot be replaced"
            if tell is not None:
                tell(None)
                tell = None
            self._serve(current)
        except CipoError as error:
            if tell is not None:
                tell(error)
            self._give_up_worker(what if tell is None else "", error)

    def _serve(self, current: WorkerProcess) -> None:
        """Has the worker, and those that replace it, judge items until there are no more. Raises
        CipoError if a worker cannot be replaced."""
        served = 0
        try:
            while (item := self._take()) is not None:
                problem, text, future = item
                if current.has_ended():  # between two items: it costs no verdict
                    try:
                        current, served = self._replace(current), 0
                    except CipoError:
                        with self._lock:
                            self._waiting.appendleft(item)  # another worker may judge it
                        raise
                    self._count("restarts")
                if not future.set_running_or_notify_cancel():
                    continue
                limit = self._seconds_for(problem)
                long = max(_LONG_SECONDS, _LONG_TIMES * self._statistics.typical_seconds)
                try:
                    verdict = current.ask(problem, text, limit, long, self._let_another_work)
                except CipoError as error:
                    future.set_exception(error)
                    continue
                served += 1
                with self._lock:
                    self._statistics.add(problem.id, verdict, lost_worker=not current.is_alive)
                future.set_result(verdict)  # before the replacement starts: that takes a while
                if current.is_alive and served == self._recycle_after:
                    current.close()
                    self._count("recycled")
                if not current.is_alive:
                    current, served = self._replace(current), 0
        finally:
            self._discard(current)

    def _seconds_for(self, problem: Problem) -> float:
        """Wall time for the problem; of a program, more than its own limits, kept by the worker."""
        tests = problem.tests if self._runs_tests else None
        return (
            self._timeout_seconds if tests is None else wall_seconds(tests, self._timeout_seconds)
        )

    def _take(self) -> _Item | None:
        """The next item, once it is this thread's turn; None when there will be no more."""
        me = threading.current_thread()
        with self._lock:
            self._at_work.discard(me)
            self._idle += 1
            self._has_work.wait_for(lambda: self._has_ended() or self._may_take())
            self._idle -= 1
            if self._has_ended():
                return None
            self._at_work.add(me)
            self._has_room.notify()
            return self._waiting.popleft()

    def _let_another_work(self) -> None:
        """This thread has been on one item for long: it no longer counts as at work."""
        with self._lock:
            self._at_work.discard(threading.current_thread())
            self._call_worker()

    def _replace(self, lost: WorkerProcess) -> WorkerProcess:
        self._discard(lost)
        return self._start_worker(_START_ATTEMPTS)

    def _start_worker(self, attempts: int) -> WorkerProcess:
        """A worker that is ready. Raises CipoError if none gets so far, in so many attempts; those
        that were killed from outside do not count for a minute."""
        start, failed, lost = time.monotonic(), 0, 0
        while True:
            try:
                return self._start_once()
            except LostError as error:
                lost += 1
                seconds = time.monotonic() - start
                if self._closed or seconds > _LOST_SECONDS:
                    raise LostError(f"{error}; {lost} in a row, in {seconds:.0f} s") from None
                time.sleep(min(0.02 * lost, 1.0))
            except CipoError:
                failed += 1
                if self._closed or failed == attempts:
                    raise
                time.sleep(0.2 * failed)

    def _start_once(self) -> WorkerProcess:
        started = WorkerProcess(self._zygote)
        with self._lock:
            if not self._closed:
                self._processes.add(started)
        try:
            if self._closed:  # `close` may not have seen it
                raise CipoError("VerifierPool: closed while a worker was to start")
            self.about = started.await_ready()
        except CipoError:
            self._discard(started)
            raise
        return started

    def _discard(self, ended: WorkerProcess) -> None:
        ended.close()
        with self._lock:
            self._processes.discard(ended)

    def _count(self, what: str) -> None:
        with self._lock:
            self._statistics.counts[what] += 1

    def _give_up_worker(self, what: str, error: CipoError) -> None:
        """This thread has no worker and gets none. If it was the last, what waits, and what comes,
        gets the reason; else `what` is logged, unless it is "", which says that it was told."""
        with self._lock:
            self._at_work.discard(threading.current_thread())
            self._attending -= 1
            left = self._attending
            if left:
                self._call_worker()
            elif not self._closed:
                self._failure = error
        if self._closed:
            self._drop_waiting(None)
        elif not left:
            self._drop_waiting(error)
        elif what:
            _log.warning("%s, %d are left: %s", what, left, error)

    def _drop_waiting(self, error: CipoError | None) -> None:
        """Empties the queue, and wakes all threads that wait."""
        with self._lock:
            dropped = list(self._waiting)
            self._waiting.clear()
            self._has_work.notify_all()
            self._has_room.notify_all()
        for _, _, future in dropped:
            _give_up(future, error)


def _give_up(future: Future, error: CipoError | None) -> None:
    """Fails a future that has not started, with `error`; without one, cancels it."""
    if error is None:
        future.cancel()
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
