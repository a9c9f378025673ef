"""Metric definitions by hand-made attempts; the writer through kill and resume."""

import json
import math
import subprocess
import sys
import threading

import numpy as np
import pytest

from cipo_jax.run.measures import (
    MetricWriter,
    format_duration,
    format_step_line,
    read_metrics,
    reduce_attempts,
    tensorboard_tag,
    transition,
    transitions,
)
from cipo_jax.types import Attempt, CipoError, Completion, Outcome, Problem, Prompt, Verdict

PROBLEM = Problem("p", "1+1?", "2")


def attempt(
    outcome: Outcome,
    *,
    text: str = "text",
    extracted: str | None = None,
    tokens: int = 3,
    finished: bool = True,
    anchor: Attempt | None = None,
) -> Attempt:
    return Attempt(
        Prompt(PROBLEM, np.zeros(2, np.int32), anchor),
        Completion(np.zeros(tokens, np.int32), np.zeros(tokens, np.float32), finished),
        text,
        Verdict(outcome, extracted),
    )


def test_reduce_attempts_by_hand():
    o = Outcome
    attempts = [
        # three groups of four: all right, all wrong in four ways, mixed
        *[attempt(o.CORRECT, tokens=t) for t in (10, 20, 30, 40)],
        *[attempt(outcome) for outcome in (o.WRONG, o.NO_ANSWER, o.TIMEOUT, o.ERROR)],
        *[attempt(o.CORRECT), attempt(o.CORRECT), attempt(o.WRONG)],
        attempt(o.WRONG, tokens=48, finished=False),
    ]
    lengths = [10, 20, 30, 40] + [3] * 7 + [48]
    assert reduce_attempts(attempts, 4, "base") == pytest.approx(
        {
            "base/reward/mean": 6 / 12,
            "base/pass_rate": 6 / 12,
            "base/outcome/correct": 6 / 12,
            "base/outcome/wrong": 3 / 12,
            "base/outcome/no_answer": 1 / 12,
            "base/outcome/timeout": 1 / 12,
            "base/outcome/error": 1 / 12,
            "base/length/mean": sum(lengths) / 12,
            # rank 0.95 * 11 = 10.45 of the sorted lengths: between 40 and 48
            "base/length/p95": 40 + 0.45 * 8,
            "base/truncated": 1 / 12,
            "base/group/all_right": 1 / 3,
            "base/group/all_wrong": 1 / 3,
            "base/group/mixed": 1 / 3,
        }
    )


def test_the_pass_rate_goes_by_verdicts_and_the_reward_by_what_they_earned():
    attempts = [attempt(o) for o in (Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER)]
    metrics = reduce_attempts(attempts, 3, "b", np.array([[1.0, 0.25, -0.5]]))
    assert metrics["b/reward/mean"] == pytest.approx(0.25)
    assert metrics["b/pass_rate"] == pytest.approx(1 / 3)
    assert metrics["b/outcome/no_answer"] == pytest.approx(1 / 3)


def test_groups_are_consecutive_attempts():
    right, wrong = attempt(Outcome.CORRECT), attempt(Outcome.WRONG)
    assert reduce_attempts([right, right, wrong, wrong], 2, "b")["b/group/mixed"] == 0
    assert reduce_attempts([right, wrong, right, wrong], 2, "b")["b/group/mixed"] == 1


def test_reduce_attempts_of_nothing_and_of_broken_groups():
    assert reduce_attempts([], 4, "base") == {}
    with pytest.raises(ValueError, match="3 attempts are not whole groups of 2"):
        reduce_attempts([attempt(Outcome.WRONG)] * 3, 2, "base")


