"""The process in which verifiers run, a fork of `zygote.py`.

This file decides which function judges (`VERIFIERS`, `load_verifier`), turns whatever it does
(returns, raises, prints) into one verdict (`judge`), and ends with the pool's process. It decides
what is done once before workers are forked (`prepare`). Wall time is limited in
`worker_process.py`, the other side of the socket.

Your own verifier is a function, named by "package.module:function" (found by `sys.path`) or by
"path/to/file.py:function" (which may import the files beside it):

    def verify(problem: cipo_jax.types.Problem, text: str) -> Verdict | bool | float

It is called with the problem and the completion's text, in a process that serves one call at a time
and may be killed during any call. True means correct, False wrong. A number is a score in [0, 1];
only 1 is correct. Of a `Verdict`, all but `seconds` is used. An exception makes the outcome ERROR.

The protocol, over one socket: each message is a 4-byte big-endian length and a body. The
worker says `{"ready": true, "about": text}` or `{"failed": reason}` in JSON; then the pool sends
`(Problem, text)` as pickles, and for each the worker answers one verdict in JSON, which the pool
can read without trusting it. The end of the stream ends the worker.
"""

import contextlib
import dataclasses
import fcntl
import functools
import importlib
import importlib.util
import inspect
import json
import numbers
import os
import pickle
import resource
import select
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from cipo_jax.types import Outcome, Problem, Verdict
from cipo_jax.verifiers.code.tests import TOTAL_TIME_LIMIT, verify_code
from cipo_jax.verifiers.math.answer import DEFAULT_RULES, RULES, verify_math
from cipo_jax.verifiers.math.quantity import read_tolerance
from cipo_jax.verifiers.messages import receive, send
from cipo_jax.verifiers.sandbox.layers import Sandbox, describe, open_sandbox

_MAX_EXTRACTED_CHARS = 1_000
_MAX_DETAIL_CHARS = 500
_MAX_REASON_CHARS = 4_000

Verify = Callable[[Problem, str], Verdict | bool | float]


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of the verifiers that come with the package; your own function gets none of them."""

    # The rules by which "math" finds an answer, in order; see `verifiers/math/answer.py`.
    extraction: Sequence[str] = DEFAULT_RULES
    allow_unsandboxed_code: bool = False  # run programs even if the machine offers no isolation
    partial_credit: bool = False  # run all tests of a program and set `Verdict.score`
    total_seconds: float = (
        TOTAL_TIME_LIMIT  # of all tests of a program, where its problem is silent
    )


def _load_math(options: Options) -> tuple[Verify, str]:
    rules = options.extraction
    if unknown := [rule for rule in rules if rule not in RULES]:
        raise ValueError(f"extraction: got {unknown}, wanted some of {', '.join(RULES)}")
    # Pays for the imports and the first parse before the clock runs.
    verify_math(r"\boxed{\sqrt{8} + x}", r"x + 2\sqrt{2}")

    def verify(problem: Problem, text: str) -> Verdict:
        if problem.answer is None:
            detail = f"problem {problem.id!r} has no reference answer"
            if problem.tests is not None:
                detail += ", but tests: they want verifier.kind 'code' or 'auto'"
            return Verdict(Outcome.ERROR, detail=detail)
        tolerance = read_tolerance(problem.meta.get("tolerance"))
        return verify_math(text, problem.answer, rules, problem.question, tolerance)

    return verify, ""


@functools.cache
def _layer(allow_unsandboxed_code: bool) -> str:
    """The best isolation of this machine. Raises CipoError if there is none."""
    with open_sandbox(allow_unsandboxed_code) as sandbox:
        return sandbox.layer


def _load_code(options: Options) -> tuple[Verify, str]:
    sandbox = Sandbox(_layer(options.allow_unsandboxed_code))
    verify = functools.partial(
        verify_code,
        sandbox=sandbox,
        partial_credit=options.partial_credit,
        total_seconds=options.total_seconds,
    )
    return verify, describe(sandbox)


def _load_auto(options: Options) -> tuple[Verify, str]:
    """Problems with tests are judged by them, others by their answer."""
    verify_by_answer, _ = _load_math(options)
    verify_by_tests, about = _load_code(options)

    def verify(problem: Problem, text: str) -> Verdict | bool | float:
        return (verify_by_answer if problem.tests is None else verify_by_tests)(problem, text)

    return verify, about


VERIFIERS: dict[str, Callable[[Options], tuple[Verify, str]]] = {
    "math": _load_math,
    "code": _load_code,
    "auto": _load_auto,
}


def prepare(kind: str, options: Options) -> None:
    """What workers of this kind would all do alike, before any is forked. None of it is code of the
    user. What fails here fails again in a worker, which says so."""
    with contextlib.suppress(Exception):
        if kind in ("math", "auto"):
            _load_math(options)
        if kind in ("code", "auto"):
            _layer(options.allow_unsandboxed_code)


def absolute(kind: str) -> str:
    """`kind` with the path of a file made absolute, so that it can be found from anywhere."""
    place, colon, name = kind.rpartition(":")
    return f"{Path(place).resolve()}{colon}{name}" if place.endswith(".py") else kind


def load_verifier(kind: str, options: Options) -> tuple[Verify, str]:
    """The function that `kind` names, ready to be called, and a line about it ("" for none).

    Raises:
      ValueError, ImportError, AttributeError, CipoError, and whatever importing the module raises.
    """
    if kind in VERIFIERS:
        return VERIFIERS[kind](options)
    place, _, name = kind.rpartition(":")
    if not place or not name:
        raise ValueError(
            f"not one of {sorted(VERIFIERS)}, and not 'package.module:function' or "
            "'path/to/file.py:function'"
        )
    module = _load_file(place) if place.endswith(".py") else importlib.import_module(place)
    function = getattr(module, name)
    if not callable(function):
        raise ValueError(f"{name} in {place} is not callable")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        message = f"{name} in {place} cannot be called with (problem, text): {error}"
        raise ValueError(message) from None
    return function, ""


def _load_file(path: str) -> types.ModuleType:
    """The module in a file, which may import the files beside it."""
    spec = importlib.util.spec_from_file_location(f"verifier_{Path(path).stem}", path)
    assert spec is not None and spec.loader is not None
    sys.path.append(str(Path(path).parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def judge(verify: Verify, problem: Problem, text: str) -> Verdict:
    """One verdict, whatever `verify` does, unless it ends or blocks the process."""
    start = time.perf_counter()
    try:
        verdict = _as_verdict(verify(problem, text))
    except BaseException as error:  # SystemExit and KeyboardInterrupt are the verifier's as well
        verdict = Verdict(Outcome.ERROR, detail=f"{type(error).__name__}: {_text_of(error)}")
    return dataclasses.replace(verdict, seconds=time.perf_counter() - start)


def _as_verdict(result: Any) -> Verdict:
    if isinstance(result, Verdict):
        extracted = None if result.extracted is None else str(result.extracted)
        outcome = Outcome(result.outcome)
        score = None if result.score is None else float(result.score)
        is_right = outcome is Outcome.CORRECT
        if score is not None and not (0 <= score < 1 or (score == 1 and is_right)):
            raise ValueError(f"the verifier returned {outcome} with score {score:g}")
        return Verdict(outcome, extracted, str(result.detail), score=score)
    if isinstance(result, bool | np.bool_):
        return Verdict(Outcome.CORRECT if result else Outcome.WRONG)
    score = float(result) if isinstance(result, numbers.Real) else -1.0
    if 0 <= score <= 1:
        outcome = Outcome.CORRECT if score == 1 else Outcome.WRONG
        return Verdict(outcome, detail=f"score {score:g}", score=score)
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


def _end_with(lifeline: int) -> None:
    """Has the kernel kill this process when the writing end of the pipe `lifeline`, which only the
    pool's process has, is closed, even while a verifier hangs. Elsewhere than on Linux only the end
    of file on the socket ends it, between items."""
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
        poll = select.poll()
        poll.register(lifeline, 0)
        if poll.poll(0):  # it was closed before
            os._exit(0)


def redirect_standard_streams() -> None:
    """Nothing to read on stdin; prints go to stderr, away from whatever the parent writes."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)


