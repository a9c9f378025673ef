"""`--mode=data` says what is in the data and what is wrong with it."""

import json
import re
from pathlib import Path

import pytest
from places import ROOT

from cipo_jax.main import run

SMOKE = f"--config={ROOT / 'configs' / 'smoke.py'}"

ROWS = [
    {"question": "What is 1+1?", "answer": "2", "solution": "It is \\boxed{2}."},
    {"question": "What is 2+2?", "answer": "\\frac{1}{"},
    {"question": "what is 1+1?", "answer": "3"},
    {"question": "What is 3+3?", "answer": "6"},
    {"question": "What is " + "1+" * 60 + "1?", "answer": "61"},
]


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    test.write_text(json.dumps({"question": "What is 3+3 ?", "answer": "6"}) + "\n")
    return [
        "main",
        "--mode=data",
        SMOKE,
        f"--config.data.train={train}",
        f"--config.data.eval={test}",
        "--config.data.tokenizer=bytes",
        "--config.data.max_prompt_tokens=40",
        "--config.verifier.workers=1",
    ]


def test_every_kind_of_finding_is_reported(
    command: list[str], capsys: pytest.CaptureFixture
) -> None:
    run(command)
    out = capsys.readouterr().out
    for pattern in (
        r"train  \S+train.jsonl: 5 problems, 5 with an answer, 0 with tests, fingerprint \w{16}",
        r"base prompts: 5, tokens min 13, median 13, .* max 131; over .* = 40: 1 \(20.00%\)",
        r"train.jsonl:5: 131 tokens",
        r"correction prompts, the attempt at its longest: 5, .*over the longest that occurs",
        r"repeated questions: 1 of 5 .*\n.*train.jsonl:3: repeats \S+:1, answer '3' instead of '2'",
        r"questions also in data.eval \(1 equal, 0 by 13 words\): 1 of 5",
        r"train.jsonl:4: is the same as \S+test.jsonl:1",
        r"answers of train that the verifier cannot read: 1 of 5 .*\n.*train.jsonl:2: ",
        r"answers of eval that the verifier cannot read: 0 of 1",
        r"----- base prompt, 13 tokens -----\nWhat is 1\+1\?\n",
        r"----- correction prompt, .*\nWhat is 1\+1\?\nIt is \\boxed\{2\}\.\nCheck and",
    ):
        assert re.search(pattern, out), pattern
    bars = dict(re.findall(r"^ +(\d+) - \d+ +(\d+)", out.split("repeated")[0], re.M))
    assert bars["13"] == "4"


def test_answers_are_not_read_for_a_verifier_of_the_user_s_own(
    command: list[str], capsys: pytest.CaptureFixture
) -> None:
    run([*command, "--config.verifier.kind=misbehaving_verifiers:obey"])
    assert "cannot read" not in capsys.readouterr().out


def test_the_kept_problems_are_written(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "kept.jsonl"
    drop = "--config.data.drop=('overlap','duplicates','too_long')"
    run([*command, drop, f"--output={output}"])
    assert "left out: 1 overlap, 1 duplicates, 1 too_long" in capsys.readouterr().out
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows == [{"id": f"train:{n}"} | ROWS[n - 1] for n in (1, 2)]


def test_what_is_written_is_read_by_the_same_config(command: list[str], tmp_path: Path) -> None:
    row = {"uid": "a", "instruction": "compute 1+1", "question": "a topic", "id": 7, "gold": "2"}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    named = {"question": "instruction", "answer": "gold", "id": "uid"}
    command += [f"--config.data.{field}_column={name}" for field, name in named.items()]
    kept, again = tmp_path / "kept.jsonl", tmp_path / "again.jsonl"
    run([*command, f"--output={kept}"])
    assert json.loads(kept.read_text()) == row
    run([*command, f"--config.data.train={kept}", f"--output={again}"])
    assert again.read_text() == kept.read_text()


def test_a_solution_that_the_tokenizer_cannot_write_is_not_quoted(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    row = {"question": "compute 1+1", "answer": "2", "solution": "Größer als 1: \\boxed{2}"}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    run([*command, "--config.data.tokenizer=char"])
    assert "compute 1+1\n...\n" in capsys.readouterr().out


def test_the_embedded_task_can_be_looked_at(capsys: pytest.CaptureFixture) -> None:
    run(["main", "--mode=data", SMOKE, "--config.verifier.workers=1"])
    out = capsys.readouterr().out
    assert "arithmetic: unlimited" in out and "a generator keeps its splits apart" in out
    assert "cannot read: 0 of 256" in out
