"""LiveCodeBench's test columns, and that its pickles are read without running them."""

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from cipo_jax.data.benchmarks import livecodebench
from cipo_jax.data.benchmarks.livecodebench import livecodebench_item, livecodebench_payload
from cipo_jax.data.rows import Row
from cipo_jax.types import CipoError


def encoded(value: Any, protocol: int = pickle.DEFAULT_PROTOCOL) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


def row(**columns: Any) -> Row:
    case = {"input": "1\n", "output": "1\n", "testtype": "stdin"}
    return Row(
        "f:1",
        {
            "question_id": "q",
            "question_content": "Echo.",
            "public_test_cases": json.dumps([case]),
            "private_test_cases": encoded(json.dumps([case | {"input": "2\n", "output": "2\n"}])),
            **columns,
        },
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_texts_come_out_whole(protocol: int) -> None:
    text = json.dumps([{"input": "é\u2028" * 100}])
    assert livecodebench_payload(encoded(text, protocol)) == text
    assert livecodebench_payload(encoded(b"[]", 4)) == "[]"


class Touch:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_something_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "made"
    harmful = encoded(Touch(target))
    pickle.loads(zlib.decompress(base64.b64decode(harmful)))
    assert target.is_dir()  # it does what it says when it is loaded plainly
    target.rmdir()
    with pytest.raises(ValueError, match=r"it asks for posix\.mkdir"):
        livecodebench_payload(harmful)
    assert not target.exists()
    with pytest.raises(CipoError, match=r"f:1: private_test_cases: .*posix\.mkdir"):
        livecodebench_item(row(private_test_cases=harmful))


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        base64.b64encode(b"not zlib").decode(),
        base64.b64encode(zlib.compress(b"not a pickle")).decode(),
        base64.b64encode(zlib.compress(pickle.dumps("cut")[:-3])).decode(),
        encoded(["a list"]),
        encoded({1: 2}),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        livecodebench_payload(text)


def test_a_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livecodebench, "MAX_TESTS_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        livecodebench_payload(encoded("x" * 100_000))


def test_public_and_private_stdin_tests_are_run() -> None:
    problem = livecodebench_item(row()).problem
    assert problem.tests is not None
    assert problem.tests["type"] == "stdin"
    assert [case["output"] for case in problem.tests["cases"]] == ["1\n", "2\n"]
    assert "standard input" in problem.question
    plain = json.dumps([{"input": "3", "output": "3", "testtype": "stdin"}])
    again = livecodebench_item(row(private_test_cases=plain)).problem
    assert again.tests is not None and again.tests["cases"][1]["input"] == "3"


def test_functional_tests_are_calls() -> None:
    case = {"input": '[1, 2]\n"a"', "output": "true", "testtype": "functional"}
    columns = {
        "public_test_cases": json.dumps([case]),
        "private_test_cases": encoded("[]"),
        "metadata": json.dumps({"func_name": "holds"}),
    }
    starter = "class Solution:\n    def holds(self, nums, x):\n        "
    problem = livecodebench_item(row(starter_code=starter, **columns)).problem
    assert problem.tests is not None
    assert problem.tests["entry_point"] == "Solution.holds"
    assert problem.tests["cases"] == [{"input": [[1, 2], "a"], "output": True}]
    assert problem.tests["compare"] == "equal"
    assert "def holds" in problem.question
    with pytest.raises(CipoError, match="f:1: functional tests: KeyError: 'func_name'"):
        livecodebench_item(row(**{**columns, "metadata": "{}"}))


def test_mixed_and_broken_cases_are_named() -> None:
    functional = json.dumps([{"input": "1", "output": "1", "testtype": "functional"}])
    with pytest.raises(CipoError, match=r"got test types \['functional', 'stdin'\]"):
        livecodebench_item(row(private_test_cases=functional))
    with pytest.raises(CipoError, match="f:1: public_test_cases: "):
        livecodebench_item(row(public_test_cases="[{}]"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"starter_code": 3}, "f:1: starter_code: got 3, wanted a text"),
        ({"testtype": "functional", "output": "[" * 100_000}, "f:1: functional tests: Recursion"),
    ],
)
def test_columns_of_another_type_are_named(wrong: dict[str, Any], message: str) -> None:
    case = {"input": "1\n", "output": "1\n", "testtype": "stdin"} | wrong
    columns = {"public_test_cases": json.dumps([case]), "private_test_cases": "[]"}
    metadata = json.dumps({"func_name": "f"})
    with pytest.raises(CipoError, match=message):
        livecodebench_item(
            row(**columns, metadata=metadata, starter_code=wrong.get("starter_code"))
        )
