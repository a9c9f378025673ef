"""Programs are judged by what they compute, in each test format."""

import sys
import time

import pytest
from sandboxes import open_or_skip

from cipo_jax.types import CipoError, Outcome, Problem, Verdict
from cipo_jax.verifiers.code.program import extract_program, readings
from cipo_jax.verifiers.code.tests import verify_code
from cipo_jax.verifiers.pool import VerifierPool
from cipo_jax.verifiers.sandbox import layers as sandbox_module
from cipo_jax.verifiers.sandbox.layers import describe, open_sandbox

HEAD = '''from typing import List

def helper(x: int) -> int:
    """Adds one."""
    return x + 1

def add_all(numbers: List[int]) -> int:
    """The sum of helper(x) over all numbers.
    >>> add_all([1, 2])
    5
    """
'''
CHECK = {
    "type": "check_fn",
    "code": "def check(candidate):\n    assert candidate([]) == 0\n    import math\n"
    "    assert candidate([1, 2]) == 5\n    xs = [3]\n"
    "    assert candidate(xs) == sum(helper(x) for x in xs)\n"
    "    assert math.isclose(candidate([4]), 5.0), 'expected 5.0'\n",
    "call": "check(add_all)",
}
BODY = "    return sum(map(helper, numbers))\n"
ASSERTS = {"type": "assert", "asserts": ["assert f(1) == 2", "assert f(-1) == 0"]}
CALLS = {
    "type": "call",
    "entry_point": "f",
    "cases": [{"input": [n], "output": n + 1} for n in range(4)],
}
STDIN = {
    "type": "stdin",
    "cases": [{"input": f"{n}\n", "output": f"{n + 1}\n"} for n in range(4)],
}
RIGHT = {
    "assert": "def f(n): return n + 1",
    "call": "def f(n): return n + 1",
    "stdin": "print(int(input()) + 1)",
}


def judge(tests: dict, program: str, question: str = "?", **options) -> Verdict:
    problem = Problem("p", question, tests=tests, meta=options.pop("meta", {}))
    return verify_code(problem, program, sandbox=open_or_skip(), **options)


@pytest.mark.parametrize("tests", [ASSERTS, CALLS, STDIN], ids=lambda t: t["type"])
def test_right_wrong_and_broken_programs(tests):
    kind = tests["type"]
    assert judge(tests, RIGHT[kind]).outcome is Outcome.CORRECT
    wrong = judge(tests, RIGHT[kind].replace("1", "2"))
    assert wrong.outcome is Outcome.WRONG
    assert f"{kind} test 0" in wrong.detail
    raising = judge(tests, RIGHT[kind].replace("1", "1 / 0"))
    assert raising.outcome is Outcome.WRONG
    assert "ZeroDivisionError" in raising.detail
    assert "SyntaxError" in judge(tests, "def f(n) return").detail
    assert judge(tests, "def f(n): return\nexit(0)").outcome is Outcome.WRONG
    assert judge(tests, "  \n").outcome is Outcome.NO_ANSWER
    assert judge(tests, RIGHT[kind] + " #" * 200_000).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    "completion",
    [
        BODY,
        BODY.lstrip(),
        "total = 0\nfor x in numbers:\n    total += x + 1\nreturn total\n",
        "def add_all(numbers):\n    return sum(n + 1 for n in numbers)",
        "```python\n" + HEAD + BODY + "```",
        "```\n" + BODY + "```",
        "def other(n):\n    return n\ndef add_all(numbers: List[int]) -> int:\n" + BODY,
    ],
    ids=["body", "unindented first line", "no indentation", "full", "fenced full", "fenced body"]
    + ["full with helper"],
)
def test_a_function_head_may_be_continued_or_repeated(completion):
    assert judge(CHECK, completion, HEAD).outcome is Outcome.CORRECT


def test_a_failing_check_names_the_assert_not_what_it_wanted():
    verdict = judge(CHECK, "    return 0 if not numbers else 5", HEAD)
    assert verdict.outcome is Outcome.WRONG
    assert verdict.detail == "check_fn test 0 of 1 failed: AssertionError at assert 2"
    assert judge(CHECK, "    return 0 if not numbers else 4.9", HEAD).detail.endswith("assert 1")


def test_a_helper_of_the_head_is_the_tests_own():
    """Else a program could redefine what its answers are compared with."""
    cheat = "def helper(x): return 0\ndef add_all(numbers): return 5 * (numbers == [1, 2])"
    assert judge(CHECK, cheat, HEAD).detail.endswith("assert 2")


