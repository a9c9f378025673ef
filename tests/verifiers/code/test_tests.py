"""Programs are judged by what they compute, in each test format."""

import time

import pytest
from sandboxes import judge, open_or_skip

from cipo_jax.types import CipoError, Outcome, Problem
from cipo_jax.verifiers.pool import VerifierPool
from cipo_jax.verifiers.sandbox.layers import describe

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
STDIN = {"type": "stdin", "cases": [{"input": f"{n}\n", "output": f"{n + 1}\n"} for n in range(4)]}
RIGHT = {
    "assert": "def f(n): return n + 1",
    "call": "def f(n): return n + 1",
    "stdin": "print(int(input()) + 1)",
}


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
        BODY + "\nThis adds them up. It's easy!",
        BODY + '\n\ndef next_task(words):\n    """Returns the',
        BODY + "\nprint(add_all([1]) / 0)",
        BODY + "\nif __name__ == '__main__':\n    add_all(",
        BODY + "\n# Test\nassert add_all([1]) == 7",
        "    return inner(numbers)\n\ndef inner(numbers):\n" + BODY,
        "    return inner(numbers)\n\ndef inner(numbers):\n" + BODY + "\nThat's it.",
        BODY.lstrip() + "\nThis adds them up. It's easy!",
        "from __future__ import annotations\ndef add_all(numbers):\n" + BODY,
        "def add_all(numbers):\n" + BODY + "\nIt's done.",
        "def add_all(numbers):\n" + BODY + "\ndef next_task(words):\n    '''Returns",
        BODY + "\ndef add_all(numbers):\n    '''Cut",
        "```python\n" + BODY + "```\nUse:\n```python\nprint(add_all([1]))\n```",
        '    """So:\n    ```\n    add_all([1])\n    ```\n    """\n' + BODY,
    ],
    ids=["body", "unindented first line", "no indentation", "full", "fenced full", "fenced body"]
    + ["full with helper", "prose", "cut definition", "call", "cut main", "own assert"]
    + ["helper after", "helper and prose", "unindented and prose", "future", "full and prose"]
    + ["full and cut", "body and full, cut", "fenced body and use", "fence in a docstring"],
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


@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("import atexit\natexit.register(print, 'end')\nprint('start')", "start end"),
        ("import sys, io, atexit\nkept = io.StringIO()\nsys.stdout = kept\n"
         "atexit.register(lambda: sys.__stdout__.write(kept.getvalue()))\nprint(5)", "5"),
        ("import sys\nold = sys.stdout\nsys.stdout = None\nold.write('6')", "6"),
        ("own = open(1, 'w', closefd=False)\nown.write('7')", "7"),
        ("import os\nown = os.fdopen(os.dup(1), 'w', 1 << 20)\nown.write('8')", "8"),
        ("class Last:\n    def __del__(self): print('gone')\nlast = Last()\nprint('here')",
         "here gone"),
        ("import sys\nprint(9)\nsys.stdout.close()", "9"),
        ("import sys\nprint(1)\nsys.exit()", "1"),
        ("import sys\nsys.stdout = open('/dev/stdout', 'w')\nprint(2)", "2"),
        ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print(3)))"
         ".start()", "3"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True)"
         ".start()\nprint(4)", "4"),
    ],
)  # fmt: skip
def test_what_is_written_at_the_end_counts(program, output):
    tests = {"type": "stdin", "cases": [{"input": "", "output": output}]}
    assert judge(tests, program).outcome is Outcome.CORRECT
    other = {"type": "stdin", "cases": [{"input": "", "output": output + "1"}]}
    assert judge(other, program).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    "source",
    ["open('/dev/stdin').read()", "open('/dev/fd/0').readline()", "open(0).read()"]
    + ["__import__('pathlib').Path('/dev/stdin').read_text()"]
    + ["next(__import__('fileinput').input('/dev/stdin'))"]
    + ["__import__('os').read(__import__('os').open('/dev/stdin', 0), 9)", "stdin.readline()"],
)
def test_standard_input_by_its_names(source):
    assert judge(STDIN, f"print(int({source}) + 1)").outcome is Outcome.CORRECT


@pytest.mark.parametrize(
    "body",
    [
        "pow(5, n, 23)",
        "pow(n, -1, 23) * 0 + pow(5, n, 23)",
        "pow(5, 4000) % 23 * 0 + pow(5, n, 23)",
        "int(max([sum([pow(5, n, 23)])]))",
        "reduce(lambda a, b: a * b, repeat(5, n)) % 23",
    ],
)
def test_built_in_names_and_those_of_contest_harnesses(body):
    method = f"class Solution:\n    def f(self, n: Optional[int]) -> List[int]: return {body}"
    output = pow(5, 3, 23)
    calls = {
        "type": "call",
        "entry_point": "Solution.f",
        "cases": [{"input": [3], "output": output}],
    }
    assert judge(calls, method).outcome is Outcome.CORRECT
    asserts = {"type": "assert", "asserts": [f"assert Solution().f(3) == {output}"]}
    assert judge(asserts, method).outcome is Outcome.CORRECT
    stdin = {"type": "stdin", "cases": [{"input": "3", "output": str(output)}]}
    assert judge(stdin, f"{method}\nprint(Solution().f(int(input())))").outcome is Outcome.CORRECT
    future = "from __future__ import annotations\n"
    assert judge(calls, future + method).outcome is Outcome.CORRECT


