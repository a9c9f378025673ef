"""What is run of completions as models write them: prose, several blocks, examples, cut ends."""

import pytest

from cipo_jax.types import Problem
from cipo_jax.verifiers.code.program import readings

CALL = {"type": "call", "entry_point": "area", "cases": [{"input": [2], "output": 12}]}
METHOD = {**CALL, "entry_point": "Solution.area"}
STDIN = {"type": "stdin", "cases": [{"input": "2\n", "output": "12\n"}]}
HEAD = "def area(side):\n"

AREA = "def area(side):\n    return 3 * side * side"
WRONG = "def area(side):\n    return 2 * side * side"
SQUARE = "def square(x):\n    return x * x"
BY_SQUARE = "def area(side):\n    return 3 * square(side)"
IMPORT = "from math import prod"
BY_PROD = "def area(side):\n    return prod([3, side, side])"
ASSERTS = "assert area(2) == 12\nassert area(1) == 3"
USE = "print(area(2))  # 12"
SOLUTION = "class Solution:\n    def area(self, side: int) -> int:\n        return 3 * side**2"
SCRIPT = "side = int(input())\nprint(3 * side * side)"
BAD_SCRIPT = "side = int(input())\nprint(2 * side * side)"
MAIN = "import sys\n\ndef main():\n    side = int(sys.stdin.read())\n    print(3 * side * side)"
GUARDED = MAIN + '\n\nif __name__ == "__main__":\n    main()'
DOC = (
    'def area(side):\n    """Three squares.\n\n    Example:\n    ```python\n    area(2)\n    ```\n'
    '    """\n    return 3 * side * side'
)
PROMPTS = ">>> area(2)\n12\n>>> area(0)\n0"
REPLACED = "import io, sys\nsys.stdin = io.StringIO('2')\nmain()\nprint('done')"
PATCHED = (
    "from unittest.mock import patch\nwith patch('builtins.input', return_value='2'):\n    main()"
)
UNIT_TESTS = (
    "import unittest\nfrom solution import area\n\nclass TestArea(unittest.TestCase):\n"
    "    def test_area(self):\n        self.assertEqual(area(2), 12)\n\nunittest.main()"
)


def py(code: str) -> str:
    return f"```python\n{code}\n```\n"


def indented(text: str, by: str = "   ") -> str:
    return "".join(by + line if line.strip() else line for line in text.splitlines(True))