@pytest.mark.parametrize(
    ("asserts", "program"),
    [
        ("assert f([3, 1]) == (1, 3)", "def f(x): return tuple(sorted(x))"),
        ("assert f() == {1: [2.5, None], 'a': {3}}", "def f(): return {1: [2.5, None], 'a': {3}}"),
        ("assert f() == 2 ** 20_000", "def f(): return 1 << 20_000"),
        ("assert f() == b'\\x00\\xff' and f() != 'x'", "def f(): return bytes([0, 255])"),
        ("assert f() == 1 + 2j", "def f(): return complex(1, 2)"),
        ("assert f() == '\\ud800 \\x00'", "def f(): return chr(0xd800) + ' ' + chr(0)"),
        ("assert f() != f()", "def f(): return float('nan')"),
        ("assert f() == float('inf')", "def f(): return 1e999"),
        ("from collections import deque\nassert f() == deque([1])", "from collections import *\n"
         "def f(): return deque([1])"),
        ("from fractions import Fraction\nassert f() == Fraction(1, 3)", "import fractions\n"
         "def f(): return fractions.Fraction(1, 3)"),
        ("assert isinstance(f(), list) and type(f()) is list and f() == []", "def f(): return []"),
        ("assert f(int, '7') == 7", "def f(kind, text): return kind(text)"),
        ("assert f(lambda x: x * 2, 4) == 8", "def f(g, x): return g(x)"),
        ("assert list(f(3)) == [0, 1, 2] and sum(f(4)) == 6", "def f(n): yield from range(n)"),
        ("assert f(2)(3) == 8", "def f(n): return lambda m: n ** m"),
        ("x = [3, 1, 2]\nassert f(x) is None and x == [1, 2, 3]", "def f(x): x.sort()"),
        ("x = {'a': [1]}\nf(x)\nassert x == {'a': [1, 2]}", "def f(x): x['a'].append(2)"),
        ("assert f(a=1, b=2) == -1", "def f(a, b): return a - b"),
        ("try:\n    f(0)\nexcept ZeroDivisionError:\n    pass\nelse:\n    assert False",
         "def f(n): return 1 / n"),
        ("s = Stack()\ns.push(3)\ns.push(4)\nassert s.pop() == 4 and s.items == [3]",
         "class Stack:\n    def __init__(self): self.items = []\n"
         "    def push(self, x): self.items.append(x)\n    def pop(self): return self.items.pop()"),
        ("n = Node(1)\nn.next = Node(2)\nassert f(n) == 3 and n.next.value == 2",
         "class Node:\n    def __init__(self, v): self.value, self.next = v, None\n"
         "def f(n): return n.value + n.next.value"),
        ("assert Solution().f([1]) == 1", "class Solution:\n"
         "    def f(self, x: List[int]) -> int: return Counter(x)[1]"),
        ("assert sum(10, 15) == 26", "def sum(a, b): return a + b + 1"),
        ("assert abs(f(1) - 1.5) < 1e-9 and round(f(2), 1) == 2.5", "def f(n): return n + 0.5"),
        ("assert f('a') == 'A'", "from enum import Enum\nclass U(str, Enum):\n    A = 'A'\n"
         "def f(s): return U.A"),
    ],
    ids=lambda value: value[:28] if value.startswith("assert") else "",
)  # fmt: skip
def test_what_a_statement_can_ask(asserts, program):
    assert judge({"type": "assert", "asserts": [asserts]}, program).outcome is Outcome.CORRECT
    lies = program.replace("return", "return [9] if True else")
    for honest, lie in (("yield from range(n)", "yield 9"), ("x.sort()", "0"), (".append(2)", "")):
        lies = lies.replace(honest, lie)
    assert judge({"type": "assert", "asserts": [asserts]}, lies).outcome is Outcome.WRONG


def test_preamble_and_setup_have_their_places():
    tests = {
        "type": "assert",
        "preamble": "import math\nSCALE = 2\nclass Pair:\n"
        "    def __init__(self, a, b): self.a, self.b = a, b\n",
        "setup": "p = Pair(1, 2)\nclass Late:\n    value = 5",
        "asserts": ["assert f(p) == 3 * SCALE", "assert f(Pair(0, 1)) == math.floor(2.5)"],
        "challenge_asserts": ["assert g() == 5"],
    }
    program = "def f(p): return (p.a + p.b) * SCALE\ndef g(): return Late.value"
    assert judge(tests, program).outcome is Outcome.CORRECT
    wrong = judge(tests, program.replace("Late.value", "6"))
    assert wrong.detail == "assert test 2 of 3 failed: AssertionError"


def test_the_rows_entry_point_may_come_with_the_problem():
    tests = {"type": "assert", "asserts": ["assert max(max(1, 2), 0) == 2"]}
    program = "def max(a, b): return a if a > b else b"
    assert judge(tests, program, meta={"entry_point": "max"}).correct


