"""Which code blocks of a completion are its program."""

import pytest
from sandboxes import judge

from cipo_jax.types import Outcome
from cipo_jax.verifiers.code.blocks import find_program, has_fence


def fences(*blocks: str) -> str:
    return "\nText.\n".join(f"```python\n{block}\n```" for block in blocks)


GROW = "def grow(n):\n    return 3 * n"
BAD = "def grow(n):\n    return 2 * n"
USE = "print(grow(4))"
TRIPLE = "def triple(n):\n    return 3 * n"
BY_TRIPLE = "def grow(n):\n    return triple(n)"
SCRIPT = "print(3 * int(input()))"
MAIN = "def main():\n    n = int(input())\n    print(3 * n)"
CLASS = "class Solution:\n    def grow(self, n):\n        return 3 * n"


@pytest.mark.parametrize(
    ("blocks", "chosen"),
    [
        ((GROW, USE), [0]),
        ((GROW, "assert grow(1) == 4"), [0]),
        ((GROW, "# grow(2) is 6"), [0]),
        ((GROW, "n = 3\nprint(grow(n))"), [0]),
        ((GROW, ">>> grow(1)\n3"), [0]),
        ((BAD, GROW), [1]),
        ((BAD, "print(grow(1))", GROW, USE), [2]),
        ((TRIPLE, BY_TRIPLE), [0, 1]),
        ((BY_TRIPLE, TRIPLE), [0, 1]),
        ((BY_TRIPLE, TRIPLE, USE), [0, 1]),
        (("def triple(n):\n    return n", BY_TRIPLE, TRIPLE), [1, 2]),
        (("from math import prod", "def grow(n):\n    return prod([3, n])"), [0, 1]),
        (("FACTOR = 3", "def grow(n):\n    return FACTOR * n", USE), [0, 1]),
        (("n = int(input())", GROW), [1]),
        (("from typing import List", "def grow(n: List[int]):\n    return 3 * n"), [0, 1]),
        (("grow = lambda n: 3 * n", USE), [0]),
        (("x = 1", "x = 2"), [1]),
    ],
)
def test_the_last_definition_with_what_it_needs(blocks, chosen):
    expected = "\n\n".join(blocks[number] for number in chosen)
    assert find_program(fences(*blocks), {"grow"}) == expected


@pytest.mark.parametrize(
    ("blocks", "chosen"),
    [
        ((SCRIPT, "# 2 gives 6"), [0]),
        ((SCRIPT, "grow(2)"), [0]),
        ((SCRIPT, "assert 3 * 2 == 6"), [0]),
        (("print(2 * int(input()))", SCRIPT), [1]),
        ((MAIN, "main()"), [0, 1]),
        ((MAIN, 'if __name__ == "__main__":\n    main()', "# 2 -> 6"), [0, 1]),
        ((MAIN + "\nmain()", "main()"), [0]),
        ((GROW, "import sys\nprint(grow(int(sys.stdin.read())))"), [0, 1]),
        (("import sys", "print(3 * int(sys.stdin.readline()))"), [0, 1]),
        (("print(6)", "# that is all"), [0]),
        (("print(6)", "assert 3 * 2 == 6"), [0]),
    ],
)
def test_the_last_block_that_reads_input_with_what_it_needs(blocks, chosen):
    expected = "\n\n".join(blocks[number] for number in chosen)
    assert find_program(fences(*blocks), reads_input=True) == expected


def test_a_fence_in_a_docstring_is_none():
    inner = (
        'def grow(n):\n    """Triples.\n\n    ```\n    grow(1)\n    ```\n    """\n    return 3 * n'
    )
    assert not has_fence(inner)
    assert find_program(inner, {"grow"}) == inner
    assert find_program(f"So:\n```python\n{inner}\n```\nDone.", {"grow"}) == inner
    flat = "'''\n```python\nx\n```\n'''\nx = 1"
    assert find_program(f"```python\n{flat}\n```") == flat
    odd = 'quotes = \'"""\''  # no string begins here
    assert find_program(f"```python\n{odd}\n```\n```python\n{GROW}\n```", {"grow"}) == GROW


@pytest.mark.parametrize("program", [fences(CLASS, "print(Solution().grow(2))"), fences(CLASS)])
def test_leetcode_form_with_usage(program):
    tests = {"type": "call", "entry_point": "Solution.grow", "cases": [{"input": [2], "output": 6}]}
    assert judge(tests, program).outcome is Outcome.CORRECT


def test_names_of_assert_tests_choose_blocks():
    tests = {"type": "assert", "asserts": ["s = Pile()\ns.put(2)\nassert size(s) == 1"]}
    pile = (
        "class Pile:\n    def __init__(self): self.x = []\n    def put(self, v): self.x.append(v)"
    )
    size = "def size(pile):\n    return len(pile.x)"
    assert judge(tests, fences(pile, size, "s = Pile()\nassert size(s) == 5")).correct
    assert judge(tests, fences(size, "s = Pile()\nassert size(s) == 5", pile)).correct