FUNCTIONS = {
    "one block": (f"Here is the solution.\n\n{py(AREA)}\nIt runs in O(1).", AREA),
    "usage afterwards": (f"{py(AREA)}\n**Usage**\n\n{py(USE)}", AREA),
    "usage first": (f"We want:\n{py(USE)}\nSo:\n{py(AREA)}", AREA),
    "usage, no language": (f"{py(AREA)}\nOutput:\n```\n12\n```", AREA),
    "corrected version": (f"{py(WRONG)}\nWait. Here's the corrected version:\n{py(AREA)}", AREA),
    "corrected, with use of both": (f"{py(WRONG)}{py(USE)}Fixed:\n{py(AREA)}{py(USE)}", AREA),
    "only the helper corrected": (
        f"{py('def square(x): return x' + chr(10) + BY_SQUARE)}Oh:\n{py(SQUARE)}",
        f"def square(x): return x\n{BY_SQUARE}\n\n{SQUARE}",
    ),
    "bash": (f"```bash\npip install nothing\n```\n{py(AREA)}```sh\npython area.py\n```", AREA),
    "output block": (f"{py(AREA)}```text\n12\n```\n```json\n{{}}\n```", AREA),
    "doctest block": (f"{py(AREA)}{py(PROMPTS)}", AREA),
    "doctest block, pycon": (f"```pycon\n{PROMPTS}\n```\n{py(AREA)}", AREA),
    "unit tests": (f"{py(AREA)}Tests:\n{py(UNIT_TESTS)}", AREA),
    "own asserts": (f"{py(AREA)}{py(ASSERTS)}", AREA),
    "in a list": (f"1. First:\n\n{indented(py(AREA))}\n2. Then run it.", AREA),
    "deep in a list": (f"* a\n    * b\n{indented(py(AREA), '        ')}", AREA),
    "tabs before the fence": (indented(py(AREA), "\t"), AREA),
    "never closed": (f"Sure!\n```python\n{AREA}", AREA),
    "use that is cut": (f"{py(AREA)}\nFor example:\n```python\nprint(area(", AREA),
    "tildes": (f"~~~python\n{AREA}\n~~~\nor\n~~~\n{USE}\n~~~", AREA),
    "four ticks": (f"````python\n{AREA}\n````", AREA),
    "Windows line ends": (f"```python\r\n{AREA}\r\n```\r\n", AREA),
    "a file's name": (f"```python:area.py\n{AREA}\n```\n```python title='t.py'\n{USE}\n```", AREA),
    "braces": (f"```{{.python .numberLines}}\n{AREA}\n```", AREA),
    "fence in a docstring": (f"{py(DOC)}\n{py(USE)}", DOC),
    "in a block of markdown": (f"````markdown\n# Answer\n{py(AREA)}````\n", AREA),
    "not closed before the next": (f"```python\n{WRONG}\n\nBetter:\n```python\n{AREA}\n```", AREA),
    "helper in another block": (f"{py(SQUARE)}and\n{py(BY_SQUARE)}", f"{SQUARE}\n\n{BY_SQUARE}"),
    "helper afterwards": (f"{py(BY_SQUARE)}where\n{py(SQUARE)}", f"{BY_SQUARE}\n\n{SQUARE}"),
    "imports first": (f"{py(IMPORT)}{py(BY_PROD)}{py(USE)}", f"{IMPORT}\n\n{BY_PROD}"),
    "a snippet afterwards": (f"{py(AREA)}The key is\n{py('return 3 * side * side')}", AREA),
    "other language": (f"```java\nint area(int s) {{ return 0; }}\n```\n{py(AREA)}", AREA),
    "after words": (f"Here is the solution: {py(AREA)}", AREA),
    "after a heading": (f"**Solution:**{py(AREA)}Done.", AREA),
    "a quoted fence in it": (py(f"{AREA}\n# as in: ```python"), f"{AREA}\n# as in: ```python"),
    "in a list's first line": (f"- {indented(py(AREA), '  ')[2:]}", AREA),
    "in a numbered list": (f"1. a\n2. {indented(py(AREA), '   ')[3:]}3. Run it.", AREA),
    "a version": (f"```python3.11\n{AREA}\n```\n```\n12\n```", AREA),
    "begun in the prompt": (f"{AREA}\n```", AREA),
    "begun in the prompt, prose": (f"{IMPORT}\n{BY_PROD}\n```\nIt's fast.", f"{IMPORT}\n{BY_PROD}"),
    "begun in the prompt, output": (f"{AREA}\n{USE}\n```\nOutput:\n```\n12\n```", f"{AREA}\n{USE}"),
    "begun in the prompt, use": (f"{AREA}\n```\nUse:\n{py(USE)}", AREA),
    "code, then another language": (f"import os\n```bash\nls\n```\n{py(AREA)}", AREA),
    "an equation, then a block": (f"The answer is a = 3:\n```\n{AREA}\n```", AREA),
    "a call, then a block": (f"The code of area(side):\n```\n{AREA}\n```", AREA),
    "bare": (AREA, AREA),
    "bare, prose before": (f"Here is the function:\n\n{AREA}\n", AREA),
    "bare, prose after": (f"{AREA}\n\nThis function returns three squares. It's fast.", AREA),
    "bare, prose around": (
        f"Sure!\n\n{IMPORT}\n\n{BY_PROD}\n\nThat's it.",
        f"{IMPORT}\n\n{BY_PROD}",
    ),
    "bare, use and prose": (
        f"Solution:\n{AREA}\n\n{USE}\n\nI hope it's clear.",
        f"{AREA}\n\n{USE}",
    ),
}

SCRIPTS = {
    "one block": (f"Read, then print.\n{py(SCRIPT)}", SCRIPT),
    "example of input and output": (
        f"{py(SCRIPT)}Input:\n```\n2\n```\nOutput:\n```\n12\n```",
        SCRIPT,
    ),
    "corrected version": (f"{py(BAD_SCRIPT)}Corrected:\n{py(SCRIPT)}", SCRIPT),
    "how to run it": (f"{py(GUARDED)}\n```bash\necho 2 | python main.py\n```", GUARDED),
    "function, then the reading": (
        f"{py(AREA)}Then:\n{py('print(area(int(input())))')}",
        f"{AREA}\n\nprint(area(int(input())))",
    ),
    "main, then its call": (f"{py(MAIN)}{py('main()')}", f"{MAIN}\n\nmain()"),
    "input replaced in an example": (
        f"{py(GUARDED)}Try it:\n{py(REPLACED)}",
        GUARDED,
    ),
    "input patched in a test": (
        f"{py(SCRIPT)}{py(PATCHED)}",
        SCRIPT,
    ),
    "the step explained afterwards": (f"{py(SCRIPT)}Here\n{py('side = 2')}is read.", SCRIPT),
    "bare": (SCRIPT, SCRIPT),
    "bare, prose around": (f"The program:\n\n{SCRIPT}\n\nIt prints the area, that's all.", SCRIPT),
    "bare, never indented prose": (f"# Answer\n{GUARDED}\n\nDone, isn't it?", GUARDED),
}

