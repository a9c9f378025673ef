"""Learning curves of runs whose metrics are made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cipo_jax.run.comparison import learning_curve, mean_curve, points, stream_of
from cipo_jax.types import CipoError


def write_metrics(directory: Path, *lines: dict[str, Any]) -> Path:
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def train(step: int, tokens: float) -> dict[str, Any]:
    return {"phase": "train", "step": step, "tokens/sampled": tokens}


def test_a_curve_has_the_tokens_sampled_up_to_each_evaluation(tmp_path: Path) -> None:
    run = write_metrics(
        tmp_path,
        {"phase": "cold_start", "step": 5, "pass_rate": 0.1},
        {"phase": "eval", "step": 0, "eval/pass@1": 0.25},
        train(1, 10.0),
        train(2, 30.0),
        {"phase": "eval", "step": 2, "eval/pass@1": 0.5, "eval/given/w2r": 0.75},
        {"phase": "eval", "step": 9, "eval/pass@1": 1.0},  # of a step that the file does not have
    )
    assert learning_curve(run) == {
        "step": [0, 2],
        "tokens": [0.0, 40.0],
        "pass@1": [0.25, 0.5],
        "given/w2r": [None, 0.75],
    }


def test_steps_without_a_number_of_tokens_are_refused(tmp_path: Path) -> None:
    run = write_metrics(tmp_path, {"phase": "train", "step": 1})
    with pytest.raises(CipoError, match="step 1 has no tokens/sampled"):
        learning_curve(run)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_run_without_all_of_its_steps_has_no_number_of_tokens(
    tmp_path: Path, missing: int
) -> None:
    steps = [train(step, 10.0) for step in (1, 2, 3) if step != missing]
    run = write_metrics(tmp_path, *steps, {"phase": "eval", "step": 3, "eval/pass@1": 0.5})
    where = f"{tmp_path}: .*has training step {missing + 1} where step {missing} was to be"
    with pytest.raises(CipoError, match=where):
        learning_curve(run)


def test_the_mean_reaches_as_far_as_all_seeds() -> None:
    short = {"step": [0, 2], "tokens": [0, 20], "pass@1": [0.0, 0.5]}
    long = {"step": [1, 3], "tokens": [10, 90], "pass@1": [0.5, 1.0], "rho": [None, 0.5]}
    mean = mean_curve([short, long], "pass@1", "step")
    assert mean is not None
    np.testing.assert_allclose(mean, [[1, 2], [(0.25 + 0.5) / 2, (0.5 + 0.75) / 2]])
    np.testing.assert_allclose(points(long, "rho", "tokens"), [[90], [0.5]])
    assert mean_curve([short, long], "rho", "step") is None


@pytest.mark.parametrize(
    ("anchor", "stream"),
    [
        (None, "base"),
        ({"index": 3}, "own"),
        ({"index": None}, "given"),
        ({"index": None, "first": True}, "first"),
    ],
)
def test_an_anchor_outside_the_file_was_given(anchor: dict | None, stream: str) -> None:
    assert stream_of({"anchor": anchor}) == stream  # of an older file
    rounds = {"round": 0 if anchor is None else 1}
    assert stream_of({"anchor": anchor} | rounds) == stream


def test_later_rounds_are_no_first_corrections() -> None:
    assert stream_of({"anchor": {"index": 3}, "round": 2}) == "round 2"
