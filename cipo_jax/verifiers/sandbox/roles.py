"""What runs inside the sandbox: the program under test, or the tests.

Three roles, each in a sandbox of its own:

  * "functions": runs the program once, then calls its functions as asked over the channel.
  * "cases": runs the program once for each input text and returns what it printed.
  * "tests": runs test statements that call the program's functions, which are in another sandbox.
    The program never shares memory with the tests, so it can neither read nor change them.

The first two hold code that may do anything, and hold no test and no expected value. Nothing they
say of themselves counts. This file uses the standard library only.

Each role says `{"started": true}` over the control channel once the process is confined and before
anything that is not trusted runs. What goes wrong earlier is the sandbox's fault; later, the
program's. The kernel adds the number of the process, whose time is then watched from outside.
"""

import builtins
import contextlib
import gc
import importlib
import json
import os
import re
import select
import signal
import site
import sys
import traceback
from typing import Any

from cipo_jax.verifiers.sandbox.inside import Job, Roles, confine, replace_by_null
from cipo_jax.verifiers.sandbox.peer import Peer, ProgramEndedError, is_of_program, text_of
from cipo_jax.verifiers.sandbox.script import (
    end_script,
    offer_imports,
    open_standard_files,
    run_first,
    run_script,
    set_up,
)
from cipo_jax.verifiers.sandbox.wire import read_message, write_message

_CONTROL, _LINK, _KEPT = 0, 3, 200  # descriptors
_NO_MODULE = r"No module named '[\w.]{1,60}'"
_TEXT_END = 2_000  # bytes of the error output that are kept


def run_functions(job: Job) -> None:
    """Serves the functions of `job["programs"]`, of which the first that compiles is used."""
    channel = _LINK if job["linked"] else os.dup(_CONTROL)
    module = _new_module("candidate")
    peer = Peer(channel, _serve_functions(module.__dict__), shows_errors=True)
    offer_imports(job)
    set_up(job)
    confine(job)
    _say_started(_CONTROL)
    replace_by_null(_CONTROL)  # nobody uses it any more: its end must not stay open here
    try:
        run_first(job["programs"], module.__dict__)
    except BaseException as error:
        peer.send(["raise", type(error).__name__, text_of(error), None])
        os._exit(1)
    peer.send(["value", None, {"dict": []}])
    peer.serve()
    os._exit(0)


def _serve_functions(namespace: dict[str, Any]) -> Any:
    def serve(_: Peer, request: list[Any]) -> Any:
        operation, *arguments = request
        if operation == "global":
            return _find(namespace, arguments[0])
        if operation == "call global":
            name, positional = arguments
            return _find(namespace, name)(*positional)
        if operation == "call":
            function, positional, keywords = arguments
            return function(*positional, **keywords)
        if operation == "next":
            return [item for item in [next(arguments[0], _END)] if item is not _END]
        return _OPERATIONS[operation](*arguments)

    return serve


def _find(namespace: dict[str, Any], name: str) -> Any:
    """What the program calls `name`; `Class.method` is the method of a new instance."""
    first, *rest = name.split(".")
    value = namespace[first]
    for part in rest:
        value = getattr(value() if isinstance(value, type) else value, part)
    return value


_END = object()
_OPERATIONS: dict[str, Any] = {
    "getattr": getattr,
    "setattr": setattr,
    "getitem": lambda owner, key: owner[key],
    "setitem": lambda owner, key, value: owner.__setitem__(key, value),
    "iter": lambda value: _Iterator(iter(value)),
    "contains": lambda value, item: item in value,
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value, name: _leave(value, name),
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
}


def _leave(value: Any, name: str | None) -> None:
    """Ends a `with` of the tests, by the error of the built-in class `name`; its text and whatever
    else it holds stay there."""
    kind = None if name is None else getattr(builtins, name)
    type(value).__exit__(value, kind, kind and kind.__new__(kind), None)


class _Iterator:
    """An iterator that crosses as itself, even over what would be copied."""

    def __init__(self, iterator: Any):
        self._iterator = iterator

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)


def run_cases(job: Job) -> None:
    """For each input text that comes over the control channel: runs the program in a fork of this
    process, answers with how it ended and what it printed. Another message ends a run. Only the
    fork is confined: this process runs nothing of the program."""
    offer_imports(job)
    gc.freeze()  # what is here now is no concern of a fork's collector: it would copy it all
    write_message(_CONTROL, json.dumps({"ready": True}).encode())
    while (message := read_message(_CONTROL)) is not None:
        case = json.loads(message)
        if "input" in case:  # else it is the end of a run that has ended by itself
            write_message(_CONTROL, json.dumps(_run_case(job, case["input"])).encode())