def test_an_import_of_the_harness_is_no_answer():
    tests = {"type": "call", "entry_point": "gcd", "cases": [{"input": [4, 6], "output": 2}]}
    assert judge(tests, "x = 1").outcome is Outcome.WRONG
    assert judge(tests, "from math import gcd").outcome is Outcome.CORRECT


@pytest.mark.parametrize(
    "program",
    [
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)",
        "@cache\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)",
        "def f(n):\n    g = lru_cache(None)(lambda i: 0 if i == 0 else 1 + g(i - 1))\n"
        "    return g(n)",
    ],
)
def test_recursion_is_limited_as_in_livecodebench(program):
    tests = {**CALLS, "cases": [{"input": [15_000], "output": 15_000}]}
    assert judge(tests, program).outcome is Outcome.CORRECT
    stdin = {"type": "stdin", "cases": [{"input": "15000", "output": "15000"}]}
    assert judge(stdin, program + "\nprint(f(int(input())))").outcome is Outcome.CORRECT
    endless = {**CALLS, "cases": [{"input": [-1], "output": 0}]}
    assert judge(endless, program).outcome is Outcome.WRONG


def test_integers_of_many_digits():
    tests = {"type": "stdin", "cases": [{"input": "7" * 6000, "output": "7" * 5999 + "8"}]}
    assert judge(tests, RIGHT["stdin"]).outcome is Outcome.CORRECT
    asserts = {"type": "assert", "asserts": ["assert len(str(f(10 ** 5000))) == 5001"]}
    assert judge(asserts, RIGHT["assert"]).outcome is Outcome.CORRECT
    calls = {**CALLS, "cases": [{"input": [10**5000], "output": 10**5000 + 1}]}
    assert judge(calls, "def f(n): return int(str(n)) + 1").outcome is Outcome.CORRECT


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


def test_a_module_that_the_tests_import_is_not_the_programs_fault():
    needs = {**ASSERTS, "asserts": ["import numpy\nassert f(1) == 2"]}
    verdict = judge(needs, RIGHT["assert"])
    assert verdict.outcome is Outcome.ERROR
    assert "the tests: ModuleNotFoundError: module numpy is not" in verdict.detail
    raised = "def f(n): raise ModuleNotFoundError(\"No module named 'numpy'\")"
    assert judge(ASSERTS, raised).outcome is Outcome.WRONG
    assert judge(needs, "import os; os._exit(0)").outcome is Outcome.WRONG


def test_the_tests_have_their_own_modules_of_the_standard_library():
    tests = {"type": "assert", "asserts": ["assert math.isclose(f(1), 2)"]}
    own = "class math:\n    isclose = staticmethod(lambda *a: True)\n"
    assert judge(tests, RIGHT["assert"]).outcome is Outcome.CORRECT
    assert judge(tests, own + "def f(n): return 3").outcome is Outcome.WRONG
    program = "class queue:\n    first = staticmethod(lambda: 2)\ndef f(n): return n"
    ours = {"type": "assert", "asserts": ["assert queue.first() == f(2)"]}
    assert judge(ours, program).outcome is Outcome.CORRECT


def test_a_test_that_catches_everything_fails_when_the_program_has_ended():
    tests = {"type": "assert", "asserts": ["try:\n    f(1)\nexcept:\n    pass", "assert True"]}
    assert judge(tests, "import os\ndef f(n): os._exit(0)").outcome is Outcome.WRONG
    assert judge(tests, "def f(n): return 1 / 0").outcome is Outcome.CORRECT


def test_all_output_counts():
    tests = {"type": "stdin", "cases": [{"input": "", "output": "x" * (5 << 20)}]}
    assert judge(tests, "print('x' * (5 << 20))").outcome is Outcome.CORRECT
    assert judge(tests, "print('x' * (5 << 20) + 'y')").outcome is Outcome.WRONG


@pytest.mark.parametrize("tests", [ASSERTS, CALLS, STDIN], ids=lambda t: t["type"])
@pytest.mark.parametrize("at", ["at first", "when called"])
def test_a_package_that_the_sandbox_does_not_have_is_named(tests, at):
    program = RIGHT[tests["type"]]
    if at == "when called" and tests is not STDIN:
        program = "def f(n):\n    import numpy as np\n    return n + 1"
    else:
        program = "import numpy\n" + program
    verdict = judge(tests, program)
    assert verdict.outcome is Outcome.WRONG
    assert "module numpy is not available in the sandbox" in verdict.detail


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


@pytest.mark.slow
def test_the_pool_leaves_a_program_the_time_its_problem_gives():
    open_or_skip()
    slow = "import time\ndef f(n):\n    time.sleep(0.3)\n    return n + 1"
    with VerifierPool("code", workers=1, timeout_seconds=0.7, partial_credit=True) as pool:
        own = pool.submit(Problem("c", "?", tests={**CALLS, "total_time_limit": 60}), slow)
        assert own.result().outcome is Outcome.CORRECT
        none = pool.submit(Problem("c", "?", tests=CALLS), slow).result()
        assert none.outcome is Outcome.TIMEOUT
        assert none.detail.endswith("killed after 0.7 s for all tests")
        assert 0 < none.score < 1  # what passed before the end counts
        assert pool.stats()["restarts"] == 0
