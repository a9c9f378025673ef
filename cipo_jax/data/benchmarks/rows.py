"""From a benchmark's row to an `Item`: a problem, and what else the benchmark gives with it.

One function per shape of row. Each takes the benchmark's own columns, under any of their usual
names, or the project's normal form: an object `tests` that `verifiers/code/tests.py` understands,
or `answer` as text.

A row that cannot be used raises `CipoError` with its place. A sound row that has no test to run
raises `NoTestsError`: the loader counts and reports these.
"""

import ast
import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from cipo_jax.data.references import reference_answer
from cipo_jax.data.rows import ALIASES, Row
from cipo_jax.types import CipoError, Problem


@dataclasses.dataclass(frozen=True)
class Item:
    """One row of a suite."""

    problem: Problem
    where: str  # "file:line" of the row
    given: str | None = None  # the attempt to be corrected, if the row has one
    given_correct: bool | None = None  # is that attempt right, as the benchmark says?
    solution: str | None = None  # a reference solution, as a completion would give it
    plain: str = ""  # the row's own question, where that of the problem says more
    group: str = ""  # what repeated problems share; confidence intervals resample groups


class NoTestsError(CipoError):
    """The row is sound, but has no test by which a program could be judged."""


def math_item(row: Row) -> Item:
    """A question with an answer (forms: `data/references.py`).

    OlympiadBench says in its column `error` by how much a number may be off.
    """
    answer = reference_answer(row.where, row.first(*ALIASES["answer"]))
    meta = _meta(row)
    if (error := row.columns.get("error")) is not None:
        meta["tolerance"] = _olympiadbench_tolerance(row, error)
    problem = Problem(row.id, row.text(*ALIASES["question"]), answer=answer, meta=meta)
    return Item(problem, row.where, solution=_boxed(row.columns.get("solution")))


def minerva_item(row: Row) -> Item:
    """A question of Minerva (OCWCourses), whose answers are measured or rounded numbers: they may
    be off by a relative 1e-4, as in Qwen2.5-Math's evaluation."""
    item = math_item(row)
    meta = {**item.problem.meta, "tolerance": {"relative": "1e-4"}}
    return dataclasses.replace(item, problem=dataclasses.replace(item.problem, meta=meta))


def humaneval_item(row: Row) -> Item:
    """A function head to be completed, checked by `check(name)` (Chen et al. 2021; EvalPlus)."""
    head = row.text("prompt", "question")
    name = row.text("entry_point")
    tests = own_tests(row) or {
        "type": "check_fn",
        "code": without_numpy(row.text("test")),
        "call": f"check({name})",
        "total_time_limit": 60.0,  # EvalPlus runs hundreds of inputs
    }
    problem = Problem(row.id, head, tests={**tests, "entry_point": name})
    return Item(problem, row.where, solution=fenced(row.columns.get("canonical_solution")))


def mbpp_item(row: Row) -> Item:
    """A sentence and the asserts that the program must pass, which are shown (Austin et al. 2021).

    EvalPlus's rows add a script `test` with more inputs, which is not shown.
    """
    own = own_tests(row)
    if own is not None and own.get("asserts"):
        shown = Row(row.where, dict(own)).texts("asserts")
    else:
        shown = row.texts("test_list")
    tests = dict(own or {"type": "assert", "asserts": list(shown)})
    if own is None:
        if row.columns.get("test"):
            script = without_numpy(row.text("test"))
            tests |= {"asserts": [*shown, script], "total_time_limit": 60.0}
        if row.columns.get("challenge_test_list"):
            tests["challenge_asserts"] = row.texts("challenge_test_list")
        if row.columns.get("test_setup_code"):
            tests["setup"] = row.text("test_setup_code")
    if row.columns.get("entry_point"):
        tests["entry_point"] = row.text("entry_point")
    plain = row.text("prompt", "text")
    question = f"{plain}\n\nThe program must pass these tests:\n\n"
    name = f"mbpp/{row.id.removeprefix('mbpp/')}"
    problem = Problem(name, question + "\n".join(shown), tests=tests)
    code = row.columns.get("canonical_solution") or row.columns.get("code")
    return Item(problem, row.where, solution=fenced(code), plain=plain)