@pytest.mark.parametrize(
    ("compare", "expected", "right", "wrong"),
    [
        ({}, "1 2\n3\n", "1\n2 3", "1 2"),
        ({"compare": "token"}, "a b", "a  b\n\n", "a B"),
        ({"compare": "exact"}, "a b\n", "a b", "a  b"),
        ({"compare": "float"}, "0.5 x", "0.50000001 x", "0.51 x"),
        ({"compare": "float", "tolerance": 0.1}, "100", "109", "111"),
        ({"compare": "float"}, "nan 1", "nan 1", "inf 1"),
        ({"compare": "unordered_lines"}, "1 2\n3", "3\n1  2", "3\n2 1"),
        ({"compare": "own_judges:same_length"}, "abc", "xyz", "ab"),
    ],
)
def test_ways_to_compare_output(compare, expected, right, wrong, tmp_path, monkeypatch):
    (tmp_path / "own_judges.py").write_text(
        "def same_length(given, expected, output):\n"
        "    return given == 'in' and len(expected) == len(output.strip())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tests = {"type": "stdin", "cases": [{"input": "in", "output": expected}], **compare}
    assert judge(tests, f"print({right!r})").outcome is Outcome.CORRECT
    assert judge(tests, f"print({wrong!r})").outcome is Outcome.WRONG
    monkeypatch.delitem(sys.modules, "own_judges", raising=False)


@pytest.mark.parametrize(
    ("output", "right", "wrong"),
    [
        (3, "3", "True"),
        (True, "True", "1"),
        (None, "None", "0"),
        (0.3, "0.1 + 0.2", "0.31"),
        (2.0, "2", "'2.0'"),
        ([1, [2]], "(1, [2])", "[1, 2]"),
        ([], "()", "set()"),
        ({"1": {"a": None}}, "{1: {'a': None}}", "{1: {'a': 0}}"),
        ("x", "'x'", "b'x'"),
        (10**30, "10 ** 30", "1e30"),
    ],
)
def test_values_compare_as_json_writes_them(output, right, wrong):
    tests = {"type": "call", "entry_point": "f", "cases": [{"input": [], "output": output}]}
    assert judge(tests, f"def f(): return {right}").outcome is Outcome.CORRECT
    expected = Outcome.CORRECT if output == 10**30 else Outcome.WRONG  # a float within tolerance
    assert judge(tests, f"def f(): return {wrong}").outcome is expected


def test_a_method_can_be_the_entry_point():
    tests = {"type": "call", "entry_point": "Solution.add", "cases": [{"input": [1], "output": 2}]}
    assert judge(tests, "class Solution:\n    def add(self, n: int) -> int: return n + 1").correct


def test_a_program_is_run_as_a_script():
    program = (
        "import sys, threading\ndef main():\n    data = sys.stdin.buffer.read().split()\n"
        "    sys.stdout.write(str(int(data[0]) + 1))\n"
        "if __name__ == '__main__':\n    t = threading.Thread(target=main)\n    t.start()\n"
    )
    assert judge(STDIN, program).correct
    assert judge(STDIN, "print(int(open(0).read()) + 1); exit()").correct
    assert judge(STDIN, RIGHT["stdin"] + "; exit(3)").detail.endswith("exit status 3")
    killed = judge(STDIN, "import ctypes; ctypes.string_at(0)")
    assert "killed by signal 11" in killed.detail


@pytest.mark.parametrize("tests", [ASSERTS, CALLS, STDIN], ids=lambda t: t["type"])
def test_time_limits(tests):
    kind = tests["type"]
    slow = "import time\n" + RIGHT[kind].replace("1", "1 + (time.sleep(0.4) or 0)")
    assert judge({**tests, "time_limit": 2.0}, slow).correct
    each = judge({**tests, "time_limit": 0.2}, slow)
    assert (each.outcome, "killed after 0.2 s" in each.detail) == (Outcome.TIMEOUT, True)
    start = time.monotonic()
    total = judge({**tests, "time_limit": 2.0, "total_time_limit": 0.6}, slow)
    assert total.outcome is Outcome.TIMEOUT
    assert "0.6 s for all" in total.detail
    assert time.monotonic() - start < 3


def test_the_memory_limit_is_the_programs_error():
    tests = {**CALLS, "memory_limit_bytes": 200 << 20}
    verdict = judge(tests, "def f(n): return len(bytearray(400 << 20))")
    assert verdict.outcome is Outcome.WRONG
    assert "MemoryError" in verdict.detail


@pytest.mark.parametrize("tests", [ASSERTS, CALLS, STDIN], ids=lambda t: t["type"])
def test_partial_credit_runs_all_tests(tests):
    kind = tests["type"]
    fewer = {**tests, "asserts": [*ASSERTS["asserts"], "assert f(2) == 3", "assert f(3) == 4"]}
    if kind != "assert":
        del fewer["asserts"]
    half = (
        "n = int(input())\nprint(n + 1 if n > 1 else 'no')"
        if kind == "stdin"
        else "def f(n): return n + 1 if n > 1 else 'no'"
    )
    verdict = judge(fewer, half, partial_credit=True)
    assert (verdict.outcome, verdict.score) == (Outcome.WRONG, 0.5)
    assert f"{kind} test 0 of 4" in verdict.detail
    assert judge(fewer, RIGHT[kind], partial_credit=True).score == 1.0
    assert judge(fewer, half).score is None


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("x = 1", "x = 1"),
        ("    x = 1\n", "    x = 1"),
        ("Try\n```python\nx = 1\n```\nor\n```python\nx = 2\n```\nDone.", "x = 2"),
        ("```python\nx = 1\n```\nOutput:\n```\n1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```Python3 title=a.py\nx = 1\n```", "x = 1"),
        ("```python\nx = 1", "x = 1"),
        ("- so:\n  ```py\n  x = 1\n  if x:\n    y = 2\n  ```", "x = 1\nif x:\n  y = 2"),
        ("~~~python\nx = '```'\n~~~", "x = '```'"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''"),
        ("```bash\npip install x\n```", None),
        ("<think>```python\nx = 1\n```</think>```python\nx = 2\n```", "x = 2"),
        ("<think>```python\nx = 1\n```", None),
        ("```python\n\n```", None),
        (" \n ", None),
    ],
)
def test_extraction(text, program):
    assert extract_program(text) == program


