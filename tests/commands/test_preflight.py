"""The plan of a run, without a run."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
import time
from typing import Any

import jax
import pytest
from places import TESTS

from cipo_jax.commands import preflight as mode
from cipo_jax.main import run
from cipo_jax.run.memory_plan import (
    MOST_COMPILATIONS,
    Plan,
    Program,
    largest_that_fits,
)
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError

CONFIG = f"--config={TESTS / 'tiny_run.py'}"
MESH = ["--config.mesh.fsdp=4", "--config.mesh.data=2"]
ROWS = "--config.batch.microbatch_rows=8"
WIDTHS = ["16", "32", "64", "128"]


@pytest.mark.slow
def test_what_is_printed(capsys: pytest.CaptureFixture) -> None:
    refills = "--config.rollout.max_refills=1"
    run(["cipo_jax", "--mode=preflight", CONFIG, ROWS, *MESH, refills, "--device_memory=1"])
    lines = capsys.readouterr().out.splitlines()
    named = {line.split()[0]: line for line in lines}
    assert {"update", "decode", "prefill", "cache", "disk", "verifier", "fits"} <= named.keys()
    # One for each width of the sampler's.
    assert [line.split()[1] for line in lines if line.startswith("prefill")] == WIDTHS
    # 8 configured, on 8 row shards; 16 rows hold an update, and there are no more completions.
    assert "  batch.microbatch_rows  " in lines[-2] and "(compiled;" in lines[-2]
    assert lines[-1].startswith("  sampling.slots         16 (compiled;")
    assert "8 x cpu; mesh data 2 x fsdp 4 x tensor 1" in named["devices"]
    assert named["parameters"].endswith("10,232")
    # 4 problems x 2 attempts, twice, and 4 anchors x 2 corrections of at most 44 tokens.
    assert "at most 24 completions and 1,056 tokens" in named["step"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gib", "message"),
    [
        ("0.00001", "state and gradient alone need 0.00 GiB, .*; no other optimiser, dtype or "),
        ("0.005", "sampling.slots: got 4096, wanted at most [0-9]+ .*compiled"),
    ],
)
def test_what_does_not_fit_is_an_error(gib: str, message: str) -> None:
    arguments = ["--mode=preflight", CONFIG, ROWS, *MESH, f"--device_memory={gib}"]
    with pytest.raises(CipoError, match=message):
        run(["cipo_jax", *arguments, "--config.sampling.slots=4096"])


def test_it_says_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    beat, said = Heartbeat(25.0, prints=False), []
    waiting = beat.waiting

    def plan(*_: Any) -> Plan:
        said.append(beat.due(time.monotonic() + 60))
        monkeypatch.setattr(beat, "waiting", lambda what: said.append(what()) or waiting(what))
        jax.jit(lambda x: x + time.monotonic()).lower(1.0).compile()
        raise CipoError("enough")

    monkeypatch.setattr(mode, "Heartbeat", lambda seconds: beat)
    monkeypatch.setattr(mode, "make_plan", plan)
    with pytest.raises(CipoError, match="enough"):
        run(["cipo_jax", "--mode=preflight", CONFIG, ROWS])
    assert said[0].endswith(": reading, or tracing a program")
    assert "compiling jit(<lambda>)" in said


def test_memory_adds_up() -> None:
    programs = tuple(
        Program(name, 100, temporaries)
        for name, temporaries in (("update", 50), ("decode chunk", 5), ("prefill 16", 10))
    )
    plan = Plan(1, programs, 80, 20, 40, slots=4, checkpoint_bytes=0)
    assert plan.update_bytes == 150
    assert plan.sampling_bytes == 80 + 20 + 40 + 10


@pytest.mark.parametrize(
    ("known", "device", "size", "measured"),
    [
        (8, 1000, 40, [16, 40]),  # 100 + 22 a unit: 40 need 980, 48 would need 1156
        (64, 1000, 40, [8, 40]),  # from the other side
        (8, 10_000, 128, [16, 128]),  # no more than that is wanted
        (8, 280, 8, [16]),  # 16 need 452
        (64, 276, 8, [8]),  # exactly
        (64, 275, 0, [8]),
    ],
)
def test_the_largest_size_is_found_with_few_measurements(
    known: int, device: int, size: int, measured: list[int]
) -> None:
    asked: list[int] = []

    def measure(n: int) -> int:
        asked.append(n)
        return 100 + 22 * n

    fit = largest_that_fits(measure, {known: 100 + 22 * known}, 8, 130, device)
    assert (fit.size, asked) == (size, measured)


def test_nothing_fits_where_size_does_not_matter() -> None:
    assert largest_that_fits(lambda n: 1000, {16: 1000}, 8, 64, 999).size == 0
    assert largest_that_fits(lambda n: 1000, {16: 1000}, 8, 64, 1000).size == 64


def test_where_it_is_no_line_the_rest_is_interpolated() -> None:
    fit = largest_that_fits(lambda n: n * n, {8: 64}, 8, 1000, 2500)
    assert len(fit.compiled) == 1 + MOST_COMPILATIONS
    assert fit.size == 40 and 40 not in fit.compiled  # 48 would fit
    assert str(fit).startswith("40 (interpolated; compiled were 8: 0.000 GiB, 16: ")
    assert str(dataclasses.replace(fit, size=16)).startswith("16 (compiled; ")


def test_missing_data_is_named_before_a_tokenizer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode, "open_tokenizer", None)  # it would fail
    with pytest.raises(CipoError, match=r"config.data.train: nowhere.jsonl: there is no such file"):
        run(["cipo_jax", "--mode=preflight", CONFIG, "--config.data.train=nowhere.jsonl"])


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


@pytest.mark.slow
def test_for_gpus_that_are_not_here(capsys: pytest.CaptureFixture) -> None:
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        pytest.skip("compiling for a GPU needs JAX's plugin: pip install -e '.[cuda]'")
    sizes = ["--config.batch.row_tokens=128", ROWS, "--config.model.head_dim=16"]
    bfloat16 = "--config.model.compute_dtype=bfloat16"
    run(["cipo_jax", "--mode=preflight", CONFIG, "--topology=h100:4x2", *sizes, bfloat16])
    text = capsys.readouterr().out
    assert "8 x NVIDIA H100 80GB HBM3" in text
    assert "59.33 GiB (75% of 79.1 GiB" in text
    lines = text.splitlines()
    assert lines[-1].startswith("  sampling.slots         16 (compiled;")
    # Attention is cuDNN's, and layers are a loop of 2 turns; decode steps are as many as needed.
    update, decode = (lines.index(f"kernels      {name}") for name in ("update", "decode chunk"))
    assert any("each of 2 turns: " in line for line in lines[update:decode])
    assert any(line.startswith("    each of as many turns as needed: ") for line in lines[decode:])
    (line,) = (line for line in lines if line.startswith("update  "))
    flops = line.split(" FLOPs")[0].split()[-1]
    assert float(flops) > 6 * 10_232 * 128
