"""Where a run ends and where it is evaluated, by steps and by tokens."""

from pathlib import Path

import pytest
from places import TESTS

from cipo_jax.config.keys import Eval
from cipo_jax.main import run
from cipo_jax.run.budget import Budget
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.run.records.metrics_file import read_metrics

TINY = TESTS / "tiny_run.py"
# Rows for the suite's eight virtual devices.
FAST = ["--config.eval.every=0", "--config.batch.microbatch_rows=8"]


def budget(steps: int = 10, tokens: int = 0, every: int = 0, every_tokens: int = 0) -> Budget:
    return Budget(steps, tokens, Eval(every=every, every_tokens=every_tokens))


def test_a_run_ends_by_whichever_comes_first() -> None:
    assert not budget().is_over(9, 10**9)
    assert budget().is_over(10, 0)
    assert not budget(tokens=100).is_over(3, 99)
    assert budget(tokens=100).is_over(3, 100)
    assert budget(steps=0).is_over(0, 0)


def due_steps(b: Budget, tokens_by_step: list[int]) -> list[int]:
    due, total = [0], 0
    for step, tokens in enumerate(tokens_by_step, 1):
        total += tokens
        if b.evaluation_is_due(step, total, tokens):
            due.append(step)
    return due


def test_evaluations_by_steps_and_by_tokens() -> None:
    tokens = [40, 40, 40, 40, 250, 10, 10]
    assert due_steps(budget(every=3), tokens) == [0, 3, 6]
    # 120 passes 100; 410 passes 200 to 400 at once; 430 passes nothing.
    assert due_steps(budget(every_tokens=100), tokens) == [0, 3, 5]
    assert due_steps(budget(every=2, every_tokens=100), tokens) == [0, 2, 3, 4, 5, 6]
    assert due_steps(budget(), tokens) == [0]
    assert due_steps(budget(steps=7), tokens) == [0, 7]
    assert budget(tokens=100).evaluation_is_due(3, 120, 40)  # the end
    # A mark that is reached exactly is passed, once.
    assert due_steps(budget(every_tokens=80), [40, 40, 40]) == [0, 2]


def test_the_evaluation_before_the_first_step_can_be_left_out() -> None:
    def due(at_start: bool, step: int, steps: int = 10) -> bool:
        b = Budget(steps, 0, Eval(every=3, at_start=at_start))
        return b.evaluation_is_due(step, 0, 0)

    assert due(True, 0) and not due(False, 0)
    assert due(False, 3) and due(False, 10)
    assert due(False, 0, steps=0)  # then it is the last as well


def test_steps_left_follow_the_nearer_end() -> None:
    assert budget().steps_left(4, 1000) == 6
    assert budget(steps=1000, tokens=500).steps_left(4, 200) == 6
    assert budget(steps=5, tokens=500).steps_left(4, 200) == 1
    assert budget(tokens=500).steps_left(0, 0) == 10


# Whole runs.


def train(workdir: Path, *overrides: str) -> dict[str, list[dict]]:
    """The run's lines of metrics by phase."""
    run(["cipo_jax", f"--config={TINY}", f"--workdir={workdir}", *FAST, *overrides])
    phases: dict[str, list[dict]] = {"train": [], "eval": []}
    for line in read_metrics(workdir):
        phases[line["phase"]].append(line)
    return phases


@pytest.mark.slow
def test_a_run_ends_with_its_tokens_and_goes_on_with_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tmp_path / "whole", "--config.eval.at_start=False")
    tokens = [line["tokens/sampled"] for line in whole["train"]]
    assert len(tokens) == 3
    # A run without an evaluation before it has a report.
    assert [line["step"] for line in whole["eval"]] == [3]
    assert "One evaluation so far" in (tmp_path / "whole" / "report.html").read_text()

    budget = int(tokens[0] + tokens[1])
    half = f"--config.max_sampled_tokens={budget}"
    cut = train(tmp_path / "cut", half, f"--config.eval.every_tokens={int(tokens[0])}")
    assert [line["tokens/sampled"] for line in cut["train"]] == tokens[:2]
    assert [line["step"] for line in cut["eval"]] == [0, 1, 2]
    # The same command has nothing left to do; a larger budget goes on, counting what was sampled.
    assert train(tmp_path / "cut", half)["train"] == cut["train"]
    assert "has sampled its tokens" in capsys.readouterr().out
    more = train(tmp_path / "cut", f"--config.max_sampled_tokens={budget + 1}")
    assert [line["tokens/sampled"] for line in more["train"]] == tokens
    assert more["eval"][-1]["step"] == 3


@pytest.mark.slow
def test_no_steps_are_an_evaluation_alone_with_given_attempts(tmp_path: Path) -> None:
    rounds = "--config.eval.correction_rounds=3"
    phases = train(tmp_path, "--config.num_steps=0", "--config.eval.given_attempts=2", rounds)
    assert not phases["train"] and [line["step"] for line in phases["eval"]] == [0]
    assert phases["eval"][0]["eval/given/accuracy_before"] == pytest.approx(1 / 3)
    given = [r for r in read_attempts(tmp_path) if r["anchor"] and r["anchor"]["index"] is None]
    assert [r["anchor"]["outcome"] for r in given] == ["wrong", "wrong", "correct"] * 4
    own = [r for r in read_attempts(tmp_path) if r not in given]
    assert {r["round"] for r in own} == {0, 1, 2, 3}
    assert 0 <= phases["eval"][0]["eval/correction/round_3/accuracy"] <= 1
