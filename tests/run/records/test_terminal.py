"""What is printed of a step."""

import math

from cipo_jax.run.records.terminal import format_duration, format_step_line


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
