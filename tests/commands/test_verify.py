"""A file of completions is graded whole, and the report says what a reader needs."""

import json
from pathlib import Path

import pytest
from sandboxes import open_or_skip

from cipo_jax.commands.verify import verify
from cipo_jax.config.keys import Verifier
from cipo_jax.types import CipoError, Outcome

MATH = Verifier(workers=1)


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_counts_disagreements_and_slowest(tmp_path, capsys):
    rows = [
        {"id": f"m{i}", "question": "?", "answer": "4", "text": rf"\boxed{{{i}}}", "label": i == 4}
        for i in range(6)
    ]
    rows[5]["label"] = True  # a wrong label
    rows.append({"problem": "?", "answer": "4", "response": "no idea\x1b[31m"})
    result = verify(MATH, write(tmp_path / "rows.jsonl", rows))
    assert result.outcomes == {Outcome.CORRECT: 1, Outcome.WRONG: 5, Outcome.NO_ANSWER: 1}
    assert (result.total, result.labelled) == (7, 6)
    assert [(i, label) for i, label, _ in result.disagreements] == [("m5", True)]
    assert result.confusion == {
        (True, Outcome.CORRECT): 1,
        (True, Outcome.WRONG): 1,
        (False, Outcome.WRONG): 4,
    }
    assert result.failures == {}
    assert result.stats["verified"] == 7
    assert len(result.slowest) == 7
    printed = capsys.readouterr().out
    assert "m5: labelled right, wrong (answer '5')" in printed
    assert "labelled right  labelled wrong" in printed
    assert "no_answer         1   14.29%               0               0" in printed
    assert "wrong             5   71.43%               1               4" in printed
    assert "latency p50" in printed
    assert "rows:7" in printed


def test_answers_in_every_form_and_thoughts_left_open(tmp_path):
    box = "\\boxed{8}"
    rows = [
        {"answer": ["7", 8], "text": "\\boxed{8, 7}", "label": True},
        {"final_answer": "4+4\n#### 8", "text": box, "label": True},
        {"solution": "it is \\boxed 8.", "text": box, "label": True},
        {"answer": 8, "text": f"{box} may be it.", "thought_open": True, "label": False},
        {"answer": 8, "text": f"no.</think> {box}", "thought_open": True, "label": True},
        {"answer": 8, "question": "8?<think>\n", "text": f"{box} maybe.", "label": False},
        {"answer": 8, "text": f"perhaps {box}, but now the", "label": False},
        {"answer": 8, "text": f"{box}, as we", "thought_open": False, "label": True},
    ]
    path = write(tmp_path / "rows.jsonl", [{"question": "?"} | row for row in rows])
    assert verify(MATH, path).disagreements == []


def test_code_and_math_in_one_file(tmp_path, capsys):
    open_or_skip()
    tests = {"type": "call", "entry_point": "f", "cases": [{"input": [1], "output": 2}]}
    rows = [
        {"question": "?", "tests": tests, "completion": "def f(n): return n + 1", "correct": True},
        {"question": "?", "tests": tests, "completion": "def f(n): return n", "correct": False},
        {"question": "?", "answer": "1/2", "completion": "the answer is 0.5", "correct": True},
    ]
    result = verify(Verifier("auto", 1), write(tmp_path / "rows.jsonl", rows))
    assert result.labelled == 3
    assert result.disagreements == []
    assert "namespaces" in capsys.readouterr().out  # what isolates the programs


def test_why_items_could_not_be_judged_is_said(tmp_path, capsys):
    rows = [
        {"tests": {"type": "call"}, "text": "x", "label": label} for label in (True, False, None)
    ]
    result = verify(MATH, write(tmp_path / "rows.jsonl", rows))
    assert result.outcomes == {Outcome.ERROR: 3}
    assert result.disagreements == [] and result.labelled == 0  # neither right nor wrong
    assert result.confusion == {(True, Outcome.ERROR): 1, (False, Outcome.ERROR): 1}
    assert list(result.failures.values()) == [3]
    printed = capsys.readouterr().out
    assert "3 items have no verdict" in printed
    assert "errors, 3 times: a problem has no reference answer, but tests" in printed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{", ":1: is not json"),
        ("[]", "wanted a json object"),
        ('{"text": "x"}', "answer"),
        ('{"answer": "x"}', "text, completion, response; got the fields answer"),
        ('{"answer": "x", "text": 5}', "text, completion, response; got 5"),
        ('{"answer": NaN, "text": "x"}', "jsonl:1: answer: got nan"),
        ('{"answer": 1, "text": "x", "thought_open": 1}', "thought_open is true or false, got 1"),
        ('{"tests": "assert f(1)", "text": "x"}', "tests are an object, got 'assert"),
        ('\n{"answer": "x", "text": "y", "label": 1}', ":2: a label is true or false"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(content, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(CipoError, match=message):
        verify(MATH, path)
    with pytest.raises(CipoError, match="cannot be read"):
        verify(MATH, tmp_path / "missing.jsonl")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "rows.bin").write_bytes(b"\xb1\x00")
    with pytest.raises(CipoError, match=":1: is not UTF-8 text"):
        verify(MATH, tmp_path / "rows.bin")
