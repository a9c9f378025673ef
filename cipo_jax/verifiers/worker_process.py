"""The pool's side of one worker process: starting it, asking it for a verdict, killing it.

This file decides how one item's deadline is kept, and that a worker is killed with all it has
started. What it is forked from is decided in `zygote_process.py`; when workers are replaced, in
`pool.py`; what happens in a worker, in `worker.py`.
"""

import contextlib
import json
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable

from cipo_jax.types import CipoError, Outcome, Problem, Verdict
from cipo_jax.verifiers import messages
from cipo_jax.verifiers.zygote_process import LostError, Zygote, how_it_ended, is_from_outside

_START_SECONDS = 60.0  # for a worker to load its verifier


class WorkerProcess:
    """A worker process and this side of its channel. One thread may use it; any may call `kill`."""

    def __init__(self, zygote: Zygote):
        """Has the process forked; `await_ready` has to follow. Raises CipoError if it cannot be."""
        self._setup = zygote.setup
        self._lock = threading.Lock()  # a process that was reaped must not be killed
        self._status: int | None = None
        self._channel, theirs = socket.socketpair()
        reading, self._lifeline = os.pipe()  # nobody writes there; its end is what kills
        try:
            with theirs:
                self._zygote, self._pid = zygote.fork(theirs.fileno(), reading)
        except BaseException:
            self._channel.close()
            os.close(self._lifeline)
            raise
        finally:
            os.close(reading)
        self._is_running = True
        self.is_alive = True  # as far as is known

    def await_ready(self) -> str:
        """Waits until the verifier is loaded; returns what it says about itself.

        Raises:
          LostError: the process was killed from outside.
          CipoError: the verifier cannot be loaded, with the reason; the process has ended then.
        """
        try:
            message = messages.receive(self._channel, time.monotonic() + _START_SECONDS)
            answer = {} if message is None else json.loads(message)
        except TimeoutError:
            answer = {"failed": f"its worker was not ready after {_START_SECONDS:g} s"}
        except OSError:
            answer = {}
        if "ready" in answer:
            return answer["about"]
        self.close()
        if "failed" not in answer and is_from_outside(self._status):
            raise LostError(
                f"verifier: a worker {how_it_ended(self._status)} while starting, by something "
                "outside the pool, such as the kernel for lack of memory"
            )
        limit = f"with a memory limit of {self._setup.memory_limit_bytes >> 20:,} MiB"
        ending = f"its worker {how_it_ended(self._status)} while starting, {limit}"
        reason = answer.get("failed", ending)
        raise CipoError(f"config.verifier.kind: {self._setup.kind!r} cannot be used: {reason}")

    def ask(
        self,
        problem: Problem,
        text: str,
        timeout_seconds: float,
        long_seconds: float,
        when_long: Callable[[], None],
    ) -> Verdict:
        """The verdict on one item. A worker that gives none is killed; after `timeout_seconds` the
        outcome is TIMEOUT. `when_long` is called once if there is none after `long_seconds`.

        Raises:
          CipoError: the problem cannot be pickled; the worker is not affected.
        """
        try:
            body = pickle.dumps((problem, text), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise CipoError(f"problem {problem.id!r} cannot be sent to a worker: {error}") from None
        start = time.monotonic()
        deadline = start + timeout_seconds
        try:
            messages.send(self._channel, body, deadline)
            if not messages.is_readable(self._channel, min(start + long_seconds, deadline)):
                when_long()
            answer = messages.receive(self._channel, deadline)
            if answer is not None:
                return _decode(answer)
            failure = ""
        except TimeoutError:
            self.close()
            detail = f"killed after {timeout_seconds:g} s"
            return Verdict(Outcome.TIMEOUT, detail=detail, seconds=time.monotonic() - start)
        except (OSError, ValueError, KeyError, TypeError) as error:
            failure = f" ({type(error).__name__}: {error})"
        self.close()
        detail = f"the worker {how_it_ended(self._status)}{failure}"
        return Verdict(Outcome.ERROR, detail=detail, seconds=time.monotonic() - start)

    def has_ended(self) -> bool:
        """Between two items: has it ended, or sent an answer that was not asked for?"""
        return not self.is_alive or messages.is_readable(self._channel, time.monotonic())

    def kill(self) -> None:
        """Kills the worker's process group, also what it has started, and reaps the worker; an exit
        status that it has is kept. From any thread; twice is harmless."""
        with self._lock:
            if self._is_running:
                self._is_running = False
                with contextlib.suppress(OSError):  # the zygote is gone: the lifeline does it
                    self._status = self._zygote.ask(self._pid)
                os.close(self._lifeline)

    def close(self) -> None:
        """Kills the process and closes the channel."""
        self.is_alive = False
        self.kill()
        self._channel.close()


def _decode(answer: bytes) -> Verdict:
    body = json.loads(answer)
    return Verdict(**{**body, "outcome": Outcome(body["outcome"])})
