"""When an output or a value is the expected one."""

import sys

import pytest
from sandboxes import judge

from cipo_jax.types import CipoError, Outcome
from cipo_jax.verifiers.code.compare import equal_value, find_value_judge


@pytest.mark.parametrize(
    ("compare", "expected", "right", "wrong"),
    [
        ({}, "1 2\n3\n", "1\n2 3", "1 2"),
        ({"compare": "token"}, "a b", "a  b\n\n", "a B"),
        ({"compare": "exact"}, "a b\n", "a b", "a  b"),
        ({"compare": "float"}, "0.5 x", "0.50000001 x", "0.51 x"),
        ({"compare": "float", "tolerance": 0.1}, "100.0", "109", "111"),
        ({"compare": "float", "tolerance": 0.1}, "100", "100.1", "101"),
        ({"compare": "float"}, "3", "2.9999999", "2.9999"),
        ({"compare": "float"}, "70000000", "70000000", "70000001"),
        ({"compare": "float"}, "70000000", "7e7", "70000001.0"),
        ({"compare": "float"}, str(10**19), f"{10**19}.0", str(10**19 - 1)),
        ({}, "1.5", "1.500", "1.51"),
        ({}, "9", "9.0", "9.0000001"),
        ({}, "4000000.0", "4000000.5", "4000001"),
        ({}, "4000000.0", "4e6", "4000001.0"),
        ({"compare": "float"}, "4000000.0", "3999999.9", "3999999"),
        ({"compare": "float", "tolerance": 1e-3}, "4000000.0", "4000001", "4004001"),
        ({}, "0.142857142857", "0.142857", "0.1428"),
        ({}, str(3 * 10**20), "3e+20", str(3 * 10**20 + 1)),
        ({}, "12345.67", "12345.67", "12345.68"),
        ({}, "-15000.00", "-15000.00", "-15000.01"),
        ({}, "-0.00", "0.00", "0.01"),
        ({}, "12345.67", "12345.6749", "12345.6949"),  # of a task that asks for no format
        ({}, "2000000.50", "2000000.500001", "2000001.50"),
        ({}, "123456.789012", "123456.789112", "123457.789012"),
        ({"compare": "float"}, "12345.67", "12345.68", "12345.69"),
        ({}, "0011", "0011", "11"),
        ({}, "11", "11.", "011"),
        ({}, "7" * 5000, "7" * 5000, "7" * 4999 + "8"),
        ({"compare": "lines"}, "1.5 2\nYes", "1.50  2.0\nYes\n\n", "1.5\n2 Yes"),
        ({"compare": "lines"}, "0.3333", "0.33330", "0.33331"),
        ({"compare": "lines"}, "a b", " a b ", "a  b"),
        ({"compare": "lines"}, f"{10**25}", f"{10**25}.0", f"{10**25 + 1}"),
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
        (34567890, "34567890.0", "34567891.0"),
        (7, "7.0", "7.0000001"),
        (4e6, "4_000_000.5", "4_000_001"),
        (2.0**60, "2**60 + 4096", "2**61"),
        (2**60, "2.0**60", "2.0**60 + 300"),
        (0.25, "0.25000001", "0.2501"),
    ],
)
def test_values_compare_as_json_writes_them(output, right, wrong):
    tests = {"type": "call", "entry_point": "f", "cases": [{"input": [], "output": output}]}
    assert judge(tests, f"def f(): return {right}").outcome is Outcome.CORRECT
    assert judge(tests, f"def f(): return {wrong}").outcome is Outcome.WRONG


def test_values_of_livecodebench_compare_as_its_harness_does():
    assert not equal_value(0.3, 0.1 + 0.2) and equal_value(2.0, 2) and not equal_value(7, 7.0000001)
    assert equal_value([1, [2]], (1, [2])) and not equal_value([1, [2]], [1, (2,)])
    assert equal_value(1, True) and not equal_value("1", 1) and not equal_value({"1": 2}, {1: 2})
    tests = {"type": "call", "entry_point": "f", "cases": [{"input": [], "output": 0.25}]}
    near = "def f(): return 0.25000001"
    assert judge(tests, near).outcome is Outcome.CORRECT
    assert judge(tests | {"compare": "equal"}, near).outcome is Outcome.WRONG
    with pytest.raises(CipoError, match="tests.compare: got 'lines', wanted one of value, equal"):
        find_value_judge("lines", 0.0)