def test_transitions_by_hand():
    right = attempt(Outcome.CORRECT, text="so 2", extracted="2")
    wrong = attempt(Outcome.WRONG, text="so 3\n", extracted="3")
    silent = attempt(Outcome.NO_ANSWER, text="", extracted=None)
    corrections = [
        attempt(Outcome.CORRECT, text=" so 2 ", extracted="2", anchor=right),  # r2r, a copy
        attempt(Outcome.CORRECT, text="it is 2", extracted="2", anchor=right),  # r2r
        attempt(Outcome.WRONG, text="so 5", extracted="5", anchor=right),  # r2w, changed
        attempt(Outcome.CORRECT, text="so 2", extracted="2", anchor=wrong),  # w2r, changed
        attempt(Outcome.WRONG, text="so 3", extracted="3", anchor=wrong),  # w2w, a copy
        attempt(Outcome.TIMEOUT, text="hm", extracted=None, anchor=silent),  # w2w
        attempt(Outcome.WRONG, text="4", extracted="4", anchor=silent),  # w2w, changed
        attempt(Outcome.NO_ANSWER, text="?", extracted=None, anchor=wrong),  # w2w, changed
    ]
    assert [transition(c) for c in corrections] == [
        "r2r",
        "r2r",
        "r2w",
        "w2r",
        "w2w",
        "w2w",
        "w2w",
        "w2w",
    ]
    assert transitions(corrections) == pytest.approx(
        {
            "transition/r2r": 2 / 8,
            "transition/r2w": 1 / 8,
            "transition/w2r": 1 / 8,
            "transition/w2w": 4 / 8,
            "transition/r2r_count": 2,
            "transition/r2w_count": 1,
            "transition/w2r_count": 1,
            "transition/w2w_count": 4,
            "correction/fix_rate": 1 / 5,
            "correction/break_rate": 1 / 3,
            "correction/retention": 2 / 3,
            "correction/copy_rate": 2 / 8,
            "correction/answer_changed_frac": 4 / 8,
        }
    )


def test_rates_without_a_denominator_are_absent():
    right, wrong = attempt(Outcome.CORRECT), attempt(Outcome.WRONG)
    only_wrong = transitions([attempt(Outcome.CORRECT, anchor=wrong)])
    assert only_wrong["correction/fix_rate"] == 1
    assert not {"correction/retention", "correction/break_rate"} & only_wrong.keys()
    only_right = transitions([attempt(Outcome.WRONG, anchor=right)])
    assert only_right["correction/break_rate"] == 1 and only_right["correction/retention"] == 0
    assert "correction/fix_rate" not in only_right
    assert transitions([]) == {}
    with pytest.raises(ValueError, match="no anchor"):
        transitions([right])


def write_run(writer: MetricWriter, train: range) -> None:
    for step in train:
        writer.write(step, {"loss/total": 1 / (1 + step)}, "train")
        if step % 4 == 0:
            writer.write(step, {"eval/pass@1": step / 10}, "eval")


def test_file_after_kill_and_resume_equals_an_uninterrupted_one(tmp_path):
    whole = MetricWriter(tmp_path / "whole", tensorboard=False)
    whole.write(5, {"loss/demonstration": 2.0}, "cold_start")
    write_run(whole, range(1, 11))
    whole.close()

    killed = MetricWriter(tmp_path / "killed", tensorboard=False)
    killed.write(5, {"loss/demonstration": 2.0}, "cold_start")
    write_run(killed, range(1, 9))
    killed.close()
    path = tmp_path / "killed" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"phase": "train", "step": 9, "loss/to')  # killed while writing

    resumed = MetricWriter(tmp_path / "killed", tensorboard=False)
    assert path.read_text().endswith("}\n")
    for phase in ("train", "eval"):
        resumed.rewind(phase, 6)  # the last checkpoint
    write_run(resumed, range(7, 11))
    resumed.close()
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def test_rewind_touches_its_phase_only(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    for phase in ("cold_start", "train", "eval"):
        writer.write(30, {"x": 1.0}, phase)
    writer.rewind("train", 30)
    assert len(read_metrics(tmp_path)) == 3
    writer.rewind("train", -1)
    assert [r["phase"] for r in read_metrics(tmp_path)] == ["cold_start", "eval"]


def test_lines_can_be_read_while_the_writer_is_open(tmp_path):
    assert read_metrics(tmp_path) == []
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"a": np.float32(0.5), "n": 3}, "train")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "tr')  # what a reader may see of a line in the making
    assert read_metrics(tmp_path) == [{"phase": "train", "step": 1, "a": 0.5, "n": 3.0}]


