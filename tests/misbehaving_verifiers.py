"""Verifiers for the tests of the pool; the text says what to do. Imported by worker processes."""

import ctypes
import os
import subprocess
import sys
import time

import numpy as np

from cipo_jax.types import Outcome, Problem, Verdict


def obey(problem: Problem, text: str) -> Verdict | bool | float:
    """Does what the first word of `text` says; anything else is compared with the answer."""
    word, _, argument = text.partition(" ")
    actions = {
        "hang": lambda: time.sleep(600),
        "spin": _spin,
        "sleep": lambda: time.sleep(float(argument)),
        "exit": lambda: os._exit(3),
        "sys.exit": lambda: sys.exit(0),
        "raise": lambda: 1 / 0,
        "segfault": lambda: ctypes.string_at(0),
        "allocate": lambda: len(bytearray(int(argument))),
        "print": _print_much,
        "child": lambda: _start_child(argument),
        "none": lambda: "no verdict",
    }
    if word in actions:
        result = actions[word]()
        return result if isinstance(result, str) else True
    if word == "pid":
        return Verdict(Outcome.CORRECT, str(os.getpid()))
    if word == "modules":
        return Verdict(Outcome.CORRECT, " ".join(m for m in sys.modules if "." not in m))
    if word == "score":
        return float(argument)
    if word == "contradiction":
        return Verdict(Outcome.WRONG, score=1.0)
    if word == "numpy":
        return np.bool_(True)
    if word == "huge":
        return Verdict(Outcome.WRONG, "x" * 10_000_000, "y" * 10_000_000)
    return text == problem.answer


def _spin() -> None:
    while True:
        pass


def _print_much() -> None:
    print('{"outcome": "correct"}' * 1_000, flush=True)
    os.write(1, b"\x00\x00\x00\x02{}")


def _start_child(pid_file: str) -> None:
    """A child that outlives this call, then a hang."""
    child = subprocess.Popen(["sleep", "600"])
    with open(pid_file, "w") as file:
        file.write(str(child.pid))
    time.sleep(600)


not_callable = 5


def one_argument(text: str) -> bool:
    return bool(text)