def _run_case(job: Job, text: str) -> dict[str, Any]:
    files = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("in", "out", "err")]
    try:
        with open(files[0], "wb", closefd=False) as file:
            file.write(text.encode("utf-8", "surrogatepass"))
        os.lseek(files[0], 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            _become_program(job, files)
        timed_out = not _ends_by_itself(pid)
        if timed_out:
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if job["isolated"] and os.getpid() <= 2:  # all else in this pid namespace is the program's
            _kill_all_others()
        output, errors = (_end_of(files[1], None), _end_of(files[2], _TEXT_END))
    finally:
        for descriptor in files:
            os.close(descriptor)
    return {
        "status": status,
        "timed_out": timed_out,
        "output": output.decode("utf-8", "replace"),
        "errors": errors.decode("utf-8", "replace"),
    }


def _end_of(file: int, size: int | None) -> bytes:
    """The last `size` bytes, or all, of which the limit on files allows no more than a message."""
    whole = os.fstat(file).st_size
    size = whole if size is None else min(size, whole)
    return os.pread(file, size, whole - size)


def _kill_all_others() -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)


def _ends_by_itself(pid: int) -> bool:
    """Waits until the process ends, True, or until a message comes; it is not waited for."""
    descriptor = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(_CONTROL, select.POLLIN)
    ready = [number for number, _ in poll.poll()]
    os.close(descriptor)
    return descriptor in ready


def _become_program(job: Job, files: list[int]) -> None:
    """Runs the program as a script would run, on `files`, and ends the process."""
    status = 1
    try:
        os.dup2(_CONTROL, _KEPT)
        for target, source in enumerate(files):
            os.dup2(source, target)
        os.closerange(3, _KEPT)
        standard = open_standard_files()
        namespace = _new_module("__main__").__dict__
        set_up(job)
        confine(job)
        _say_started(_KEPT)
        os.close(_KEPT)
        status = run_script(job["programs"], namespace)
        status = end_script(namespace, standard, status)
    finally:
        os._exit(status & 255)


def run_tests(job: Job) -> None:
    """Runs `job["tests"]` one after the other against the program at the other end of the link.

    Reports over the control channel, each time with the secret of this run: first whether the
    program could be loaded, then each test's result.
    """

    def report(**what: Any) -> None:
        write_message(_CONTROL, json.dumps({"secret": job["secret"], **what}).encode())

    sys.set_int_max_str_digits(0)
    namespace = _new_module("tests").__dict__
    peer = Peer(_LINK, _serve_callbacks)
    try:
        exec(compile(job["preamble"], "<preamble>", "exec"), namespace)
    except BaseException as error:
        report(broken=f"the tests' preamble: {type(error).__name__}: {text_of(error)}")
        return
    confine(job)
    report(started=True)
    try:
        hello = peer.receive()
        if hello[0] != "value":
            report(load=f"{str(hello[1])[:100]}: {str(hello[2])[:300]}")
            return
        for name in job["names"]:
            if name in job["own"] or not (name in namespace or hasattr(builtins, name)):
                _take(peer, name, job["modules"].get(name, []), namespace)
    except BaseException as error:
        report(load=_name_of(error))
        return
    report(load=None)
    for index, source in enumerate(job["tests"]):
        try:
            exec(compile(source, "<tests>", "exec"), namespace)
        except BaseException as error:  # the message stays here: it may hold an expected value
            if isinstance(error, ImportError) and _is_of_tests(error):
                report(broken=f"the tests: {type(error).__name__}: {text_of(error)}")
                return
            failed, line = _name_of(error) or "an error", _test_line(error)
        else:  # a test may catch whatever is raised
            failed, line = "the program ended" if peer.has_ended else "", None
        if not failed:
            report(test=index, passed=True)
            continue
        report(test=index, passed=False, reason=failed, line=line)
        if peer.has_ended or not job["all"]:
            return


def _is_of_tests(error: BaseException) -> bool:
    """Was it raised by a statement of the tests, and not passed on from the program?"""
    if is_of_program(error):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename == "<tests>"


def _take(peer: Peer, name: str, attributes: list[str], namespace: dict[str, Any]) -> None:
    """Gives the tests what they do not define. A module of the standard library is the tests' own,
    else a program could say what `math.isclose` is. All else comes from the program."""
    if attributes and name in sys.stdlib_module_names:
        module = importlib.import_module(name)
        if all(hasattr(module, attribute) for attribute in attributes):
            namespace[name] = module
            return
    try:
        namespace[name] = peer.request("global", name)
    except KeyError:  # it has no such name: the tests will say so
        namespace.pop(name, None)


def _serve_callbacks(_: Peer, request: list[Any]) -> Any:
    """The program may call the functions that a test passed to it, and nothing else."""
    operation, function, positional, keywords = request
    if operation != "call" or not callable(function):
        raise PermissionError("not offered")
    return function(*positional, **keywords)


def _test_line(error: BaseException) -> int | None:
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "<tests>"]
    return lines[-1] if lines else None


def _name_of(error: BaseException) -> str:
    if isinstance(error, ProgramEndedError):
        return "the program ended"
    text = text_of(error)
    if isinstance(error, ModuleNotFoundError) and re.fullmatch(_NO_MODULE, text):
        return f"ModuleNotFoundError: {text}"
    return type(error).__name__


def _new_module(name: str) -> Any:
    """An empty module, registered; with `exit` and `quit`, which `-S` leaves out."""
    site.setquit()
    module = type(sys)(name)
    sys.modules[name] = module
    return module


def _say_started(channel: int) -> None:
    write_message(channel, json.dumps({"started": True}).encode())


ROLES: Roles = {"functions": run_functions, "cases": run_cases, "tests": run_tests}