def given_item(row: Row) -> Item:
    """An attempt at a problem, to be corrected, labelled right or wrong.

    The columns of CriticBench (`response`, `response_label`, `question_source`, `answer` a list) or
    the project's normal form (`response`, `label_correct`, `task`, `answer` or `tests`).
    """
    label = row.first("label_correct", "response_label")
    if not isinstance(label, bool):
        raise CipoError(f"{row.where}: label_correct: got {label!r}, wanted true or false")
    question, response = row.text(*ALIASES["question"]), row.text("response")
    answer, tests = row.columns.get("answer"), own_tests(row)
    source = row.columns.get("question_source")
    if source in ("HumanEval", "MBPP") and tests is None:
        tests = _criticbench_tests(row, source, question)
    is_code = tests is not None or row.columns.get("task") == "code"
    if is_code and tests is None:
        raise NoTestsError(f"{row.where}: {row.id!r} has no tests")
    if tests is not None:
        if row.columns.get("entry_point"):
            tests = {**tests, "entry_point": row.columns["entry_point"]}
        problem = Problem(row.id, question, tests=tests)
    else:
        if isinstance(answer, list) and "response_label" in row.columns:  # CriticBench
            answer = answer[0] if answer else None
        problem = Problem(row.id, question, answer=reference_answer(row.where, answer))
    return Item(
        problem,
        row.where,
        given=fenced(response) if is_code else response,
        given_correct=label,
        solution=fenced(row.columns.get("correction")) if is_code else None,
        group=str(row.columns.get("group_id") or question),
    )


def debugbench_item(row: Row) -> Item:
    """A LeetCode problem with a buggy program (Tian et al. 2024), judged by its public examples.

    The benchmark itself submits programs to LeetCode, whose hidden tests are not available. Nor are
    its classes (TreeNode), and its judges of what a function does to its arguments.
    """
    if "buggy_code" not in row.columns:
        return given_item(row)
    plain = question = row.text("question", "description")
    examples = row.texts("examples")
    for number, example in enumerate(examples, start=1):
        question += f"\n\nExample {number}:\n{example}"
    if row.columns.get("constraints"):
        question += f"\n\nConstraints:\n{row.text('constraints')}"
    slug = row.text("slug")  # several bugs share one
    name = f"{slug}/{row.where.rpartition(':')[2]}"
    fix = row.text("solution", "oracle_code")
    method = re.search(r"^class Solution\b.*?^ +def (?!__)(\w+)\(", fix, re.M | re.S)
    cases = [case for case in map(leetcode_case, examples) if case is not None]
    if method is None or not cases:
        raise NoTestsError(f"{row.where}: {name!r} has no example that can be run")
    if why := _beyond_examples(fix, method[1]):
        raise NoTestsError(f"{row.where}: {name!r} has no example that can be run: {why}")
    tests = {"type": "call", "entry_point": f"Solution.{method[1]}", "cases": cases}
    problem = Problem(name, question, tests=tests)
    buggy = fenced(row.text("buggy_code"))
    return Item(problem, row.where, buggy, False, fenced(fix), plain=plain, group=slug)


def critique_item(item: Item) -> Item:
    """The question whether the given attempt is right; the answer is "correct" or "incorrect"."""
    assert item.given is not None
    question = f"{item.problem.question}\n\nA proposed solution:\n\n{item.given}"
    answer = "correct" if item.given_correct else "incorrect"
    problem = Problem(f"{item.problem.id}/critique", question, answer=answer)
    plain, right = item.plain or item.problem.question, item.given_correct
    return Item(problem, item.where, given_correct=right, plain=plain, group=item.group)


def leetcode_case(example: str) -> dict[str, Any] | None:
    """{"input": arguments, "output": value} of "Input: n = 12, k = 3\\nOutput: 3\\n...".

    None where values are no plain literals, such as drawings of trees.
    """
    match = re.search(r"Input:\s*(.*?)\s*Output:\s*([^\n]*)", example, re.S)
    if match is None:
        return None
    names = {"true": True, "false": False, "null": None}
    try:
        call = ast.parse(f"f({match[1]})", mode="eval").body
        value = ast.parse(match[2].strip(), mode="eval").body
        assert isinstance(call, ast.Call)
        parts = [*call.args, *(keyword.value for keyword in call.keywords)]
        inputs, output = [_literal(part, names) for part in parts], _literal(value, names)
    except (SyntaxError, ValueError, AssertionError, RecursionError):
        return None
    return {"input": inputs, "output": output} if inputs else None


