"""The process in which verifiers run: `python -m cipo_jax.verifiers.worker`, started by `pool.py`.

This file decides which function judges, turns whatever it does (returns, raises, prints) into one
verdict, and ends with the process that started it. It does not limit wall time: the pool kills.

The protocol, over one inherited socket: each message is a 4-byte big-endian length and a body. The
worker says `{"ready": true}` or `{"failed": reason}` in JSON; then the pool sends `(Problem, text)`
as pickles, and for each the worker answers one verdict in JSON, which the pool can read without
trusting it. The end of the stream ends the worker.
"""

import contextlib
import ctypes
import dataclasses
import importlib
import json
import numbers
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from cipo_jax.types import Outcome, Problem, Verdict
from cipo_jax.verifiers.math_answer import verify_math

_MAX_EXTRACTED_CHARS = 1_000
_MAX_DETAIL_CHARS = 500
_MAX_REASON_CHARS = 4_000
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h

Verify = Callable[[Problem, str], Verdict | bool | float]


def _verify_math_problem(problem: Problem, text: str) -> Verdict:
    if problem.answer is None:
        return Verdict(Outcome.ERROR, detail=f"problem {problem.id!r} has no reference answer")
    return verify_math(text, problem.answer)


def _warm_up_math() -> None:
    """Pays for the imports and the first parse before the clock runs."""
    verify_math(r"\boxed{\sqrt{8} + x}", r"x + 2\sqrt{2}")


VERIFIERS: dict[str, Verify] = {"math": _verify_math_problem}
_WARM_UPS: dict[str, Callable[[], None]] = {"math": _warm_up_math}


def load_verifier(kind: str) -> Verify:
    """The function that `kind` names, ready to be called.

    Raises:
      ValueError, ImportError, AttributeError, and whatever importing the module raises.
    """
    if kind in VERIFIERS:
        _WARM_UPS[kind]()
        return VERIFIERS[kind]
    module_name, _, function_name = kind.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"not one of {sorted(VERIFIERS)} and not 'package.module:function'")
    function = getattr(importlib.import_module(module_name), function_name)
    if not callable(function):
        raise ValueError(f"{function_name} in {module_name} is not callable")
    return function


def judge(verify: Verify, problem: Problem, text: str) -> Verdict:
    """One verdict, whatever `verify` does, short of ending or blocking the process.

    A bool means correct or wrong. A number is a score in [0, 1]; only 1 is correct.
    """
    start = time.perf_counter()
    try:
        verdict = _as_verdict(verify(problem, text))
    except BaseException as error:  # SystemExit and KeyboardInterrupt are the verifier's as well
        verdict = Verdict(Outcome.ERROR, detail=f"{type(error).__name__}: {_text_of(error)}")
    return dataclasses.replace(verdict, seconds=time.perf_counter() - start)


def _as_verdict(result: Any) -> Verdict:
    if isinstance(result, Verdict):
        extracted = None if result.extracted is None else str(result.extracted)
        return Verdict(Outcome(result.outcome), extracted, str(result.detail))
    if isinstance(result, bool | np.bool_):
        return Verdict(Outcome.CORRECT if result else Outcome.WRONG)
    score = float(result) if isinstance(result, numbers.Real) else -1.0
    if 0 <= score <= 1:
        return Verdict(Outcome.CORRECT if score == 1 else Outcome.WRONG, detail=f"score {score:g}")
    got = f"{type(result).__name__} {_text_of(result)}"
    raise TypeError(f"the verifier returned {got}; wanted Verdict, bool, or a score in [0, 1]")


def _text_of(value: object) -> str:
    try:
        return str(value)[:_MAX_DETAIL_CHARS]
    except BaseException:  # a hostile __str__
        return "(no text)"


def _answer(verify: Verify, message: bytes) -> bytes:
    try:
        problem, text = pickle.loads(message)
    except Exception as error:
        detail = f"the problem cannot be read: {type(error).__name__}: {_text_of(error)}"
        verdict = Verdict(Outcome.ERROR, detail=detail)
    else:
        verdict = judge(verify, problem, text)
    body = dataclasses.asdict(verdict)
    body["extracted"] = verdict.extracted and verdict.extracted[:_MAX_EXTRACTED_CHARS]
    body["detail"] = verdict.detail[:_MAX_DETAIL_CHARS]
    return json.dumps(body).encode()


def send(channel: socket.socket, body: bytes) -> None:
    """Writes one message. Raises OSError (a timeout included) if the other side does not read."""
    channel.sendall(struct.pack("!I", len(body)) + body)


def receive(channel: socket.socket, deadline: float | None = None) -> bytes | None:
    """Reads one message; None at the end of the stream.

    Raises:
      TimeoutError: `deadline`, of `time.monotonic()`, has passed.
      OSError: the channel is broken.
    """
    header = _receive_exactly(channel, 4, deadline)
    if header is None:
        return None
    return _receive_exactly(channel, struct.unpack("!I", header)[0], deadline)


def _receive_exactly(channel: socket.socket, size: int, deadline: float | None) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        if deadline is not None:
            channel.settimeout(max(deadline - time.monotonic(), 1e-6))
        chunk = channel.recv(min(size - len(received), 1 << 20))
        if not chunk:
            return None
        received += chunk
    return bytes(received)


def _end_with(parent_pid: int) -> None:
    """Has the kernel kill this process when the thread that started it ends, even while a verifier
    hangs. Elsewhere than on Linux only the end of file on the socket ends it, between items."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it was gone before the call
            os._exit(0)


def _redirect_standard_streams() -> None:
    """Nothing to read on stdin; prints go to stderr, away from whatever the parent writes."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)


def main(socket_number: int, parent_pid: int, kind: str, memory_limit_bytes: int) -> None:
    """Judges what comes over the inherited socket until its end."""
    _end_with(parent_pid)
    _redirect_standard_streams()
    channel = socket.socket(fileno=socket_number)
    channel.set_inheritable(False)  # a verifier's own children must not hold it open
    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        verify = load_verifier(kind)
    except BaseException:
        reason = traceback.format_exc(limit=-3)[-_MAX_REASON_CHARS:]
        send(channel, json.dumps({"failed": reason}).encode())
        return
    send(channel, json.dumps({"ready": True}).encode())
    while (message := receive(channel)) is not None:
        send(channel, _answer(verify, message))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the parent went away
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
