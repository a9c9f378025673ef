"""A file of completions is graded whole, and the report says what a reader needs."""

import json
from pathlib import Path

import pytest
from sandboxes import open_or_skip

from cipo_jax.types import CipoError, Outcome
from cipo_jax.verifiers.audit import audit


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
    result = audit(write(tmp_path / "rows.jsonl", rows), kind="math", workers=1)
    assert result.outcomes == {Outcome.CORRECT: 1, Outcome.WRONG: 5, Outcome.NO_ANSWER: 1}
    assert (result.total, result.labelled) == (7, 6)
    assert [(i, label) for i, label, _ in result.disagreements] == [("m5", True)]
    assert len(result.slowest) == 7
    printed = capsys.readouterr().out
    assert "m5: labelled right, wrong (answer '5')" in printed
    assert "no_answer         1   14.29%" in printed
    assert "rows:7" in printed


def test_code_and_math_in_one_file(tmp_path, capsys):
    open_or_skip()
    tests = {"type": "call", "entry_point": "f", "cases": [{"input": [1], "output": 2}]}
    rows = [
        {"question": "?", "tests": tests, "completion": "def f(n): return n + 1", "correct": True},
        {"question": "?", "tests": tests, "completion": "def f(n): return n", "correct": False},
        {"question": "?", "answer": "1/2", "completion": "the answer is 0.5", "correct": True},
    ]
    result = audit(write(tmp_path / "rows.jsonl", rows), workers=1)
    assert result.labelled == 3
    assert result.disagreements == []
    assert "namespaces" in capsys.readouterr().out  # what isolates the programs


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{", ":1: "),
        ("[]", "wanted a json object"),
        ('{"text": "x"}', "answer"),
        ('{"answer": "x"}', "text, completion, response"),
        ('\n{"answer": "x", "text": "y", "label": 1}', ":2: a label is true or false"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(content, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(CipoError, match=message):
        audit(path, kind="math", workers=1)
    with pytest.raises(CipoError, match="cannot be read"):
        audit(tmp_path / "missing.jsonl")
