"""What a program finds when it starts, and how it ends, in the sandbox.

This file decides that a program is run as a script, or as the harness of a benchmark would run it:
its standard files, imports, recursion limit, and what happens when it has ended. It uses the
standard library only.
"""

import builtins
import contextlib
import ctypes
import functools
import gc
import io
import os
import resource
import sys
import traceback
from typing import Any

_RECURSION_LIMIT = 3_000
_STACK_BYTES = 112 << 20  # of the main thread; the kernel leaves 128 MiB of room for it
# What LiveCodeBench's harness does before it runs a program. Programs rely on it.
_CONTEST_RECURSION_LIMIT = 50_000
_CONTEST_IMPORTS = """
from string import *
from re import *
from datetime import *
from collections import *
from heapq import *
from bisect import *
from copy import *
from math import *
from random import *
from statistics import *
from itertools import *
from functools import *
from operator import *
from io import *
from sys import *
from json import *
from typing import *
import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics
import itertools, functools, operator, io, sys, json, typing
"""
_STANDARD_FILES = {
    place: number
    for number, name in enumerate(("stdin", "stdout", "stderr"))
    for place in (f"/dev/{name}", f"/dev/fd/{number}", f"/proc/self/fd/{number}")
}


Job = dict[str, Any]


def open_standard_files() -> list[Any]:
    """Standard input, output and error, as new files on their descriptors."""
    kinds = (("r", "strict"), ("w", "strict"), ("w", "backslashreplace"))
    files: list[Any] = []
    for number, (mode, errors) in enumerate(kinds):
        files.append(open(number, mode, encoding="utf-8", errors=errors, closefd=False))  # noqa: SIM115
    for name, file in zip(("stdin", "stdout", "stderr"), files, strict=True):
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
    _offer_their_names()
    return files


def _offer_their_names() -> None:
    """`open` knows the standard files by their names, which this root directory does not have."""

    def named(function: Any) -> Any:
        @functools.wraps(function)
        def opening(file: Any, *args: Any, **kwargs: Any) -> Any:
            number = None if isinstance(file, int) else _STANDARD_FILES.get(str(file))
            return function(file if number is None else os.dup(number), *args, **kwargs)

        return opening

    builtins.open = io.open = named(builtins.open)
    open_file = os.open

    @functools.wraps(open_file)
    def opening(path: Any, *args: Any, **kwargs: Any) -> int:
        number = _STANDARD_FILES.get(path) if type(path) is str else None
        return open_file(path, *args, **kwargs) if number is None else os.dup(number)

    os.open = opening


def offer_imports(job: Job) -> None:
    """Has all modules find what the harness of a contest imports. Built-in names keep their
    meaning, `pow` above all: these names come after them."""
    if job.get("contest"):
        names: dict[str, Any] = {}
        exec(_CONTEST_IMPORTS, names)
        for name, value in names.items():
            builtins.__dict__.setdefault(name, value)


def set_up(job: Job) -> None:
    """Limits and arguments of the interpreter, as the harness of a benchmark sets them."""
    limit = _RECURSION_LIMIT
    if job.get("contest"):
        limit = _CONTEST_RECURSION_LIMIT
        for name in ("stdin", "stdout", "stderr"):
            setattr(builtins, name, getattr(sys, name))
    sys.argv = ["program.py"]
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(max(sys.getrecursionlimit(), limit))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = _STACK_BYTES if hard == resource.RLIM_INFINITY else min(_STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))


def run_script(readings: list[Any], namespace: dict[str, Any]) -> int:
    """Runs a program as a script; returns its exit status."""
    try:
        run_first(readings, namespace)
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            return exit_.code or 0
        print(exit_.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run_first(readings: list[Any], namespace: dict[str, Any]) -> None:
    """Runs the first of the readings of a completion that compiles; raises the first's error if
    none does. A reading is a program, or its parts, which run one after the other."""
    failure: BaseException | None = None
    for reading in readings:
        parts = [reading] if isinstance(reading, str) else reading
        try:
            compiled = [compile(part, "<program>", "exec", dont_inherit=True) for part in parts]
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            failure = failure or error
            continue
        for code in compiled:
            exec(code, namespace)
        return
    assert failure is not None
    raise failure


def end_script(namespace: dict[str, Any], standard: list[Any], status: int) -> int:
    """Does what the end of an interpreter does, so that all output is written: waits for threads,
    calls what is registered, deletes what the program has made. Returns the exit status.

    The interpreter's own end would do it as well, and take twenty times as long, because it deletes
    every module, and with it writes to all memory that the forked process shares.
    """
    with contextlib.suppress(BaseException):
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
    if "atexit" in sys.modules:
        with contextlib.suppress(BaseException):
            sys.modules["atexit"]._run_exitfuncs()
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except BaseException:
        status = status or 120  # as the interpreter has it
    for name in list(namespace):
        if name != "__builtins__":
            with contextlib.suppress(BaseException):
                namespace[name] = None
    sys.stdin, sys.stdout, sys.stderr = standard
    gc.collect()
    for value in gc.get_objects():
        if issubclass(type(value), io.TextIOWrapper | io.BufferedWriter):
            with contextlib.suppress(BaseException):
                value.flush()
    for file in standard[1:]:
        with contextlib.suppress(BaseException):
            file.flush()
    ctypes.CDLL(None).fflush(None)  # what C code has printed
    return status
