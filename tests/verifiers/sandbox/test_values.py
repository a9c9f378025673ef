"""What crosses between a program and its tests, as data or as calls."""

import datetime
import json
import sys
import time
from collections import Counter, deque
from decimal import Decimal
from fractions import Fraction

import pytest
from sandboxes import judge

from cipo_jax.types import Outcome
from cipo_jax.verifiers.sandbox import values


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
        ("g = f(2)\nassert next(g) == 0 and next(g) == 1 and next(g, 9) == 9",
         "def f(n): yield from range(n)"),
        ("x = [3, 1, 2]\nd = {}\nf(x=x, d=d)\nassert x == [1, 2, 3] and d == {1: [2]}",
         "def f(x, d):\n    x.sort()\n    d[1] = [2]"),
        ("t = f('ab')\nassert 'ab' in t and 'b' not in t", "class T:\n"
         "    def __init__(self, w): self.w = w\n"
         "    def __contains__(self, w): return w == self.w\n"
         "def f(w): return T(w)"),
        ("with f() as c:\n    assert c.n == 1\nassert c.n == 2", "class C:\n    n = 0\n"
         "    def __enter__(self):\n        self.n = 1\n        return self\n"
         "    def __exit__(self, *a): self.n = 2\ndef f(): return C()"),
        ("assert repr(f()) == 'P(1)'", "class P:\n    def __repr__(self): return 'P(1)'\n"
         "def f(): return P()"),
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
    for honest, lie in (
        ("yield from range(n)", "yield 9"),
        ("x.sort()", "0"),
        (".append(2)", ""),
        ("d[1] = [2]", "d[1] = 3"),
        ("self.n = 2", "0"),
    ):
        lies = lies.replace(honest, lie)
    assert judge({"type": "assert", "asserts": [asserts]}, lies).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    "value",
    [
        {(1, "a"): {2.5, None}, "b": [frozenset({3}), b"\x00", bytearray(b"x")]},
        [Counter("aab"), deque([1]), Decimal("1.50"), Fraction(1 << 9_000, 3), 1 << 9_000, 1j],
        [datetime.datetime(2000, 1, 2), datetime.date(2000, 1, 2), datetime.timedelta(3), range(4)],
        {n * (2**61 - 1): n for n in range(500)},
        [[0] * 1_000] * 1_000,
        ',"[{\\' * 500_000,
    ],
    ids=["nested", "numbers", "times", "few equal hashes", "a million values", "marks in a text"],
)
def test_data_arrive_as_they_were(value):
    written = json.dumps(values.encode(value)).encode()
    assert values.decode(values.parse(written)) == value


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "written",
    [
        "[" + "[]," * 10_000_000 + "[]]",
        "[" + '"",' * 5_000_000 + '""]',
        "[" + '"\\"",' * 5_000_000 + '""]',
        "[" + "0," * (values.MAX_VALUES + 1) + "0]",
        _nested(values.MAX_DEPTH + 1),
        _nested(1_000_000),
        json.dumps({"set": [{"int": hex(n * (2**61 - 1))} for n in range(8, 100_000)]}),
        json.dumps(
            {"dict": [n for k in range(9, 90_000) for n in ({"int": hex(k * (2**61 - 1))}, 0)]}
        ),
        json.dumps(
            {"fraction": [{"int": "0x" + "7" * 4_000_000}, {"int": "0x" + "5" * 3_999_999}]}
        ),
        "7" * 10_000_000,
    ],
    ids=["lists", "texts", "quoted quotes", "many", "deep", "deeper", "set", "dict", "fraction"]
    + ["digits"],
)
def test_what_takes_long_to_build_is_refused_at_once(written):
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # as in the process of the tests
    start = time.process_time()
    with pytest.raises((ValueError, RecursionError)):
        values.decode(values.parse(written.encode()))
    assert time.process_time() - start < 4
    assert sys.get_int_max_str_digits() == 0
    sys.set_int_max_str_digits(before)


def test_the_deepest_and_the_largest_value_pass():
    for written in (_nested(values.MAX_DEPTH), "[" + "0," * (values.MAX_VALUES - 2) + "0]"):
        assert values.decode(values.parse(written.encode())) == json.loads(written)
