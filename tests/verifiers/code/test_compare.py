"""When an output or a value is the expected one."""

import sys

import pytest
from sandboxes import judge

from cipo_jax.types import Outcome


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
