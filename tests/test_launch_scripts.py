"""The launch scripts print what they would execute, refuse to guess, and start again as told."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"
BUCKET = "--config.checkpoint.directory=gs://bucket/run"


def launch(script: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([LAUNCH / script, *arguments], capture_output=True, text=True)


def test_a_pod_is_created_with_what_follows() -> None:
    result = launch("tpu_pod.sh", "--dry_run", "create", "pod", "zone", "v5p-16", "v2", "--spot")
    assert result.returncode == 0, result.stderr
    command = result.stdout.split()
    assert command[:5] == ["gcloud", "compute", "tpus", "queued-resources", "create"]
    assert {"--node-id=pod", "--accelerator-type=v5p-16", "--spot"} <= set(command)


def test_a_pod_runs_the_command_on_all_workers() -> None:
    result = launch("tpu_pod.sh", "--dry_run", "start", "pod", "zone", "--config=a b", BUCKET)
    archive, copy, start = result.stdout.split("gcloud ")
    assert archive.startswith("git -C") and " archive " in archive
    assert "--worker=all" in copy and "--worker=all" in start
    assert "until_done.sh .venv/bin/python -m cipo_jax.main --coordinator=auto" in start
    assert "--config=a b" not in start  # quoted for the host's shell, then for this one


def test_slurm_starts_a_process_a_node_and_queues_itself_again() -> None:
    options = ["--gpus-per-node=8", "--", "--config=x.py", "--workdir=/shared/run"]
    result = launch("slurm.sh", "--dry_run", "4", *options)
    assert result.returncode == 0, result.stderr
    first, *job = result.stdout.splitlines()
    assert first.startswith("sbatch --nodes=4 --ntasks-per-node=1 --signal=TERM@120 --requeue")
    assert "--gpus-per-node=8" in first
    assert "-m cipo_jax.main --coordinator=auto --config=x.py" in "".join(job)
    assert "if ((status == 75)); then scontrol requeue" in "".join(job)
    alone = launch("slurm.sh", "--dry_run", "1", "--", "--config=x.py")
    assert alone.returncode == 0 and "--coordinator" not in alone.stdout


def test_local() -> None:
    result = launch("local.sh", "--dry_run", "--config=x.py")
    assert "until_done.sh" in result.stdout
    assert result.stdout.rstrip().endswith("-m cipo_jax.main --config=x.py")


@pytest.mark.parametrize(
    "command",
    [
        ("tpu_pod.sh",),
        ("tpu_pod.sh", "start", "pod"),
        ("tpu_pod.sh", "explode", "pod", "zone"),
        ("tpu_pod.sh", "start", "pod", "zone", "--config=x.py"),
        ("slurm.sh", "--config=x.py"),
        ("slurm.sh", "4", "--partition=gpu"),
        ("local.sh",),
        ("until_done.sh",),
    ],
)
def test_what_is_missing_is_said(command: tuple[str, ...]) -> None:
    result = launch(*command)
    assert result.returncode == 2
    assert "usage" in result.stderr or "launch/" in result.stderr or "bucket" in result.stderr


def until_done(tmp_path: Path, statuses: str, retries: int = 2) -> tuple[int, int]:
    """The exit status for a command that ends with one of `statuses` after the other, and how
    often it was started."""
    count = tmp_path / "count"
    count.write_text("")
    program = f'printf x >> {count}; s=({statuses}); exit "${{s[$(wc -c < {count}) - 1]}}"'
    done = subprocess.run(
        [LAUNCH / "until_done.sh", "bash", "-c", program],
        env=os.environ | {"PAUSE": "0", "RETRIES": str(retries)},
        capture_output=True,
        timeout=30,
    )
    return done.returncode, len(count.read_text())


@pytest.mark.parametrize(
    ("statuses", "status", "starts"),
    [
        ("0", 0, 1),
        ("2", 2, 1),
        ("75 75 75 75 0", 0, 5),
        ("1 134 0", 0, 3),
        ("1 1 1 1", 1, 3),
        ("1 1 75 1 1 0", 0, 6),
    ],
)
def test_what_is_started_again(tmp_path: Path, statuses: str, status: int, starts: int) -> None:
    assert until_done(tmp_path, statuses) == (status, starts)


def test_sigterm_is_passed_on_and_ends_it(tmp_path: Path) -> None:
    program = f"trap 'exit 75' TERM; touch {tmp_path}/up; while true; do sleep 0.05; done"
    script = subprocess.Popen([LAUNCH / "until_done.sh", "bash", "-c", program])
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=20) == 75


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck() -> None:
    subprocess.run(["shellcheck", *sorted(LAUNCH.glob("*.sh"))], check=True)