def without_numpy(code: str) -> str:
    """EvalPlus's test code with a substitute for what it takes from NumPy, comparing floats: the
    sandbox has the standard library only."""
    return re.sub(r"^import numpy as np$", _NUMPY_STAND_IN.strip(), code, count=1, flags=re.M)


_NUMPY_STAND_IN = """
class np:
    float32 = float64 = float
    class ndarray: pass
    @staticmethod
    def allclose(a, b, rtol=1e-05, atol=1e-08):
        if isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(np.allclose(x, y, rtol, atol) for x, y in zip(a, b))
        return a == b or abs(a - b) <= atol + rtol * abs(b)
"""


def given_solution(problem: Problem) -> str | None:
    """The reference solution in a problem's `meta`, if it is one that a completion could be."""
    solution = problem.meta.get("solution")
    if problem.tests is not None:
        return solution if isinstance(solution, str) else None
    return _boxed(solution)


def own_tests(row: Row) -> Mapping[str, Any] | None:
    """The project's own test specification, if the row has one."""
    tests = row.columns.get("tests")
    if tests is not None and not (isinstance(tests, Mapping) and tests.get("type")):
        raise CipoError(f"{row.where}: tests: got {tests!r:.60}, wanted an object with a type")
    return tests


def fenced(code: Any) -> str | None:
    """A program as a completion gives it; None for a column that holds no text."""
    return f"```python\n{code.strip(chr(10))}\n```" if isinstance(code, str) else None


def _boxed(solution: Any) -> str | None:
    """A worked solution that puts its answer where completions have theirs, else None."""
    return solution if isinstance(solution, str) and "\\boxed" in solution else None


def _criticbench_tests(row: Row, source: str, question: str) -> dict[str, Any]:
    """CriticBench gives a code problem's tests as the text of its answer."""
    answer = row.columns.get("answer")
    code = answer[0] if isinstance(answer, list) and answer else answer
    code = row.checked_text("answer", code)
    if source == "MBPP":
        asserts = [line for line in code.splitlines() if line.startswith("assert")]
        if not asserts:
            raise CipoError(f"{row.where}: answer: got {code!r:.60}, wanted assert statements")
        return {"type": "assert", "asserts": asserts}
    names = re.findall(r"^def (\w+)\(", question, re.M)
    if not names:
        raise CipoError(f"{row.where}: question: wanted the head of a function")
    return {
        "type": "check_fn",
        "code": re.sub(r"^check\(.*\)\s*$", "", code, flags=re.M),
        "call": f"check({names[-1]})",
        "entry_point": names[-1],
    }


def _beyond_examples(program: str, method: str) -> str:
    """Why a right program's method does not return what LeetCode's examples show; "" if it does."""
    code = re.sub(r"#.*", "", program)
    defined = set(re.findall(r"^[ \t]*class[ \t]+(\w+)", code, re.M))
    shown = re.findall(r"^#[ \t]*class[ \t]+(\w+)", program, re.M)  # LeetCode's, in a comment
    if foreign := ({*shown, *_LEETCODE_CLASS.findall(code)} - defined):
        return f"it takes objects of LeetCode's {min(foreign)}"
    arguments = r"\((?:[^()]|\([^()]*\))*\)"
    returns_none = rf"\bdef[ \t]+{method}{arguments}\s*->\s*None\b"
    return "it changes its arguments and returns nothing" if re.search(returns_none, code) else ""


_LEETCODE_CLASS = re.compile(
    r"\b(?:TreeNode|ListNode|Node|NestedInteger|Employee|Interval|MountainArray|BinaryMatrix)\b"
)


def _literal(node: ast.AST, names: Mapping[str, Any]) -> Any:
    """The value of a literal as LeetCode writes it, with true, false and null."""
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, ast.List):
        return [_literal(item, names) for item in node.elts]
    return ast.literal_eval(node)


def _olympiadbench_tolerance(row: Row, error: Any) -> dict[str, str]:
    """Absolute; of several answers the strictest. The benchmark's judge adds one in a hundred."""
    parts = [part.strip() for part in str(error).split(",") if part.strip()]
    try:
        tolerances = [Fraction(part) for part in parts]
    except (ValueError, ZeroDivisionError) as cause:
        raise CipoError(f"{row.where}: error: got {error!r:.60}, wanted numbers") from cause
    if not tolerances:
        return {}
    return {"absolute": str(min(tolerances) * Fraction("1.01"))}


def _meta(row: Row) -> dict[str, Any]:
    return {name: row.columns[name] for name in ("level", "subject") if name in row.columns}
