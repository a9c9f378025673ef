"""What is printed of a step."""

import contextlib
import math
import shlex
from pathlib import Path

import pytest
from places import ROOT

from cipo_jax.config.command_line import parse
from cipo_jax.main import MODES
from cipo_jax.run.records.metrics_file import MetricWriter
from cipo_jax.run.records.terminal import (
    format_duration,
    format_step_line,
    print_gain,
    print_summary,
)
from cipo_jax.run.statistics import Estimate


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


@pytest.mark.parametrize("tensorboard", [True, False])
def test_the_summary_says_where_to_look_and_how_to_try_the_model(
    tensorboard: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "a run"
    with contextlib.closing(MetricWriter(workdir, tensorboard=False)) as metrics:
        for step in (0, 4):
            metrics.write(step, {"eval/pass@1": step / 8, "eval/pass@1_stderr": 0.1}, "eval")
    if tensorboard:
        (workdir / "tensorboard").mkdir()
    print_summary(workdir, workdir / "report.html", ["better", "and more"], 61.0)
    first, second, _, pass_at_1, *where = capsys.readouterr().out.splitlines()
    assert (first, second) == ("done in 1:01; better", "and more")
    assert pass_at_1.split() == ["eval/pass@1", "0.000", "0.500", "+0.500"]
    assert [line.split()[0] for line in where] == ["report", *["curves"] * tensorboard, "try"]
    arguments = [*shlex.split(where[-1])[5:-1], "--prompt=1+1"]
    invocation = parse(
        ["cipo_jax", "--config=" + str(ROOT / "configs/smoke.py"), *arguments], MODES
    )
    assert invocation.mode.name == "generate" and invocation.workdir == workdir


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.01, 0.09, "corrections are better than other attempts"),
        (-0.09, -0.01, "other attempts are better than corrections"),
        (-0.01, 0.05, "corrections are not told apart from other attempts"),
    ],
)
def test_what_corrections_are_worth_is_said_with_its_interval(low, high, says, capsys):
    middle = (low + high) / 2
    metrics = {
        "correction/w2r": Estimate(0.14, 0.01, 0.1, 0.2),
        "correction/resampled_w2r": Estimate(0.213, 0.01, 0.1, 0.3),
        "correction/w2r_gain": Estimate(middle, 0.01, low, high),
    }
    print_gain(metrics)
    printed = capsys.readouterr().out
    assert printed.startswith("gain  of wrong attempts 14.0% are corrected, another attempt is ")
    assert f"{100 * middle:+.1f} points (95% interval {100 * low:+.1f} to" in printed
    assert printed.endswith(f"; {says}\n")
    print_gain({"pass@1": Estimate(0.5, 0.1, 0.4, 0.6)})
    assert capsys.readouterr().out == ""
