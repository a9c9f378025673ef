"""What difficulty.jsonl says."""

import json
from pathlib import Path

import pytest

from cipo_jax.rl.difficulty import Difficulty
from cipo_jax.run.records.difficulty_file import write_difficulty


def test_the_hardest_problem_is_listed_first(tmp_path: Path) -> None:
    file = tmp_path / "difficulty.jsonl"
    write_difficulty(file, {"x": Difficulty(0.5, 3), "y": Difficulty(0.25, 1)})
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [
        {"id": "y", "pass_rate": 0.25, "count": 1},
        {"id": "x", "pass_rate": pytest.approx(0.5), "count": 3},
    ]
