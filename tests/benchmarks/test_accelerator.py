"""benchmarks/accelerator.py at its tiny size: what it counts, and that all of it runs.

On CPU no time is asserted. The device's peaks are given, so that shares are computed. That the
programs are accepted for CUDA is checked as far as that goes without a GPU: they are lowered, cuDNN
attention included, not compiled.
"""

import dataclasses
import functools
import json
import os
import re
import sys

import jax
import numpy as np
import pytest
from places import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import accelerator  # noqa: E402
from one_device import decode, step, update, work  # noqa: E402
from one_device.work import Work  # noqa: E402
from peers.transformers_generate import measure_peer  # noqa: E402

from cipo_jax.policy import attention_kernels, model  # noqa: E402
from cipo_jax.policy.cache import attention as paged  # noqa: E402
from cipo_jax.policy.cache import pages as page_arrays  # noqa: E402
from cipo_jax.run.update import Policy, make_policy_update, make_score  # noqa: E402
from cipo_jax.run.watch.speed import PEAK_FLOPS  # noqa: E402
from cipo_jax.sampling import decode as decoding  # noqa: E402
from cipo_jax.sampling.choose import Choice  # noqa: E402
from cipo_jax.sampling.programs import lower_decode  # noqa: E402
from cipo_jax.sampling.settings import EngineSettings  # noqa: E402

TINY = Work("tiny", **work.TINY | {"repeats": 1})


def test_every_device_with_a_peak_has_a_bandwidth():
    assert decode.HBM_BANDWIDTH.keys() == PEAK_FLOPS.keys()


def test_shapes_have_the_published_numbers_of_parameters():
    counts = {name: work.count_parameters(Work(name).shape) for name in work.MODELS}
    assert counts["qwen3-0.6b"] == 596_049_920
    assert counts["qwen3-4b"] == 4_022_468_096


@pytest.mark.slow
def test_decoding_reads_weights_and_live_tokens(monkeypatch):
    monkeypatch.setitem(decode.HBM_BANDWIDTH, "cpu", 1e9)
    found = decode.measure_decode(TINY)
    assert [row["rows"] for row in found] == list(TINY.rows)
    shape = TINY.shape
    params = model.init_params(shape, jax.random.key(0))
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    for row in found:
        # The first of the four chunks is left out; step n (from 0) reads the prompt and n more.
        live = row["rows"] * np.mean([TINY.prompt + n for n in range(TINY.chunk, TINY.new)])
        assert row["live_tokens"] == live
        token = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 4
        assert row["step_bytes"] == weights + live * token
        assert row["roofline_seconds"] == row["step_bytes"] / 1e9
        assert row["share"] == row["roofline_seconds"] / row["step_seconds"]["median"]


@pytest.mark.slow
def test_rows_that_are_never_all_decoded_together_are_refused():
    with pytest.raises(ValueError, match="8 rows are never all decoded together"):
        decode.measure_decode(dataclasses.replace(TINY, rows=(8,), prefill_tokens=16))


