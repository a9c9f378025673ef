"""The verifier pool: judges completions in worker processes that may hang, crash or be killed.

This file decides when an item has taken too long, what its death costs (one verdict), and when a
worker is replaced. How an item is judged, and what a worker may use, is in `worker.py`.

One thread of this process attends to one worker process, and only one item is with a worker at a
time. The thread starts its worker itself and outlives it: the kernel is asked to kill a worker when
the thread that started it ends (see `worker.py`), so no worker outlives this process, whatever ends
it. Workers are started with `subprocess`, never by a fork of this process, whose accelerator
runtime has threads.
"""

import atexit
import collections
import concurrent.futures
import contextlib
import dataclasses
import heapq
import json
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Sequence

from cipo_jax.types import CipoError, Outcome, Problem, Verdict
from cipo_jax.verifiers import messages, worker

_START_SECONDS = 60.0  # for a worker to import what it needs
_START_ATTEMPTS = 3  # for the replacement of a worker, in case the machine is short of something
_RECENT = 10_000  # latencies kept for the percentiles
_SLOWEST = 10

Future: typing.TypeAlias = "concurrent.futures.Future[Verdict]"
_Item = tuple[str, bytes, Future]  # problem id, pickled (problem, text), where the verdict goes


class VerifierPool:
    """Worker processes that judge completions.

    Use as a context manager, or call `close`. All methods may be called from any thread.
    """

    def __init__(
        self,
        kind: str,
        workers: int,
        timeout_seconds: float,
        recycle_after: int = 10_000,
        memory_limit_bytes: int = 2 << 30,
        allow_unsandboxed_code: bool = False,
        partial_credit: bool = False,
    ):
        """Starts the workers and waits until they are ready.

        Args:
          kind: "math"; "code" (runs the program against `Problem.tests` in a sandbox); "auto" (code
            for problems with tests, else math); or "package.module:function" for an own function
            `(problem, text) -> Verdict | bool | float`, found by this process's `sys.path`.
          workers: number of processes.
          timeout_seconds: wall time for one item, not counting its time in the queue nor the start
            of a process. Past it the worker is killed and the verdict is TIMEOUT.
          recycle_after: items after which a worker is replaced, against slow leaks.
          memory_limit_bytes: address space of one worker.
          allow_unsandboxed_code, partial_credit: see `worker.Options`.

        Raises:
          CipoError: a value out of range, or a worker that cannot start; with the reason.
        """
        for name, value in (
            ("workers", workers),
            ("timeout_seconds", timeout_seconds),
            ("recycle_after", recycle_after),
            ("memory_limit_bytes", memory_limit_bytes),
        ):
            if value <= 0:
                raise CipoError(f"VerifierPool.{name}: got {value!r}, wanted a value > 0")
        self._kind = kind
        self._options = worker.Options(allow_unsandboxed_code, partial_credit)
        self.about = ""  # what the verifier says of itself: for "code", the isolation in use
        self._memory_limit_bytes = memory_limit_bytes
        self._timeout_seconds = timeout_seconds
        self._recycle_after = recycle_after
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards all below
        self._processes: set[subprocess.Popen] = set()
        self._closed = False
        self._failure: CipoError | None = None
        self._counts = dict.fromkeys(("verified", "timeouts", "errors", "restarts", "recycled"), 0)
        self._busy_seconds = 0.0
        self._recent: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._slowest: list[tuple[float, str]] = []  # a heap

        started: queue.SimpleQueue[CipoError | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(
                target=self._attend, args=(started,), name=f"verifier-{i}", daemon=True
            )
            for i in range(workers)
        ]
        atexit.register(self.close)
        try:
            for thread in self._threads:
                thread.start()
            for _ in self._threads:
                if (failure := started.get()) is not None:
                    raise failure
        except BaseException:
            self.close()
            raise

    def submit(self, problem: Problem, text: str) -> Future:
        """Queues the completion `text` of `problem`.

        The future resolves with a verdict, whatever the text does to its worker. It is cancelled if
        the pool is closed first, and raises CipoError if workers cannot be started any more.

        Raises:
          CipoError: the pool is closed, its workers cannot be started, or the problem cannot be
            pickled.
        """
        try:
            body = pickle.dumps((problem, text), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise CipoError(f"problem {problem.id!r} cannot be sent to a worker: {error}") from None
        future: Future = concurrent.futures.Future()
        with self._lock:
            if self._closed:
                raise CipoError("VerifierPool.submit: the pool is closed; submit before close()")
            if self._failure is not None:
                raise self._failure
            self._items.put((problem.id, body, future))
        return future

    def stats(self) -> dict[str, float]:
        """Totals since the start: `verified` (verdicts of any outcome), `timeouts`, `errors`,
        `restarts` (workers lost), `recycled`, `busy_seconds` (over all workers); and
        `latency_p50_seconds`, `latency_p99_seconds` of the most recent items (0 before any)."""
        with self._lock:
            recent = sorted(self._recent)
            return {
                **{name: float(count) for name, count in self._counts.items()},
                "busy_seconds": self._busy_seconds,
                "latency_p50_seconds": _quantile(recent, 0.50),
                "latency_p99_seconds": _quantile(recent, 0.99),
            }

    def slowest(self) -> list[tuple[str, float]]:
        """The slowest items as (problem id, seconds), slowest first; at most 10."""
        with self._lock:
            return [(problem_id, seconds) for seconds, problem_id in sorted(self._slowest)[::-1]]

    def close(self) -> None:
        """Kills the workers and cancels what waits; an item that is being judged ends as ERROR.
        Closing twice is harmless."""
        with self._lock:
            already_closed, self._closed = self._closed, True
            for process in self._processes:
                _kill_group(process)
        if not already_closed:
            self._drop_waiting(None)
            for _ in self._threads:
                self._items.put(None)
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ in the attending threads

    def _attend(self, started: "queue.SimpleQueue[CipoError | None]") -> None:
        """Keeps one worker at work until the pool is closed or no worker can be started."""
        try:
            current = self._start_worker()
        except CipoError as error:
            started.put(error)
            return
        started.put(None)
        served = 0
        try:
            while (item := self._items.get()) is not None:
                problem_id, body, future = item
                if messages.has_ended(current.channel):  # between two items: it costs no verdict
                    self._stop_worker(current)
                    try:
                        current, served = self._replace_worker(), 0
                    except CipoError as error:
                        _give_up(future, None if self._closed else error)
                        raise
                    self._add("restarts")
                if not future.set_running_or_notify_cancel():
                    continue
                verdict = self._ask(current, body)
                served += 1
                self._count(problem_id, verdict, lost_worker=not current.is_alive)
                future.set_result(verdict)  # before the replacement starts: that takes a while
                if current.is_alive and served == self._recycle_after:
                    self._stop_worker(current)
                    self._add("recycled")
                if not current.is_alive:
                    current, served = self._replace_worker(), 0
        except CipoError as error:
            self._fail(error)
        finally:
            self._stop_worker(current)

    def _ask(self, current: "_Worker", body: bytes) -> Verdict:
        """The worker's verdict on one item. A worker that gives none is stopped."""
        start = time.monotonic()
        try:
            answer = messages.exchange(current.channel, body, start + self._timeout_seconds)
            if answer is not None:
                return _decode(answer)
            failure = ""
        except TimeoutError:
            self._stop_worker(current)
            seconds = time.monotonic() - start
            detail = f"killed after {self._timeout_seconds:g} s"
            return Verdict(Outcome.TIMEOUT, detail=detail, seconds=seconds)
        except (OSError, ValueError, KeyError, TypeError) as error:
            failure = f" ({type(error).__name__}: {error})"
        self._stop_worker(current)
        detail = f"the worker {_exit_of(current.process)}{failure}"
        return Verdict(Outcome.ERROR, detail=detail, seconds=time.monotonic() - start)

    def _replace_worker(self) -> "_Worker":
        for attempt in range(1, _START_ATTEMPTS):
            with contextlib.suppress(CipoError):
                return self._start_worker()
            if self._closed:
                break
            time.sleep(0.2 * attempt)
        return self._start_worker()

    def _start_worker(self) -> "_Worker":
        """A worker that is ready. Raises CipoError if it does not get so far."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", worker.__name__, str(theirs.fileno())]
        command += [str(os.getpid()), self._kind, str(self._memory_limit_bytes)]
        command += [json.dumps(dataclasses.asdict(self._options))]
        try:
            with theirs, self._lock:
                if self._closed:
                    raise CipoError("VerifierPool: closed while a worker was to start")
                process = subprocess.Popen(
                    command,
                    pass_fds=(theirs.fileno(),),
                    env=_worker_environment(),
                    start_new_session=True,  # a process group of its own, and no Ctrl-C
                )
                self._processes.add(process)
        except OSError as error:
            ours.close()
            raise CipoError(f"verifier.kind: no worker process can be started: {error}") from error
        except CipoError:
            ours.close()
            raise
        started = _Worker(process, ours)
        failure = self._await_ready(started)
        if failure:
            self._stop_worker(started)
            raise CipoError(f"verifier.kind: {self._kind!r} cannot be used: {failure}")
        return started

    def _await_ready(self, started: "_Worker") -> str:
        """ "" once the worker is ready, else why it is not."""
        try:
            message = messages.receive(started.channel, time.monotonic() + _START_SECONDS)
        except TimeoutError:
            return f"its worker was not ready after {_START_SECONDS:g} s"
        except OSError:
            message = None
        if message is None:
            self._stop_worker(started)
            limit = f"with memory_limit_bytes = {self._memory_limit_bytes:,}"
            return f"its worker {_exit_of(started.process)} while starting, {limit}"
        answer = json.loads(message)
        self.about = answer.get("about", "")
        return "" if "ready" in answer else f"its worker failed to load it:\n{answer['failed']}"

    def _stop_worker(self, stopped: "_Worker") -> None:
        """Kills the worker's process group and reaps the worker. Harmless if done already."""
        stopped.is_alive = False
        stopped.channel.close()
        with self._lock:  # so that close() signals no process that is reaped
            if stopped.process not in self._processes:
                return
            self._processes.remove(stopped.process)
            _kill_group(stopped.process)
        stopped.process.wait()

    def _add(self, count: str) -> None:
        with self._lock:
            self._counts[count] += 1

    def _count(self, problem_id: str, verdict: Verdict, lost_worker: bool) -> None:
        with self._lock:
            self._counts["verified"] += 1
            self._counts["timeouts"] += verdict.outcome is Outcome.TIMEOUT
            self._counts["errors"] += verdict.outcome is Outcome.ERROR
            self._counts["restarts"] += lost_worker
            self._busy_seconds += verdict.seconds
            self._recent.append(verdict.seconds)
            heapq.heappush(self._slowest, (verdict.seconds, problem_id))
            if len(self._slowest) > _SLOWEST:
                heapq.heappop(self._slowest)

    def _fail(self, error: CipoError) -> None:
        """No worker can be started any more: what waits, and what comes, gets the reason."""
        with self._lock:
            if self._closed:
                return
            self._failure = error
        self._drop_waiting(error)

    def _drop_waiting(self, error: CipoError | None) -> None:
        """Gives up all that is in the queue."""
        with contextlib.suppress(queue.Empty):
            while (item := self._items.get_nowait()) is not None:
                _give_up(item[2], error)
            self._items.put(None)  # it was meant for another thread


@dataclasses.dataclass
class _Worker:
    """A worker process and this side of its channel. Used by its thread only."""

    process: subprocess.Popen
    channel: socket.socket
    is_alive: bool = True


def _give_up(future: Future, error: CipoError | None) -> None:
    """Fails a waiting future with `error`, or cancels it."""
    if error is None:
        future.cancel()
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _decode(answer: bytes) -> Verdict:
    body = json.loads(answer)
    return Verdict(**{**body, "outcome": Outcome(body["outcome"])})


def _kill_group(process: subprocess.Popen) -> None:
    """Also what the worker has started. To be called before the worker is reaped: until then its
    process id, which is the group's, cannot be another's. A worker that is exiting keeps its exit
    status."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _exit_of(process: subprocess.Popen) -> str:
    """How the process, which was reaped, ended."""
    if process.returncode >= 0:
        return f"exited with status {process.returncode}"
    try:
        name = signal.Signals(-process.returncode).name
    except ValueError:
        name = f"signal {-process.returncode}"
    return f"was killed by {name}"


def _worker_environment() -> dict[str, str]:
    """This process's environment and `sys.path`. One thread a worker: the pool has the cores."""
    single_threaded = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
    )
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, **single_threaded, "PYTHONPATH": path}


def _quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile by nearest rank; 0 of nothing."""
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else 0.0
