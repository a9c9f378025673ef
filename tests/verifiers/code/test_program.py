"""Which program a completion gives."""

import pytest

from cipo_jax.types import Problem
from cipo_jax.verifiers.code.program import extract_program, readings

CALLS = Problem(
    "p", "?", tests={"type": "call", "entry_point": "f", "cases": [{"input": [1], "output": 2}]}
)


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
    assert extract_program(CALLS, text) == program


def test_readings_of_a_function_head():
    problem = Problem("p", "def f(n):\n", tests={"type": "check_fn", "code": "", "call": "c(f)"})
    assert readings(problem, "    return n")[0] == ["", "def f(n):\n    return n"]
    assert readings(problem, "def f(n): return n")[0][-1] == "def f(n): return n"
    assert readings(problem, "<think>") is None
