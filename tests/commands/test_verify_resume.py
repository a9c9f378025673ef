"""A run that is stopped, anyhow and anywhere, and started again is the run that was not stopped."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from places import TESTS

from cipo_jax.commands.verify_resume import differences, run_until
from cipo_jax.main import run
from cipo_jax.run.hosts.preemption import EXIT_CODE
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.types import CipoError

ARGUMENTS = [f"--config={TESTS / 'tiny_run.py'}"]
COMMAND = [sys.executable, "-m", "cipo_jax.main", *ARGUMENTS]


@pytest.fixture(autouse=True, scope="module")
def one_device():
    """The processes that are started here have one device each."""
    with pytest.MonkeyPatch.context() as patch:
        flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
        patch.setenv("XLA_FLAGS", flags)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    run_until(COMMAND, workdir, None, 0.0)
    return workdir


def stop_at(workdir: Path, by: str, place: str, count: int) -> subprocess.CompletedProcess:
    command = [sys.executable, TESTS / "stopped_run.py", by, place, str(count), *ARGUMENTS]
    return subprocess.run(
        [*command, f"--workdir={workdir}"], capture_output=True, text=True, timeout=120
    )


def saved(workdir: Path) -> list[int]:
    with Checkpoints(workdir / "checkpoints", keep=1, read_only=True) as checkpoints:
        return checkpoints.all_steps()


@pytest.mark.slow
def test_stopped_in_every_way_and_continued(whole: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    # Step 1 is done and its checkpoint is being written.
    assert stop_at(workdir, "SIGKILL", "checkpoint", 1).returncode == -signal.SIGKILL
    # In the rollout of a step: there are the chunks of the evaluation before the first one.
    assert stop_at(workdir, "SIGKILL", "sampling", 30).returncode == -signal.SIGKILL
    before = saved(workdir)
    # Before an update: it is done, and the step with it, and then the run ends.
    asked = stop_at(workdir, "SIGTERM", "update", 1)
    assert asked.returncode == EXIT_CODE, asked.stderr
    assert "the same command continues the run" in asked.stderr
    assert saved(workdir)[-1] == max([0, *before]) + 1
    run_until(COMMAND, workdir, None, 0.0)
    assert differences(whole, workdir) == []


@pytest.mark.slow
def test_asked_to_end_during_an_evaluation(whole: Path, tmp_path: Path) -> None:
    # The first chunks are those of the evaluation before step 1, of which nothing is kept.
    asked = stop_at(tmp_path / "run", "SIGTERM", "sampling", 2)
    assert asked.returncode == EXIT_CODE, asked.stderr
    assert read_metrics(tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_twenty_random_interruptions(whole: Path, tmp_path: Path) -> None:
    rng, done, rounds = random.Random(1), 0, 0
    options = [*COMMAND, "--config.num_steps=3"]
    while done < 20:
        workdir = tmp_path / f"run{rounds}"
        rounds += 1
        while done < 20:
            by = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            if run_until(options, workdir, by, rng.uniform(0, 5))[0] == 0:
                break
            done += 1
        run_until(options, workdir, None, 0.0)
        assert differences(whole, workdir) == []


@pytest.mark.slow
@pytest.mark.long
def test_the_mode(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(["cipo_jax", "--mode=verify_resume", *ARGUMENTS, f"--workdir={tmp_path / 'check'}"])
    assert "equal to the bit" in capsys.readouterr().out
    with pytest.raises(CipoError, match="exists"):
        run(["cipo_jax", "--mode=verify_resume", *ARGUMENTS, f"--workdir={tmp_path / 'check'}"])


@pytest.mark.slow
def test_differences_are_found(whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    assert differences(whole, other) == []
    metrics = other / "metrics.jsonl"
    metrics.write_text(re.sub(r'"grad_norm": [\d.]+', '"grad_norm": 7.0', metrics.read_text()))
    (other / "attempts" / "train-000003.jsonl.gz").unlink()
    shutil.rmtree(other / "checkpoints" / "step_3")
    found = differences(whole, other)
    assert any(line.startswith("metrics.jsonl: ('train', 2, 'grad_norm')") for line in found)
    assert any(line.startswith("attempts: ('train', 3, 0)") for line in found)
    assert any(line.startswith("checkpoint: params") for line in found)
    assert any(line.startswith("checkpoint: host") for line in found)
    assert not any("'eval'" in line for line in found)
