"""Which parameters something begins with."""

import json
from pathlib import Path

import pytest

from cipo_jax.run.parameters import _choose_step
from cipo_jax.types import CipoError


def test_checkpoints_are_chosen_by_name_and_score(tmp_path: Path) -> None:
    lines = [(2, 0.4), (4, 0.6), (6, 0.9), (8, 0.5)]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"phase": "eval", "step": s, "eval/pass@1": v}) + "\n" for s, v in lines)
    )
    assert _choose_step(tmp_path, [2, 4, 8], "latest") == 8
    assert _choose_step(tmp_path, [2, 4, 8], "best") == 4  # that of step 6 was not kept
    assert _choose_step(tmp_path, [2, 4, 8], "2") == 2
    with pytest.raises(CipoError, match=r"--step: got '6', .*\[2, 4, 8\]"):
        _choose_step(tmp_path, [2, 4, 8], "6")
    with pytest.raises(CipoError, match="no checkpoint of .* was evaluated"):
        _choose_step(tmp_path, [3], "best")
