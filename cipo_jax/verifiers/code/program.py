"""From a completion to the program it gives, and from a test specification to what is run.

This file decides how a completion is read as a program, and which parts of the tests belong to the
tests' own process. Which code blocks make the program is decided in `blocks.py`. It parses test
specifications, never programs: those are parsed in the sandbox only.

A program is as it stands in its code blocks, or the whole completion if there is none. The
completion of a function head (check_fn tests) is a whole definition if it defines the function at
the left margin, else the body that goes on after the head. Models often lose the indentation at the
start of a body, and often go on after its end: with prose, with a call, with the next function, cut
in the middle. So several readings are offered, and the first that compiles is the program:

  * an indented body: with the definitions that follow it, up to the first line at the left margin
    that is neither a definition nor a comment; else the body alone, up to the first line at the
    left margin (the stop words of HumanEval); else all of it;
  * a whole definition, or a body without indentation: all of it; else the same two parts.

So it is with a completion without blocks that has prose before, between or after its code, in all
forms of tests: the whole of it; else the lines that look like code; else those that define.
"""

import ast
import collections
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from cipo_jax.types import CipoError, Problem
from cipo_jax.verifiers.code.blocks import CODE_LINE, find_program, has_fence
from cipo_jax.verifiers.thoughts import without_thinking

Reading = list[str]  # what is run before the program, and the program

MAX_PROGRAM_CHARS = 200_000
_TRIPLE = re.compile(r"\"\"\"|'''")
# Lines at the left margin that may follow a function's body and belong to the program.
_DEFINES = re.compile(r"(?:def|async|class|import|from)\b|[@)\]}#]")


def extract_program(problem: Problem, text: str) -> str | None:
    """The program in the completion `text`, see `blocks.py`. Thinking blocks are skipped. None if
    there is none, it is blank, or it is in other languages only."""
    return find_program(without_thinking(text), _wanted(problem), _type_of(problem) == "stdin")


def readings(problem: Problem, text: str) -> list[Reading] | None:
    """The programs the completion `text` may mean, most likely first; None if there is none."""
    program = extract_program(problem, text)
    if program is None:
        return None
    has_blocks = has_fence(without_thinking(text))
    if _type_of(problem) != "check_fn":
        programs = [program, *([] if has_blocks else _without_prose(program))]
        return [["", each] for each in dict.fromkeys(programs)]
    head, name = problem.question, entry_point(problem)
    body = program if has_blocks else without_thinking(text)
    start = re.search(r"\S", body)
    assert start is not None
    is_indented = body[: start.start()].rpartition("\n")[2] != ""
    definition = rf"^(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(name)}\b"
    if not is_indented and (found := re.search(definition, body, re.M)):
        before = f"{head.rstrip()}\n    pass\n"
        first = body[: found.start()].count("\n") + 1
        programs = [body, *_without_rest(body, first)]
        programs += [] if has_blocks else _without_prose(body)
        return [[part, program] for part in (before, "") for program in dict.fromkeys(programs)]
    head = head if head.endswith("\n") else head + "\n"
    if is_indented:
        bodies = [*_without_rest(body, 0), body]
    else:
        lines = body[start.start() :]
        shorter = [f"    {part}" for part in _without_rest(lines, 1)]
        bodies = [f"    {lines}", textwrap.indent(body, "    "), *shorter]
    return [["", head + part] for part in dict.fromkeys(bodies) if part.strip()]


def _without_rest(body: str, first: int) -> list[str]:
    """What may be meant of a function's body, or of its whole definition, with more after it.

    Args:
      first: lines at the start that belong to it however they are indented.
    """
    lines = body.split("\n")
    margin = [n for n, line in enumerate(lines) if n >= first and line[:1].strip()]
    alone = margin[0] if margin else len(lines)
    with_definitions = next((n for n in margin if not _DEFINES.match(lines[n])), len(lines))
    return ["\n".join(lines[:end]) for end in (with_definitions, alone)]


def _without_prose(text: str) -> list[str]:
    """What may be the program in a text without code blocks: the lines at the left margin that look
    like code, each with the indented lines after it, between the first that does something and
    the end; or only those of them that define."""
    kept: list[str] = []
    keeps, open_string = False, ""
    for line in text.split("\n"):
        if not open_string and line[:1].strip():
            keeps = bool(CODE_LINE.match(line)) and (bool(kept) or not line.startswith("#"))
        if keeps:
            kept.append(line)
        for quote in _TRIPLE.findall(line):
            open_string = quote if not open_string else open_string.replace(quote, "")
    code = "\n".join(kept).rstrip()
    return [part for part in (code, _without_rest(code, 0)[0].rstrip()) if part]


def needs_imports(problem: Problem, programs: Sequence[Reading]) -> bool:
    """Does the program get the imports that contest harnesses make (see `sandbox/roles.py`)?

    LiveCodeBench makes them for programs that read standard input and for functions, LeetCode for
    each program in its form. A row with a `preamble` of its own says what there is.
    """
    if _type_of(problem) in ("stdin", "call"):
        return True
    solution = re.compile(r"^class[ \t]+Solution\b", re.M)
    is_leetcode = any(solution.search(part) for reading in programs for part in reading)
    return is_leetcode and not (problem.tests or {}).get("preamble")


def _type_of(problem: Problem) -> str:
    assert problem.tests is not None
    return problem.tests["type"]


def _wanted(problem: Problem) -> set[str]:
    """Names that the tests take from the program."""
    if _type_of(problem) == "stdin":
        return set()
    if _type_of(problem) in ("call", "check_fn"):
        return {entry_point(problem).split(".")[0]}
    job, _ = tests_job(problem)
    nodes = [node for unit in job["tests"] for node in ast.walk(ast.parse(unit))]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return ({node.id for node in names} - own) | set(job["own"])


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
      they may take from the program if nothing else defines it), `own` (what they always take
      from it) and `modules` (names of which they use attributes only, with these); and
      {"before", "after"} for the program.

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
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = [node.id for node in nodes if isinstance(node, ast.Name)]
    names = sorted(name for name in set(used) if not name.startswith("__"))
    job: dict[str, Any] = {"preamble": preamble, "tests": units, "names": names}
    job |= {"own": [own] if own else [], "modules": _attributes(nodes, collections.Counter(used))}
    return job, {"before": before, "after": after}


def _attributes(nodes: Sequence[ast.AST], uses: Mapping[str, int]) -> dict[str, list[str]]:
    """The attributes of each name of which nothing else is used."""
    attributes: dict[str, list[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            attributes.setdefault(node.value.id, []).append(node.attr)
    return {name: each for name, each in attributes.items() if len(each) == uses[name]}


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