def _reason(error: BaseException) -> str:
    """Why a verifier cannot be used, with the line of the user's code that failed."""
    machinery = (__file__, importlib.__file__)
    stack = traceback.extract_tb(error.__traceback__)
    frames = [f for f in stack if not f.filename.startswith(("<frozen", *machinery))]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"[:_MAX_REASON_CHARS]


def main(
    socket_number: int, lifeline: int, kind: str, memory_limit_bytes: int, options: Options
) -> NoReturn:
    """In a fork of `zygote.py`: judges what comes over the socket until its end, and exits."""
    status = 1
    try:
        os.setsid()  # a process group of its own
        for descriptor in (socket_number, lifeline):
            os.set_inheritable(descriptor, False)  # a verifier's own children must not hold it
        _end_with(lifeline)
        importlib.invalidate_caches()
        if "numpy.random" in sys.modules:  # else all forks draw the same; `random` sees to itself
            np.random.seed()  # noqa: NPY002, it is for verifiers that use the old functions
        with socket.socket(fileno=socket_number) as channel:
            _serve(channel, kind, memory_limit_bytes, options)
        status = 0
    except (BrokenPipeError, ConnectionResetError):  # the pool went away
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _serve(channel: socket.socket, kind: str, memory_limit_bytes: int, options: Options) -> None:
    try:
        _limit_memory(memory_limit_bytes)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        verify, about = load_verifier(kind, options)
    except BaseException as error:
        send(channel, json.dumps({"failed": _reason(error)}).encode())
        return
    send(channel, json.dumps({"ready": True, "about": about}).encode())
    while (message := receive(channel)) is not None:
        send(channel, _answer(verify, message))


def _limit_memory(size: int) -> None:
    """Limits the address space of this process. Raises MemoryError if it takes more already."""
    with contextlib.suppress(FileNotFoundError):  # elsewhere than on Linux
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        if (taken := pages * resource.getpagesize()) > size:
            raise MemoryError(
                f"a worker takes {taken >> 20:,} MiB of address space by itself, "
                f"its memory limit is {size >> 20:,} MiB"
            )
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