METHODS = {
    "class, then its use": (f"{py(SOLUTION)}{py('print(Solution().area(2))')}", SOLUTION),
    "class, explained by its method": (
        f"{py(SOLUTION)}The method alone:\n{py('def area(self, side):' + chr(10) + '    ...')}",
        SOLUTION,
    ),
    "class after an approach as functions": (f"{py(WRONG)}{py(SOLUTION)}", SOLUTION),
    "bare, prose around": (f"My answer.\n\n{SOLUTION}\n\nIt's O(1).", SOLUTION),
}

CASES = [
    pytest.param(tests, text, program, id=f"{kind}: {name}")
    for kind, tests, table in (
        ("function", CALL, FUNCTIONS),
        ("script", STDIN, SCRIPTS),
        ("method", METHOD, METHODS),
    )
    for name, (text, program) in table.items()
]


def what_is_run(problem: Problem, text: str) -> str | None:
    """The program of the first reading that compiles, as in the sandbox."""
    for *_, program in readings(problem, text) or []:
        try:
            compile(program, "<program>", "exec")
        except SyntaxError:
            continue
        return program.strip("\n")
    return None


@pytest.mark.parametrize(("tests", "text", "program"), CASES)
def test_what_is_run_of_a_completion(tests, text, program):
    assert what_is_run(Problem("p", HEAD, tests=tests), text) == program


BODY = "    square = side * side\n    return 3 * square"


@pytest.mark.parametrize(
    "text",
    [
        f"{BODY}\n```",
        f"{BODY}\n```\nThis works.",
        f"{BODY}\n```\n\nExample:\n{py(USE)}",
        f"{BODY}\n```\nOutput:\n```\n12\n```",
        f"{BODY.strip()}\n```\nThis works.",
        f"{BODY.strip()}\n    ```\nThis works.",
        f"    if (side and\n            side > 0):\n        pass\n{BODY}\n~~~\nDone.",
        f'    """Text.\n\n    More.\n    """\n    # so:\n{BODY}\n```\nDone.',
    ],
)
def test_a_body_in_a_block_that_the_prompt_has_begun(text):
    tests = {"type": "check_fn", "code": "", "call": "check(area)"}
    program = what_is_run(Problem("p", HEAD, tests=tests), text)
    names: dict = {}
    exec(program or "", names)
    assert names["area"](2) == 12


@pytest.mark.parametrize(
    "text", ["I cannot solve this.", "```bash\nls\n```", "```python\n# nothing yet\n```"]
)
def test_what_is_no_program(text):
    assert what_is_run(Problem("p", HEAD, tests=CALL), text) is None


LONG = 100_000  # characters; a text of that length must take no square of it


@pytest.mark.parametrize(
    "text",
    [
        py(AREA + "\n" + " " * LONG + "!"),
        py(AREA + "\n" + "for " * (LONG // 4)),
        py("\n".join(f"n{i}" for i in range(LONG // 7)) + "\n" + AREA),
        py(AREA + "\n" + "import (\n" * (LONG // 9)),
        "```\n" * (LONG // 4),
        "~~~" + "a" * LONG + "`\n" + py(AREA),
        "~" * LONG + "`\n" + py(AREA),
        "- " * LONG + "\n" + AREA,
        "```python a" * (LONG // 11) + "\n" + AREA,
        "```python " * (LONG // 11) + "\n" + AREA,
        AREA + "\nx" + "[a]" * (LONG // 3) + " = 1\n```",
        AREA + "\n" + "a, " * (LONG // 3) + "a = 1\n```",
        AREA + "\nf(" + ", #" * (LONG // 3) + "\n" + "=" * LONG,
    ],
    ids=["spaces", "loops", "names", "imports", "fences", "word", "tildes"]
    + ["items", "late fences", "late and bare", "subscripts", "targets", "bare"],
)
def test_long_texts_take_no_long_time(text):
    for tests in (CALL, STDIN):
        found = readings(Problem("p", HEAD, tests=tests), text)
        assert (found is None) == (AREA not in text)
