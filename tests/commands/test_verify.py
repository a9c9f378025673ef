"""A file of completions is graded whole, and the report says what a reader needs."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest
from sandboxes import open_or_skip
from tiny_hf import make_tokenizer

from cipo_jax.commands.verify import prompt_opening, verify
from cipo_jax.config.keys import Config, Verifier
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
    # Fields that are null are not there; 0 is an id.
    rows[0] |= {"id": 0, "answer": None, "final_answer": "4", "label": None, "correct": False}
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
    assert {name for name, _ in result.slowest} == {"0", *(f"m{i}" for i in range(1, 6)), "rows:7"}
    printed = capsys.readouterr().out
    assert "m5: labelled right, wrong (answer '5')" in printed
    assert "labelled right  labelled wrong" in printed
    assert "no_answer         1   14.29%               0               0" in printed
    assert "wrong             5   71.43%               1               4" in printed
    assert "latency p50" in printed
    assert "rows:7" in printed


def test_answers_in_every_form_and_thoughts_left_open(tmp_path, capsys):
    box = "\\boxed{8}"
    rows = [
        {"answer": ["7", 8], "text": "\\boxed{8, 7}", "label": True},
        {"final_answer": "4+4\n#### 8", "text": box, "label": True},
        {"solution": "it is \\boxed 8.", "text": box, "label": True},
        {"answer": 8, "text": f"{box} may be it.", "thought_open": True, "label": False},
        {"answer": 8, "text": f"no.</think> {box}", "thought_open": True, "label": True},
        {"answer": 8, "question": "8?<think>\n", "text": f"{box} maybe.", "label": False},
        {"answer": 8, "text": f"{box} maybe", "truncated": True, "label": False},
        {"answer": 8, "text": f"{box} maybe", "finish_reason": "length", "label": False},
        {"answer": 8, "text": f"no</think>{box}", "truncated": True, "label": True},
        {"answer": 8, "text": f"{box}, as we", "thought_open": False, "label": True},
        {"answer": 8, "text": f"{box}, as we", "finish_reason": "stop", "label": True},
        {"answer": 8, "text": f"{box}, as we", "truncated": False, "label": True},
        {"answer": 8, "text": f"<think>no</think>{box}, as we", "label": True},
    ]
    path = write(tmp_path / "rows.jsonl", [{"question": "?"} | row for row in rows])
    result = verify(MATH, path)
    assert (result.disagreements, result.guessed) == ([], 0)
    assert "break off" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_guess_about_rows_that_say_nothing_is_counted(tmp_path, capsys):
    rows = [
        {"question": "?", "answer": 8, "text": text, "label": label}
        for text, label in (("\\boxed{8}, but now the", False), ("It is \\boxed{8}", True))
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    result = verify(MATH, path)
    assert (result.disagreements, result.guessed) == ([], 1)
    assert "1 completions break off in the middle of a sentence" in capsys.readouterr().out
    # Where the prompt is known, nothing is guessed.
    assert [(r.guessed, r.outcomes[Outcome.CORRECT]) for r in (verify(MATH, path, ""),)] == [(0, 2)]
    result = verify(MATH, path, "<think>")
    assert (result.guessed, result.outcomes) == (0, {Outcome.NO_ANSWER: 2})


def test_the_thought_that_a_config_opens(tmp_path):
    config = Config()
    assert prompt_opening(config) == ""
    own = dataclasses.replace(config.data, prompt_template="{question}\n<think>\n")
    assert prompt_opening(dataclasses.replace(config, data=own)) == "<think>"
    make_tokenizer(tmp_path)
    for end, thought in (("", ""), ("[THINK]", "[THINK]")):
        (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}" + end)
        chat = dataclasses.replace(config.data, chat_template=True, tokenizer=str(tmp_path))
        assert prompt_opening(dataclasses.replace(config, data=chat)) == thought
    elsewhere = dataclasses.replace(config.data, chat_template=True, tokenizer="no/model")
    assert prompt_opening(dataclasses.replace(config, data=elsewhere)) is None


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


def test_what_can_be_read_only_once_is_judged(tmp_path):
    pipe = tmp_path / "rows.fifo"
    os.mkfifo(pipe)
    row = json.dumps({"question": "?", "answer": "4", "text": "\\boxed{4}"})
    command = f"printf '%s\\n' \"$ROW\" > {pipe}"  # its end closes the pipe, as zcat's does
    with subprocess.Popen(["bash", "-c", command], env=os.environ | {"ROW": row}):
        assert verify(MATH, pipe).outcomes == {Outcome.CORRECT: 1}


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
        ('{"answer": 1, "text": "x", "truncated": "no"}', "truncated is true or false, got 'no'"),
        ('{"answer": 1, "text": "x", "finish_reason": 1}', "finish_reason is a text"),
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