@pytest.mark.slow
def test_the_update_trains_on_both_streams(monkeypatch):
    monkeypatch.setitem(update.PEAK_FLOPS, "cpu", 1e12)
    (row,) = update.measure_update(TINY)
    sequences = update.training_sequences(TINY)
    assert {s.stream for s in sequences} == {0, 1}
    tokens = sum(map(len, sequences))
    assert row["tokens"] == tokens
    assert row["tokens_per_second"]["median"] == tokens / row["seconds"]["median"]
    pairs = TINY.shape.num_layers * sum(len(s) * (len(s) + 1) // 2 for s in sequences)
    heads = TINY.shape.num_heads * TINY.shape.head_dim
    parameters = work.count_parameters(TINY.shape)
    assert row["flops"] == 6 * parameters * tokens + 12 * heads * pairs
    assert row["mfu"] == row["flops"] / (row["seconds"]["median"] * 1e12)


def test_a_size_without_room_does_not_end_the_others():
    def measure(size):
        if size == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocator ...")
        return {"value": 10 * size}

    assert work.by_size("rows", (1, 2, 4), measure) == [
        {"rows": 1, "value": 10},
        {"rows": 2, "out_of_memory": "RESOURCE_EXHAUSTED: Out of memory"},
        {"rows": 4, "value": 40},
    ]


def test_other_errors_of_the_device_end_it():
    def measure(size):
        raise jax.errors.JaxRuntimeError("INTERNAL: a kernel failed")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a kernel failed"):
        work.by_size("rows", (1,), measure)


def test_the_step_is_skipped_without_room_for_its_checkpoint(monkeypatch):
    monkeypatch.setattr(step, "STATE_BYTES", 1e15)
    assert "checkpoint needs" in step.measure_step(TINY)["skipped"]


@pytest.mark.slow  # imports torch
@pytest.mark.parametrize(("platform", "why"), [("gpu", "no CUDA device"), ("tpu", "not tried")])
def test_the_peer_is_skipped_where_torch_has_no_such_device(platform, why):
    torch = pytest.importorskip("torch")
    if platform == "gpu" and torch.cuda.is_available():
        pytest.skip("torch has one")
    assert why in measure_peer(dataclasses.replace(TINY, platform=platform))["skipped"]


@pytest.fixture
def for_cuda(monkeypatch):
    """Whatever is lowered is lowered for CUDA, as if on a GPU with cuDNN and Triton."""
    lower = jax.stages.Traced.lower
    monkeypatch.setattr(
        jax.stages.Traced, "lower", functools.partialmethod(lower, lowering_platforms=("cuda",))
    )
    for module in (attention_kernels, page_arrays, paged, decoding):
        monkeypatch.setattr(module, "platform", lambda: "gpu")
    monkeypatch.setattr(page_arrays, "triton_reads_pages", lambda device: True)
    version = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    monkeypatch.setattr(version, lambda: 91000)


@pytest.mark.slow
@pytest.mark.long
def test_full_size_programs_lower_for_cuda(for_cuda):
    full = Work("qwen3-0.6b", compute_dtype="bfloat16")
    shape, mesh = full.shape, work.one_device()
    settings = EngineSettings(
        full.prompt, full.new, Choice(()), page_size=64, cache_dtype="bfloat16", slots=64
    )
    decode = lower_decode(shape, mesh, settings).as_text()
    assert "bf16" in decode and decode.count("__gpu$xla.gpu.triton") == 2 * shape.num_layers
    config = update.update_config(full, full.microbatches[0])
    score = make_score(shape, mesh, 1.0)
    policy = Policy(mesh, shape, score, full.prompt, full.prompt + full.new, full.new)
    program = make_policy_update(config, policy, lambda _: 1e-6).lower().as_text()
    called = set(re.findall(r"custom_call @([\w$]+)", program))
    assert {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"} <= called


@pytest.mark.slow
@pytest.mark.long
def test_the_command_measures_all_parts(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    monkeypatch.setenv("XLA_FLAGS", flags)
    file = tmp_path / "results.json"
    accelerator.main(["--model=tiny", "--peer", "--repeats=1", f"--json={file}"])
    results = json.loads(file.read_text())
    assert results["device"]["count"] == 1
    steps, peer = results["step"], results["peer"]
    assert steps["steps"] == 1
    phases = [steps[f"time/{phase}"]["median"] for phase in ("rollout", "correct", "update")]
    assert steps["time/step"]["median"] == pytest.approx(sum(phases))
    assert 0 < steps["base/reward/mean"]["median"] < 1
    assert steps["tokens/trained_per_second_per_device"]["median"] > 0
    assert 0 <= steps["time/verify_hidden"]["median"] <= 1
    assert peer["parameters"] == work.count_parameters(TINY.shape)
    (ours,) = [row for row in results["decode"] if row["rows"] == peer["rows"]]
    assert ours["share"] is None and results["update"][0]["mfu"] is None
    rates = [x["tokens_per_second"]["median"] for x in (ours, peer)]
    assert peer["engine_faster_by"] == rates[0] / rates[1]
    assert "no share: what 'cpu' could reach is not known" in capsys.readouterr().out
