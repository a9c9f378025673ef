"""The machinery of benchmarks, and three of them at their smallest size. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from peers.turns import take_turns  # noqa: E402

CONTENDER = """
import sys
sys.path.insert(0, sys.argv[1])
from turns import Turns
count = 0
def work():
    global count
    count += 1
    print("noise")
    if count == int(sys.argv[2]):
        raise ValueError("enough")
    return {"count": count}
Turns().serve(work)
"""


def contender(fails_at: int) -> list[str]:
    return [sys.executable, "-c", CONTENDER, str(BENCHMARKS / "peers"), str(fails_at)]


def test_turns_are_counted_after_the_warm_up() -> None:
    turns = take_turns({"a": contender(0), "b": contender(0)}, repeats=2, warmups=3)
    assert [[t["count"] for t in taken] for taken in turns.values()] == [[4, 5], [4, 5]]
    assert all(t["peak_bytes"] >= t["idle_bytes"] > 0 for t in turns["a"])


def test_a_contender_that_fails_is_quoted() -> None:
    with pytest.raises(RuntimeError, match="enough"):
        take_turns({"a": contender(2)}, repeats=2, warmups=1)


def run(tmp_path: Path, script: str, *arguments: str) -> Any:
    """What the benchmark wrote as json."""
    file = tmp_path / "results.json"
    command = [sys.executable, str(BENCHMARKS / script), f"--json={file}", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(file.read_text())


@pytest.mark.slow
def test_policy_update(tmp_path: Path) -> None:
    found = run(tmp_path, "policy_update.py", "--quick", "--models=S", "--repeats=2")
    ours = found["S"]["contenders"]["cipo_jax"]
    assert ours["trained_tokens"]["median"] == 4 * 8
    assert ours["over_ours"] == 1
    assert ours["seconds"]["min"] <= ours["seconds"]["median"] <= ours["seconds"]["max"]


@pytest.mark.slow
def test_step(tmp_path: Path) -> None:
    found = run(tmp_path, "rl_step.py", "--quick", "--models=S", "--repeats=1")
    assert found["S"]["contenders"]["cipo_jax"]["sampled_tokens"]["median"] == 8 * 8
    assert 0 < found["S"]["our_trained_tokens"]["median"] <= 8 * 8


@pytest.mark.slow
def test_checkpoint_stall(tmp_path: Path) -> None:
    arguments = ("--models=1M", "--repeats=1", "--updates=1")
    found = run(tmp_path, "checkpoint_stall.py", *arguments)["1M"]
    calls = [found[kind]["call"]["median"] for kind in ("waiting", "background")]
    assert found["waiting_over_background"] == pytest.approx(calls[0] / calls[1])
    assert found["state_bytes"] > 2 * 4 * found["parameters"]