def test_values_that_are_not_finite_survive_as_valid_json(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"a": math.nan, "b": -math.inf, "c": 1.0}, "train")
    writer.close()
    line = (tmp_path / "metrics.jsonl").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not json")

    raw = json.loads(line, parse_constant=refuse)
    assert raw["a"] is None and raw["non_finite"] == {"a": "nan", "b": "-inf"}
    (record,) = read_metrics(tmp_path)
    assert math.isnan(record["a"]) and record["b"] == -math.inf and record["c"] == 1.0
    assert "non_finite" not in record


def test_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"phase": "train", "step": 1}\n{"phase": \n')
    with pytest.raises(CipoError, match=r"metrics\.jsonl:2: not json"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"phase": "train"}\n')
    with pytest.raises(CipoError, match=r'metrics\.jsonl:1: .*wanted an object with "phase"'):
        read_metrics(tmp_path)


def test_tags_carry_their_phase_once():
    assert tensorboard_tag("loss/total", "train") == "loss/total"
    assert tensorboard_tag("eval/pass@1", "eval") == "eval/pass@1"
    assert tensorboard_tag("pass_rate", "cold_start") == "cold_start/pass_rate"


def test_tensorflow_is_not_imported_without_tensorboard(tmp_path):
    code = (
        "import sys, pathlib, cipo_jax.run.measures as m\n"
        "import cipo_jax.run.records.archive, cipo_jax.report.page\n"
        f"m.MetricWriter(pathlib.Path({str(tmp_path)!r}), tensorboard=False).write(1, {{}}, 'x')\n"
        "print(sorted({'tensorflow', 'clu', 'jax', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_missing_tensorboard_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(CipoError, match=r"config\.log\.tensorboard.*tensorflow.*pip install"):
        MetricWriter(tmp_path, tensorboard=True)


def test_what_fails_while_event_files_are_written_is_raised(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
    writer = MetricWriter(tmp_path, tensorboard=True)
    writer.write(1, {"base/reward/mean": 0.25}, "train")
    with pytest.raises(ImportError, match=r"clu\.metric_writers"):
        writer.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tensorboard")]


def test_without_a_write_there_are_no_event_files(tmp_path):
    MetricWriter(tmp_path, tensorboard=True).close()
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.slow
def test_tensorboard_events_hold_the_scalars(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=True)
    writer.write(3, {"base/reward/mean": 0.25}, "train")
    writer.write(3, {"eval/pass@1": 0.5}, "eval")
    writer.close()
    from tensorflow import make_ndarray
    from tensorflow.compat.v1.train import summary_iterator

    (events,) = (tmp_path / "tensorboard").iterdir()
    found = {
        (value.tag, event.step): float(make_ndarray(value.tensor))
        for event in summary_iterator(str(events))
        for value in event.summary.value
    }
    assert found == {("base/reward/mean", 3): 0.25, ("eval/pass@1", 3): 0.5}


def test_step_line_of_both_streams_and_of_one():
    scalars = {
        "base/reward/mean": 0.512,
        "loss/total": -0.00123,
        "grad_norm": 0.514,
        "base/length/mean": 31.4,
        "time/step": 1.26,
    }
    assert format_step_line(7, 60, scalars, 65.0) == (
        "step  7/60  reward 0.512  loss -0.0012  grad 0.51  len 31  time 1.3s  eta 1:05"
    )
    both = scalars | {
        "correction/reward/mean": 0.43,
        "correction/fix_rate": 0.3,
        "correction/break_rate": 0.125,
        "replay/rho": 0.34,
    }
    assert "  corr 0.430  fix 0.30  break 0.12  rho 0.34  " in format_step_line(7, 60, both, 1.0)
    assert "loss +nan" in format_step_line(1, 2, {"loss/total": math.nan}, 0.0)


def test_durations():
    assert [format_duration(s) for s in (0, 59.6, 3599, 3600, 90061, math.inf, -1)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
        "?",
        "0:00",
    ]
