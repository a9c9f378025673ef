"""From a completion to the program it gives, and from a test specification to what is run.

This file decides what counts as the program of a completion, how a completion of a function head is
read, and which parts of the tests belong to the tests' own process. It parses test specifications,
never programs: those are parsed in the sandbox only.
"""

import ast
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from cipo_jax.types import CipoError, Problem
from cipo_jax.verifiers.thoughts import without_thinking

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*$", re.M)
_PYTHON = ("python", "python3", "py", "py3")
MAX_PROGRAM_CHARS = 200_000
# What LeetCode imports for each program; programs in its form (`class Solution`) rely on it.
_LEETCODE_IMPORTS = """
from typing import *
import bisect, collections, functools, heapq, itertools, math, operator, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
"""


def extract_program(text: str) -> str | None:
    """The last fenced block marked as Python; else the last block without a mark; without any
    fence, the whole text. An unclosed last block runs to the end. None if the program is blank or
    in other languages only. Thinking blocks are skipped."""
    text = without_thinking(text)
    blocks = _fenced_blocks(text)
    if not blocks:
        return text.strip("\n") if text.strip() else None
    for languages in (_PYTHON, ("",)):
        found = [body for language, body in blocks if language in languages]
        if found:
            return found[-1] if found[-1].strip() else None
    return None


def _fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each block."""
    spans: list[tuple[str, int, int]] = []  # language, start, end
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif not fence[2] and fence[1].startswith(opened[1]):
            spans.append((opened[2].lower(), opened.end(), fence.start()))
            opened = None
    if opened is not None:
        spans.append((opened[2].lower(), opened.end(), len(text)))
    return [(name, textwrap.dedent(text[start:end]).strip("\n")) for name, start, end in spans]


def readings(problem: Problem, text: str) -> list[str] | None:
    """The programs the completion `text` may mean, most likely first; None if there is none.

    A completion of a function head (check_fn tests) is a whole definition if it defines the
    function at the left margin, else the body after the head; models often lose the indentation at
    its start.
    """
    assert problem.tests is not None
    if problem.tests["type"] != "check_fn":
        program = extract_program(text)
        if program is None:
            return None
        return [program if problem.tests.get("preamble") else add_leetcode_imports(program)]
    head, name = problem.question, entry_point(problem)
    fenced = _FENCE.search(without_thinking(text)) is not None
    body = extract_program(text) if fenced else without_thinking(text)
    if body is None or not body.strip():
        return None
    if re.search(rf"^(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(name)}\b", body, re.M):
        return [f"{head.rstrip()}\n    pass\n\n{body}", body]
    head = head if head.endswith("\n") else head + "\n"
    first_indented = "    " + body.lstrip(" \t\n")
    return [head + body, head + first_indented, head + textwrap.indent(body, "    ")]


def add_leetcode_imports(program: str) -> str:
    """`program` with LeetCode's imports before it, if it is in LeetCode's form."""
    is_one = re.search(r"^class[ \t]+Solution\b", program, re.M)
    return f"{_LEETCODE_IMPORTS}\n{program}" if is_one else program


def entry_point(problem: Problem) -> str:
    """The function that the tests call: `entry_point` of the tests or the problem, or the argument
    of the call `check(name)`.

    Raises:
      CipoError: none of these names a function.
    """
    assert problem.tests is not None
    name = problem.tests.get("entry_point") or problem.meta.get("entry_point")
    if not name and problem.tests["type"] == "check_fn":
        call = re.fullmatch(r"\s*\w+\((\w+)\)\s*", str(problem.tests["call"]))
        name = call[1] if call else None
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise CipoError(
            f"problem {problem.id!r}: tests.entry_point: got {name!r}, "
            "wanted the name of the function under test"
        )
    return name


def tests_job(problem: Problem) -> tuple[dict[str, Any], dict[str, str]]:
    """What the tests' process runs, and what is put around the program in the program's process.

    Returns:
      The job's `preamble` (run first, trusted), `tests` (statements, one unit each), `names` (what
      they may take from the program if nothing else defines it) and `own` (what they always take
      from it); and {"before", "after"} for the program.

    Raises:
      CipoError: the tests are not Python.
    """
    tests: Mapping[str, Any] = problem.tests or {}
    try:
        if tests["type"] == "check_fn":
            own: str | None = entry_point(problem).split(".")[0]
            preamble = _helpers_of(problem.question, own)
            units = [f"{tests['code']}\n{tests['call']}"]
            before = after = ""
        else:
            before = tests.get("preamble", "")
            preamble = _select(ast.parse(before), ast.ClassDef, False)
            setup = ast.parse(tests.get("setup", ""))
            definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            after, steps = (_select(setup, definitions, keep) for keep in (True, False))
            units = [*tests["asserts"], *tests.get("challenge_asserts", [])]
            if steps and units:
                units[0] = f"{steps}\n{units[0]}"
        trees = [ast.parse(unit) for unit in units]
        if tests["type"] != "check_fn":
            own = _function_under_test(problem, trees)
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        message = f"problem {problem.id!r}: tests: {type(error).__name__}: {error}"
        raise CipoError(message) from error
    nodes = (node for tree in trees for node in ast.walk(tree))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    names = sorted(name for name in used if not name.startswith("__"))
    job = {"preamble": preamble, "tests": units, "names": names, "own": [own] if own else []}
    return job, {"before": before, "after": after}


def assert_number(unit: str, line: int) -> int | None:
    """Which of the unit's assert statements, counted from 0, is at `line`."""
    lines = sorted({n.lineno for n in ast.walk(ast.parse(unit)) if isinstance(n, ast.Assert)})
    before = [number for number, start in enumerate(lines) if start <= line]
    return before[-1] if before else None


def _function_under_test(problem: Problem, trees: Sequence[ast.AST]) -> str | None:
    """The name of the function under test if it is known. Only this name may replace a built-in
    function."""
    tests = problem.tests or {}
    if tests.get("entry_point") or problem.meta.get("entry_point"):
        return entry_point(problem).split(".")[0]
    calls = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call)]
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    return names.pop() if len(names) == 1 else None


def _helpers_of(head: str, own: str | None) -> str:
    """The head of a function without the function itself: imports and helpers."""
    for ending in ("\n    pass\n", "\n        pass\n", ""):
        try:
            tree = ast.parse(head.rstrip() + ending)
        except SyntaxError:
            continue
        kept = [node for node in tree.body if getattr(node, "name", None) != own]
        return ast.unparse(ast.Module(kept, []))
    return ""


def _select(tree: ast.Module, kinds: Any, keep: bool) -> str:
    """The source of the top-level statements of these `kinds`, or without `keep` of all others."""
    kept = [node for node in tree.body if isinstance(node, kinds) == keep]
    return ast.unparse(ast.Module(kept, []))