def test_readings_of_a_function_head():
    problem = Problem("p", "def f(n):\n", tests={"type": "check_fn", "code": "", "call": "c(f)"})
    assert readings(problem, "    return n")[0] == "def f(n):\n    return n"
    assert readings(problem, "def f(n): return n")[0].endswith("\n\ndef f(n): return n")
    assert readings(problem, "<think>") is None


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({"type": "unit"}, "tests.type: got 'unit'"),
        ({"type": "assert", "asserts": []}, "tests.asserts"),
        ({"type": "assert", "asserts": ["assert f("]}, "SyntaxError"),
        ({"type": "stdin", "cases": [{"input": 1, "output": "x"}]}, "tests.cases"),
        ({"type": "call", "cases": [{"input": [], "output": 1}]}, "entry_point"),
        ({**STDIN, "compare": "fuzzy"}, "tests.compare: got 'fuzzy'"),
        (None, "tests.type: got None"),
    ],
)
def test_malformed_tests_are_refused(tests, message):
    with pytest.raises(CipoError, match=message):
        judge(tests, "x = 1")


def test_a_broken_preamble_is_not_the_programs_fault():
    verdict = judge({**ASSERTS, "preamble": "import no_such_module"}, RIGHT["assert"])
    assert verdict.outcome is Outcome.ERROR
    assert "preamble: ModuleNotFoundError" in verdict.detail


@pytest.mark.slow
def test_the_pool_judges_code_and_math():
    open_or_skip()
    with VerifierPool("auto", workers=1, timeout_seconds=10.0, partial_credit=True) as pool:
        code, math = Problem("c", "?", tests=CALLS), Problem("m", "?", answer="7")
        futures = [pool.submit(code, RIGHT["call"]), pool.submit(math, r"\boxed{7}")]
        futures += [pool.submit(code, "def f(n): return 1"), pool.submit(math, r"\boxed{8}")]
        verdicts = [future.result() for future in futures]
        assert [v.correct for v in verdicts] == [True, True, False, False]
        assert [v.score for v in verdicts] == [1.0, None, 0.25, None]
        assert pool.about == describe(open_or_skip())
        hang = pool.submit(code, "def f(n):\n    while True: pass").result()
        assert hang.outcome is Outcome.TIMEOUT
        assert pool.stats()["restarts"] == 0


def test_without_isolation_code_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox_module, "LAYERS", ("bubblewrap", "namespaces"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(
        sandbox_module, "_find_leak", lambda box: "unshare: Operation not permitted"
    )
    with pytest.raises(CipoError) as refused:
        open_sandbox()
    for part in ("bwrap is not installed", "Operation not permitted", "apt-get install bubblewrap"):
        assert part in str(refused.value)
    assert "allow_unsandboxed_code" in str(refused.value)
    with open_sandbox(allow_unsandboxed_code=True) as last_resort:
        assert describe(last_resort).startswith("NO ISOLATION")
        # A harmless program: the limits and the judging are the same.
        assert verify_code(
            Problem("p", "?", tests=STDIN), RIGHT["stdin"], sandbox=last_resort
        ).correct
