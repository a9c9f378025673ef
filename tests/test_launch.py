"""The launch scripts print what they would execute, and refuse to guess."""

import shutil
import subprocess

import pytest
from places import ROOT

SCRIPT = ROOT / "launch" / "tpu_vm.sh"


def launch(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)


def test_the_dry_run_prints_copy_install_and_command() -> None:
    result = launch(
        "--dry_run", "my-tpu", "us-central2-b", "--config=configs/math.py", "--workdir=/mnt/a b"
    )
    assert result.returncode == 0, result.stderr
    archive, copy, start = result.stdout.split("gcloud ")[0], *result.stdout.split("gcloud ")[1:]
    assert archive.startswith("git -C") and " archive " in archive
    assert copy.startswith("compute tpus tpu-vm scp") and "--zone=us-central2-b" in copy
    assert start.startswith("compute tpus tpu-vm ssh my-tpu")
    assert "python -m cipo_jax.main --config=configs/math.py" in start
    # Quoted for the VM's shell, then for this one.
    assert "/mnt/a" in start and "--workdir=/mnt/a b" not in start


def test_missing_arguments_are_refused() -> None:
    result = launch("my-tpu")
    assert result.returncode == 2
    assert "usage" in result.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck() -> None:
    subprocess.run(["shellcheck", SCRIPT], check=True)
