"""The pool's side of the process that workers are forked from (`zygote.py`).

This file decides how that process is started, and that another takes its place when it is gone.
The workers of one that was killed go on; only what they started is not killed with them any more.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading

from cipo_jax.types import CipoError
from cipo_jax.verifiers import worker, zygote

_START_SECONDS = 120.0  # for the imports, on a busy machine
_ANSWER_SECONDS = 60.0  # for a fork, or a kill
_END_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Setup:
    """How workers are to be started.

    Attributes:
      kind, options: which verifier, see `worker.load_verifier`.
      memory_limit_bytes: the address space of each.
    """

    kind: str
    options: worker.Options
    memory_limit_bytes: int


class LostError(CipoError):
    """A process was killed from outside: no fault of the verifier's."""


class ZygoteProcess:
    """One such process. Any thread may call any method."""

    def __init__(self, setup: Setup):
        """Raises OSError if it cannot be started."""
        self._lock = threading.Lock()  # one request at a time
        self._is_ready = False
        self._channel, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", zygote.__name__, str(theirs.fileno())]
        command += [str(os.getpid()), setup.kind, str(setup.memory_limit_bytes)]
        command += [json.dumps(dataclasses.asdict(setup.options))]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=(theirs.fileno(),),
                    env=_environment(),
                    start_new_session=True,  # no Ctrl-C
                )
        except OSError:
            self._channel.close()
            raise

    def await_ready(self) -> None:
        """Raises OSError if it does not get ready."""
        with self._lock:
            self._channel.settimeout(_START_SECONDS)
            self._receive()
            self._channel.settimeout(_ANSWER_SECONDS)
            self._is_ready = True

    def ask(self, number: int, *descriptors: int) -> int:
        """The answer, see `zygote.py`. Raises OSError if there is none: the process is gone."""
        with self._lock:
            socket.send_fds(self._channel, [zygote.NUMBER.pack(number)], descriptors)
            return self._receive()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the process, which kills its workers; waits until it is gone. Twice is harmless."""
        if self._is_ready:
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def error(self, what: str) -> CipoError:
        """Why there is no worker, once `close` has been called."""
        status = self._process.returncode
        text = f"verifier: the process that workers are forked from {how_it_ended(status)} {what}"
        return LostError(text) if is_from_outside(status) else CipoError(text)

    def _receive(self) -> int:
        answer = self._channel.recv(zygote.NUMBER.size, socket.MSG_WAITALL)
        if len(answer) < zygote.NUMBER.size:
            raise ConnectionResetError("it has ended")
        return zygote.NUMBER.unpack(answer)[0]


class Zygote:
    """Forks the workers of one pool. Any thread may call any method."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self._lock = threading.Lock()  # held while a process starts
        self._process: ZygoteProcess | None = None
        self._closed = False

    def fork(self, channel: int, lifeline: int) -> tuple[ZygoteProcess, int]:
        """A new worker that has these descriptors: the process that it was forked from, and its id.

        Raises:
          LostError: what it should be forked from is killed again and again.
          CipoError: there can be no more processes, or it is closed.
        """
        for _ in range(2):  # the first may have been killed a while ago
            process = self._running()
            try:
                pid = process.ask(0, channel, lifeline)
            except OSError:
                process.close()
                continue
            if pid < 0:
                reason = os.strerror(-pid)
                raise CipoError(f"verifier: no worker process can be started: {reason}")
            return process, pid
        raise process.error("when it was asked for a worker")

    def close(self) -> None:
        """Ends the process and all workers."""
        self._closed = True
        if (process := self._process) is not None:
            process.close()

    def _running(self) -> ZygoteProcess:
        with self._lock:
            if self._process is not None and self._process.is_running():
                return self._process
            if self._process is not None:
                self._process.close()
            try:
                process = self._process = ZygoteProcess(self.setup)
            except OSError as error:
                raise CipoError(f"verifier: no worker process can be started: {error}") from error
            try:
                if self._closed:
                    raise OSError("closed")
                process.await_ready()
            except OSError:
                process.close()
                raise process.error("while starting") from None
            return process


def how_it_ended(status: int | None) -> str:
    """The words for an exit code; None: nobody knows it."""
    if status is None:
        return "has ended"
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def is_from_outside(status: int | None) -> bool:
    """Did something else end the process, such as the kernel for lack of memory?"""
    return status is None or -status in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


def _environment() -> dict[str, str]:
    """This process's environment and `sys.path`. One thread a worker: the pool has the cores."""
    single_threaded = dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
    )
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, **single_threaded, "PYTHONPATH": path}
