"""The plan of a run, without a run."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cipo_jax.main import run
from cipo_jax.preflight import Plan, Program
from cipo_jax.types import CipoError

pytestmark = pytest.mark.slow  # every test compiles all programs

CONFIG = f"--config={Path(__file__).with_name('tiny_run.py')}"
MESH = ["--config.mesh.fsdp=4", "--config.mesh.data=2"]
ROWS = "--config.batch.microbatch_rows=8"


def test_what_is_printed(capsys: pytest.CaptureFixture) -> None:
    run(["cipo_jax", "--mode=preflight", CONFIG, ROWS, *MESH, "--device_memory=1"])
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[0]: line for line in lines}
    assert {"update", "decode", "prefill", "cache", "disk", "verifier", "fits"} <= named.keys()
    assert "8 x cpu; mesh data 2 x fsdp 4 x tensor 1" in named["devices"]
    assert named["parameters"].endswith("10,232")
    # 4 problems x 2 attempts and 4 anchors x 2 corrections of at most 44 tokens.
    assert "16 completions, at most 704 tokens" in named["step"]


@pytest.mark.parametrize(
    ("gib", "message"), [("0.00001", "the update needs"), ("0.003", "about [0-9]+ would fit")]
)
def test_what_does_not_fit_is_an_error(gib: str, message: str) -> None:
    arguments = ["--mode=preflight", CONFIG, ROWS, *MESH, f"--device_memory={gib}"]
    with pytest.raises(CipoError, match=message):
        run(["cipo_jax", *arguments, "--config.sampling.slots=4096"])


def test_memory_adds_up() -> None:
    programs = tuple(
        Program(name, 100, temporaries, None, 0.0)
        for name, temporaries in (("update", 50), ("decode chunk", 5), ("prefill", 10))
    )
    plan = Plan(1, programs, 80, 20, 40, slots=4, checkpoint_bytes=0)
    assert plan.update_bytes == 150
    assert plan.sampling_bytes == 80 + 20 + 40 + 10
    # 110 without the cache, so 90 for it, at 10 a slot.
    assert plan.slots_that_fit(200) == 9
    assert plan.slots_that_fit(100) == 0


def test_mistakes_are_found_as_in_training() -> None:
    with pytest.raises(CipoError, match="nowhere.jsonl"):
        run(["cipo_jax", "--mode=preflight", CONFIG, "--config.data.train=nowhere.jsonl"])
    with pytest.raises(CipoError, match="microbatch_rows: got 4, wanted a multiple of 8"):
        run(["cipo_jax", "--mode=preflight", CONFIG, *MESH])


@pytest.mark.slow
def test_for_a_tpu_that_is_not_here() -> None:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("compiling for TPU needs libtpu: pip install libtpu")
    done = subprocess.run(
        [
            *[sys.executable, "-m", "cipo_jax.main", "--mode=preflight", CONFIG],
            *["--topology=v5e:2x4", "--device_memory=16", ROWS],
            "--config.model.head_dim=128",
        ],
        env=os.environ | {"TPU_SKIP_MDS_QUERY": "1", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    if "lockfile" in done.stderr:
        pytest.skip("another process is compiling for TPU")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "8 x TPU v5" in done.stdout and "fits" in done.stdout
    assert jax.devices()[0].platform == "cpu"  # this process is not the one that asked
