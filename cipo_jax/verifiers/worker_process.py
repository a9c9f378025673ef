"""The pool's side of one worker process: starting it, asking it for a verdict, killing it.

This file decides how a worker is started and how one item's deadline is kept. When workers are
replaced is decided in `pool.py`; what happens in a worker, in `worker.py`.
"""

import contextlib
import dataclasses
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from cipo_jax.types import CipoError, Outcome, Problem, Verdict
from cipo_jax.verifiers import messages, worker

_START_SECONDS = 60.0  # for a worker to import what it needs


@dataclasses.dataclass(frozen=True)
class Setup:
    """How a worker is started."""

    kind: str  # which verifier, see `worker.load_verifier`
    options: worker.Options
    memory_limit_bytes: int  # its address space


class WorkerProcess:
    """A worker process and this side of its channel. One thread may use it; any may call `kill`."""

    def __init__(self, setup: Setup):
        """Starts the process; `await_ready` has to follow. Raises CipoError if it cannot start."""
        self._setup = setup
        self._lock = threading.Lock()  # a process that was reaped must not be signalled
        self._channel, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", worker.__name__, str(theirs.fileno())]
        command += [str(os.getpid()), setup.kind, str(setup.memory_limit_bytes)]
        command += [json.dumps(dataclasses.asdict(setup.options))]
        try:
            with theirs:
                # A new session: its own process group, and no Ctrl-C.
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], env=_environment(), start_new_session=True
                )
        except OSError as error:
            self._channel.close()
            raise CipoError(f"verifier.kind: no worker process can be started: {error}") from error
        self.is_alive = True  # as far as is known

    def await_ready(self) -> str:
        """Waits until the verifier is loaded; returns what it says about itself.

        Raises:
          CipoError: it cannot be loaded, with the reason; the process has ended then.
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
        limit = f"with a memory limit of {self._setup.memory_limit_bytes >> 20:,} MiB"
        reason = answer.get("failed", f"its worker {self._ending()} while starting, {limit}")
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
        detail = f"the worker {self._ending()}{failure}"
        return Verdict(Outcome.ERROR, detail=detail, seconds=time.monotonic() - start)

    def has_ended(self) -> bool:
        """Between two items: has it ended, or sent an answer that was not asked for?"""
        return not self.is_alive or messages.is_readable(self._channel, time.monotonic())

    def kill(self) -> None:
        """Kills the worker's process group, also what it has started, and reaps the worker; an exit
        status that it has is kept. From any thread; twice is harmless."""
        with self._lock:
            if self._process.returncode is None:  # else its id may be another's by now
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def close(self) -> None:
        """Kills the process and closes the channel."""
        self.is_alive = False
        self.kill()
        self._channel.close()

    def _ending(self) -> str:
        """How the process, which was reaped, ended."""
        status = self._process.returncode
        if status >= 0:
            return f"exited with status {status}"
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"


def _decode(answer: bytes) -> Verdict:
    body = json.loads(answer)
    return Verdict(**{**body, "outcome": Outcome(body["outcome"])})


def _environment() -> dict[str, str]:
    """This process's environment and `sys.path`. One thread a worker: the pool has the cores."""
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, **one_thread, "PYTHONPATH": path}
