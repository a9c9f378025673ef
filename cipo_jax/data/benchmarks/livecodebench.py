"""LiveCodeBench's rows (Jain et al. 2024): tests on stdin or of a function, partly encoded.

This file decides how its columns become a test specification, and that its pickled tests are read
without running anything. The release window is applied in `suites.py`.
"""

import base64
import io
import json
import pickle
import zlib
from collections.abc import Sequence
from typing import Any

from cipo_jax.data.benchmarks.rows import Item, fenced, own_tests
from cipo_jax.data.rows import ALIASES, Row
from cipo_jax.types import CipoError, Problem

MAX_TESTS_BYTES = 1 << 30  # of one problem's tests after decompression
_TOTAL_SECONDS = 120.0  # for all tests of a program


def livecodebench_item(row: Row) -> Item:
    """A programming contest's problem, with tests on stdin or of a function (Jain et al. 2024)."""
    own = own_tests(row)
    if own is not None:
        question, tests = row.text(*ALIASES["question"]), own
        if row.columns.get("entry_point"):
            tests = {**tests, "entry_point": row.columns["entry_point"]}
    else:
        question = row.text("question_content")
        public = _livecodebench_cases(row, "public_test_cases")
        tests = _livecodebench_tests(row, public + _livecodebench_cases(row, "private_test_cases"))
    plain, starter = question, _starter_code(row)
    if starter.strip():
        question += f"\n\nComplete this code:\n\n```python\n{starter.rstrip()}\n```"
    elif tests["type"] == "stdin":
        question += "\n\nThe program reads from standard input and writes to standard output."
    problem = Problem(row.id, question, tests=tests, meta={"date": row.columns.get("contest_date")})
    solution = fenced(row.columns.get("canonical_solution"))
    return Item(problem, row.where, solution=solution, plain=plain)


def livecodebench_payload(text: str) -> str:
    """The json text in a private test case column: base64 of zlib of a pickled text.

    The data were downloaded, and a pickle is a program: this unpickler builds texts and bytes only.

    Raises:
      ValueError: it is something else, or larger than MAX_TESTS_BYTES.
    """
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(base64.b64decode(text, validate=True), MAX_TESTS_BYTES)
        if inflate.unconsumed_tail:
            raise ValueError(f"more than {MAX_TESTS_BYTES:,} bytes of tests")
        payload = _TextUnpickler(io.BytesIO(raw)).load()
    except (pickle.UnpicklingError, zlib.error, EOFError, LookupError, AttributeError) as error:
        raise ValueError(f"no text, pickled and compressed: {error}") from error
    if isinstance(payload, bytes):
        payload = payload.decode("utf-8")
    if not isinstance(payload, str):
        raise ValueError(f"got a pickled {type(payload).__name__}, wanted a text")
    return payload


class _TextUnpickler(pickle.Unpickler):
    """Builds plain values only: every way from a pickle to code goes through one of these."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside")


def _starter_code(row: Row) -> str:
    code = row.columns.get("starter_code") or ""
    if not isinstance(code, str):
        raise CipoError(f"{row.where}: starter_code: got {code!r:.60}, wanted a text")
    return code


def _livecodebench_cases(row: Row, column: str) -> list[dict[str, str]]:
    cases = row.columns.get(column)
    try:
        if isinstance(cases, str):
            is_json = cases.lstrip().startswith("[")
            cases = json.loads(cases if is_json else livecodebench_payload(cases))
        for case in cases or []:
            if not all(isinstance(case[key], str) for key in ("input", "output", "testtype")):
                raise ValueError("a test case needs the texts input, output and testtype")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CipoError(f"{row.where}: {column}: {error}") from error
    return cases or []


def _livecodebench_tests(row: Row, cases: Sequence[dict[str, str]]) -> dict[str, Any]:
    kinds = {case["testtype"] for case in cases}
    if kinds == {"stdin"}:
        plain: list[Any] = [{"input": c["input"], "output": c["output"]} for c in cases]
        tests = {"type": "stdin", "cases": plain, "total_time_limit": _TOTAL_SECONDS}
        return {**tests, "compare": "lines"}  # as its own harness compares
    if kinds != {"functional"}:
        raise CipoError(
            f"{row.where}: public_test_cases: got test types {sorted(kinds)}, wanted stdin alone "
            "or functional alone"
        )
    metadata = row.columns.get("metadata") or "{}"
    try:
        metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
        name = metadata["func_name"]
        # One argument a line, each as json.
        inputs = [[json.loads(x) for x in c["input"].split("\n") if x.strip()] for c in cases]
        outputs = [json.loads(case["output"]) for case in cases]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{row.where}: functional tests: {type(error).__name__}: {error}"
        raise CipoError(message) from error
    plain = [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]
    is_method = "class Solution" in _starter_code(row)
    name = f"Solution.{name}" if is_method else name
    tests = {"type": "call", "entry_point": name, "cases": plain, "compare": "equal"}
    return {**tests, "total_time_limit": _TOTAL_SECONDS}
