"""An archive verified again: the outcomes by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from places import ROOT
from sandboxes import open_or_skip

from cipo_jax.commands.regrade import regrade
from cipo_jax.config.keys import Config, Verifier, flatten
from cipo_jax.main import run as command
from cipo_jax.run.records.archive import AttemptArchive
from cipo_jax.types import Attempt, CipoError, Completion, Outcome, Problem, Prompt, Verdict

SUM = Problem("sum", "What is 1+1?", answer="2")
ECHO = Problem(
    "echo", "Print 7.", tests={"type": "stdin", "cases": [{"input": "", "output": "7\n"}]}
)


def attempt(problem: Problem, text: str, outcome: Outcome) -> Attempt:
    nothing = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), True)
    return Attempt(Prompt(problem, np.array([1])), nothing, text, Verdict(outcome))


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "regrade.jsonl").read_text().splitlines()]


def test_the_confusion_table_counts_old_and_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = AttemptArchive(tmp_path)
    archive.write(
        "train",
        1,
        [
            attempt(SUM, r"\boxed{2}", Outcome.CORRECT),
            attempt(SUM, r"\boxed{2.0}", Outcome.WRONG),
            attempt(SUM, "two", Outcome.WRONG),
        ],
    )
    archive.write("eval", 0, [attempt(SUM, r"\boxed{3}", Outcome.WRONG)])
    # As the command does: the run's config, the verifier changed on the command line.
    values = {k: {"value": v, "source": "file"} for k, v in flatten(Config()).items()}
    (tmp_path / "config.json").write_text(json.dumps(values))
    archived = {p: p.read_bytes() for p in (tmp_path / "attempts").iterdir()}
    command(["cipo_jax", "--mode=regrade", f"--workdir={tmp_path}", "--config.verifier.workers=1"])
    printed = capsys.readouterr().out
    assert "4 attempts, 2 with another outcome (50.00%)" in printed
    table = [line.split() for line in printed.splitlines()[1:5]]
    assert table[0] == ["archived", "/", "now", "correct", "wrong", "no_answer"]
    assert table[1:3] == [["correct", "1", "0", "0"], ["wrong", "1", "1", "1"]]
    assert r"train 1 #1 sum: wrong -> correct  answer '2'" in printed
    assert [(r["phase"], r["index"], r["old"], r["new"]) for r in lines(tmp_path)] == [
        ("eval", 0, "wrong", "wrong"),
        ("train", 0, "correct", "correct"),
        ("train", 1, "wrong", "correct"),
        ("train", 2, "wrong", "no_answer"),
    ]
    assert {p: p.read_bytes() for p in (tmp_path / "attempts").iterdir()} == archived


def test_programs_are_judged_by_the_archived_tests(tmp_path: Path) -> None:
    open_or_skip()
    AttemptArchive(tmp_path).write(
        "train",
        1,
        [attempt(ECHO, "print(7)", Outcome.ERROR), attempt(ECHO, "print(8)", Outcome.ERROR)],
    )
    result = regrade(tmp_path, Verifier(kind="code", workers=1))
    assert result.confusion == {
        (Outcome.ERROR, Outcome.CORRECT): 1,
        (Outcome.ERROR, Outcome.WRONG): 1,
    }
    assert result.changed == 2 and len(result.examples) == 2


def test_the_verifier_sees_what_it_saw_the_first_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = Problem(
        "near", "?", answer="2.50", meta={"tolerance": {"relative": "0.01"}, "x": math.nan}
    )
    thought = Prompt(SUM, np.array([1]), opening="<think>")
    nothing = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), False)
    untold = Problem("untold", "?", tests={"type": "none"})
    judged = [
        attempt(near, r"\boxed{2.51}", Outcome.CORRECT),
        attempt(near, r"\boxed{2.49}", Outcome.CORRECT),
        attempt(near, r"\boxed{2.6}", Outcome.WRONG),
        Attempt(thought, nothing, r"\boxed{2}?", Verdict(Outcome.NO_ANSWER)),
        attempt(untold, "x", Outcome.ERROR),
    ]
    AttemptArchive(tmp_path).write("train", 1, judged)
    (tmp_path / "config.json").write_text("{}")
    assert regrade(tmp_path, Verifier(kind="math", workers=1)).changed == 0
    assert "1 have no verdict now" in capsys.readouterr().out
    # Benchmarks have questions with answers and with tests, whatever the config's kind.
    (tmp_path / "config.json").unlink()
    regrade(tmp_path, Verifier(kind="math", workers=1))
    assert "tests.type: got 'none'" in lines(tmp_path)[4]["detail"]


@pytest.mark.slow
def test_a_failed_regrade_leaves_the_earlier_one(tmp_path: Path) -> None:
    AttemptArchive(tmp_path).write("train", 1, [attempt(SUM, r"\boxed{2}", Outcome.CORRECT)])
    regrade(tmp_path, Verifier(workers=1))
    before = lines(tmp_path)
    (tmp_path / "attempts" / "train-000002.jsonl.gz").write_bytes(b"cut")
    with pytest.raises(CipoError, match=r"train-000002\.jsonl\.gz"):
        regrade(tmp_path, Verifier(workers=1))
    assert lines(tmp_path) == before


def test_a_verifier_that_needs_what_is_not_there_is_refused(tmp_path: Path) -> None:
    AttemptArchive(tmp_path).write("eval", 0, [attempt(SUM, "2", Outcome.WRONG)])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CipoError, match=r"kind: got 'code', but the problems of .* have no tests"):
        regrade(tmp_path, Verifier(kind="code", workers=1))
    assert not (tmp_path / "regrade.jsonl").exists()


def test_a_run_without_an_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(CipoError, match="has no archived attempts"):
        regrade(tmp_path, Verifier(workers=1))
    smoke = ROOT / "configs" / "smoke.py"
    with pytest.raises(CipoError, match="--workdir is missing; --mode=regrade needs it"):
        command(["cipo_jax", "--mode=regrade", f"--config={smoke}"])
