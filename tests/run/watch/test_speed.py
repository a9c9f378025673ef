"""How fast a step was: what is counted."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from tiny_models import TINY_CONFIG

from cipo_jax.run.watch.speed import MEASURED, PEAK_FLOPS, speeds, step_times, update_flops
from cipo_jax.types import TrainBatch

# Two sequences of 3 and 2 tokens in one row, and an empty row.
SEGMENTS = np.array([[[[1, 1, 1, 2, 2, 0], [0] * 6]]])
POSITIONS = np.array([[[[0, 1, 2, 0, 1, 0], [0] * 6]]])
ALL = np.array([[True]])  # microbatches that learn
CONFIG = dataclasses.replace(
    TINY_CONFIG, num_layers=2, num_heads=4, head_dim=8, vocab_size=10, d_model=16, windows=()
)


def batch() -> TrainBatch:
    rest: Any = None
    return TrainBatch(rest, POSITIONS, SEGMENTS, rest, rest, rest, rest, rest)


def test_flops_of_an_update_by_hand() -> None:
    tied = dataclasses.replace(CONFIG, tie_embeddings=True)
    # 5 tokens; 1 + 2 + 3 and 1 + 2 pairs in each of two layers.
    assert update_flops(tied, 1000, batch(), ALL, 1) == 6 * 1000 * 5 + 12 * 32 * 2 * 9
    assert update_flops(tied, 1000, batch(), ALL, 3) == 3 * update_flops(
        tied, 1000, batch(), ALL, 1
    )


def test_what_is_only_scored_counts_a_third() -> None:
    whole = update_flops(CONFIG, 1000, batch(), ALL, 1)
    assert update_flops(CONFIG, 1000, batch(), ~ALL, 1) == pytest.approx(whole / 3)


def test_rows_are_read_from_an_input_embedding_of_its_own() -> None:
    apart = dataclasses.replace(CONFIG, tie_embeddings=False)
    assert update_flops(apart, 1000, batch(), ALL, 1) == 6 * (1000 - 160) * 5 + 12 * 32 * 2 * 9


def test_a_window_bounds_what_a_token_sees() -> None:
    # A layer that sees everything, and one in which the third token sees two: 9 and 8 pairs.
    windowed = dataclasses.replace(CONFIG, tie_embeddings=True, windows=(None, 2))
    assert update_flops(windowed, 0, batch(), ALL, 1) == 12 * 32 * (9 + 8)


def test_times_of_the_phases_and_of_the_step() -> None:
    times = {"rollout": 2.0, "correct": 1.0, "update": 4.0, "checkpoint": 8.0, "eval": 16.0}
    assert step_times(times) == {
        "time/rollout": 2.0,
        "time/correct": 1.0,
        "time/update": 4.0,
        "time/step": 7.0,
        "time/checkpoint": 8.0,
    }
    scored = step_times(times | {"score": 0.5})
    assert scored["time/score"] == 0.5 and scored["time/step"] == 7.5


def test_speeds_are_per_device() -> None:
    step = {
        "tokens/sampled": 1200.0,
        "tokens/trained": 800.0,
        "time/rollout": 2.0,
        "time/correct": 1.0,
        "time/update": 4.0,
    }
    measures = speeds(step, devices=2, flops=4e12, peak=1e12)
    assert measures == {
        "tokens/per_second_per_device": 200.0,
        "tokens/trained_per_second_per_device": 100.0,
        "update/mfu": 0.5,
    }
    assert all(name.startswith(MEASURED) for name in measures)
    assert "update/mfu" not in speeds(step, devices=2, flops=4e12, peak=None)


@pytest.mark.parametrize(
    ("kind", "teraflops"), [("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5", 459), ("cpu", None)]
)
def test_peaks_go_by_the_whole_name(kind: str, teraflops: float | None) -> None:
    peak = PEAK_FLOPS.get(kind)
    assert peak == (None if teraflops is None else teraflops * 1e12)
