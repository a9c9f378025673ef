"""benchmarks/accelerator.py at its tiny size: what it counts, and that all of it runs.

On CPU no time is asserted. The device's peaks are given, so that shares are computed. That the
programs are accepted for CUDA is checked as far as that goes without a GPU: they are lowered, cuDNN
attention included, not compiled.
"""

import dataclasses
import json
import os
import re
import sys

import jax
import numpy as np
import pytest
import tiny_hf
import tiny_models
from places import ROOT, TESTS

BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import accelerator  # noqa: E402
from as_on_gpu import as_on_gpu, lowered_for_cuda  # noqa: E402
from one_device import decode, small, smoke, step, update, work  # noqa: E402
from one_device.work import Work  # noqa: E402
from peers.transformers_generate import measure_peer  # noqa: E402

from cipo_jax.policy import attention_kernels, model  # noqa: E402
from cipo_jax.run.forecast.counts import count_parameters  # noqa: E402
from cipo_jax.run.update import Policy, make_policy_update, make_score  # noqa: E402
from cipo_jax.run.watch.speed import PEAK_FLOPS  # noqa: E402
from cipo_jax.sampling.choose import Choice  # noqa: E402
from cipo_jax.sampling.programs import lower_decode  # noqa: E402
from cipo_jax.sampling.settings import EngineSettings  # noqa: E402

TINY = Work("tiny", **work.TINY | {"repeats": 1})


def test_every_device_with_a_peak_has_a_bandwidth():
    assert decode.HBM_BANDWIDTH.keys() == PEAK_FLOPS.keys()


def test_shapes_have_the_published_numbers_of_parameters():
    counts = {name: count_parameters(Work(name).shape) for name in work.MODELS}
    assert counts["qwen3-0.6b"] == 596_049_920
    assert counts["qwen3-4b"] == 4_022_468_096


@pytest.mark.slow
def test_decoding_reads_weights_and_live_tokens(monkeypatch):
    monkeypatch.setitem(decode.HBM_BANDWIDTH, "cpu", 1e9)
    found = list(decode.measure_decode(TINY))
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
        list(decode.measure_decode(dataclasses.replace(TINY, rows=(8,), prefill_tokens=16)))


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
    parameters = count_parameters(TINY.shape)
    assert row["flops"] == 6 * parameters * tokens + 12 * heads * pairs
    assert row["mfu"] == row["flops"] / (row["seconds"]["median"] * 1e12)


def test_a_size_without_room_does_not_end_the_others():
    def measure(size):
        if size == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocator ...")
        return {"value": 10 * size}

    assert list(work.by_size("rows", (1, 2, 4), measure)) == [
        {"rows": 1, "value": 10},
        {"rows": 2, "out_of_memory": "RESOURCE_EXHAUSTED: Out of memory"},
        {"rows": 4, "value": 40},
    ]


def test_other_errors_of_the_device_end_it():
    def measure(size):
        raise jax.errors.JaxRuntimeError("INTERNAL: a kernel failed")

    with pytest.raises(jax.errors.JaxRuntimeError, match="a kernel failed"):
        list(work.by_size("rows", (1,), measure))


def test_the_step_is_skipped_without_room_for_its_checkpoint(monkeypatch):
    monkeypatch.setattr(step, "STATE_BYTES", 1e15)
    [row] = step.measure_step(TINY)
    assert "checkpoint needs" in row["skipped"]


@pytest.mark.slow  # imports torch
@pytest.mark.parametrize(("platform", "why"), [("gpu", "no CUDA device"), ("tpu", "not tried")])
def test_the_peer_is_skipped_where_torch_has_no_such_device(platform, why):
    torch = pytest.importorskip("torch")
    if platform == "gpu" and torch.cuda.is_available():
        pytest.skip("torch has one")
    [row] = measure_peer(dataclasses.replace(TINY, platform=platform))
    assert why in row["skipped"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", [pytest.param("smoke", marks=pytest.mark.long), "decode", "update"]
)
def test_parts_run_with_the_programs_of_a_gpu(part, monkeypatch):
    monkeypatch.setattr(attention_kernels, "_log_once", lambda message: None)
    before = jax.config.jax_default_matmul_precision
    tiny = dataclasses.replace(TINY, rows=(4,))
    try:
        with as_on_gpu():
            rows = list(accelerator.PARTS[part].measure(tiny))
    finally:
        jax.config.update("jax_default_matmul_precision", before)
    assert rows and not any({"skipped", "out_of_memory"} & set(row) for row in rows)
    if part == "smoke":
        assert [row["compute_dtype"] for row in rows] == ["float32", "bfloat16"]
        assert rows[0]["sampled_alike"] == 1 and rows[0]["logprob_difference"] < 1e-4


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("part", ["step", "small"])
def test_whole_runs_have_the_programs_of_a_gpu(part, tmp_path, monkeypatch):
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(step, "PROGRAM", (sys.executable, str(TESTS / "as_on_gpu.py")))
    tiny = TINY
    if part == "small":
        pytest.importorskip("torch")
        config = tmp_path / "config.py"  # the tokenizer makes many tokens of a word
        config.write_text(
            "import runpy\n"
            "def get_config():\n"
            f"    c = runpy.run_path({small.CONFIG!r})['get_config']('short')\n"
            "    c.data.max_prompt_tokens, c.cold_start.max_steps = 200, 2\n"
            "    c.cold_start.check_every = 1\n"
            "    return c\n"
        )
        monkeypatch.setattr(small, "STEPS", 1)
        monkeypatch.setattr(small, "CONFIG", str(config))
        size = tiny_hf.make_tokenizer(tmp_path / "model")
        longest = {"max_position_embeddings": 4096}
        tiny_models.save_tiny_model(tmp_path / "model", vocab_size=size, **longest)
        tiny = dataclasses.replace(TINY, source=str(tmp_path / "model"))
    rows = list(accelerator.PARTS[part].measure(tiny))
    assert [row["step"] for row in rows if "time/update" in row and "step" in row] == (
        [1] if part == "small" else [1, 2, 3]
    )
    evaluated = [row for row in rows if "evaluated after step" in row]
    assert bool(evaluated) == (part == "small")
    assert all("eval/pass@1" in row for row in evaluated)


def test_smoke_fails_where_programs_are_wrong(monkeypatch):
    """As with a kernel that leaves out a part of the keys."""
    found = {"sampled": {}, "completions": {}, "logprobs": {0: [0.0]}, "own_difference": 0.0}
    found["update"] = {"loss/total": 1.0, "grad_norm": 1.0}
    wrong = iter([found, found | {"logprobs": {0: [0.1]}}])
    monkeypatch.setattr(smoke, "_on", lambda *args: next(wrong))
    monkeypatch.setattr(smoke, "_alike", lambda *args: 1.0)
    with pytest.raises(ValueError, match="float32: 0.1 is more than rounding"):
        list(smoke.measure_smoke(TINY))


def test_a_part_without_time_is_ended_and_keeps_what_it_found(tmp_path, monkeypatch, capsys):
    script = tmp_path / "part.py"
    script.write_text(
        "import json, sys, time\n"
        "file = sys.argv[-1].removeprefix('--json=')\n"
        "found = json.load(open(file)) | {'decode': [{'rows': 4}]}\n"
        "json.dump(found, open(file, 'w'))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(accelerator, "PROGRAM", (sys.executable, str(script)))
    file = tmp_path / "results.json"
    file.write_text('{"work": 1}')
    rows = accelerator.in_own_process("decode", TINY, accelerator.TimeLeft(4.0), file)
    stopped = {"stopped": "after 2 s, its share of the time that was left"}
    assert rows == [{"rows": 4}, stopped]
    assert json.loads(file.read_text()) == {"work": 1, "decode": rows}
    assert "after 2 s" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.long
def test_full_size_programs_lower_for_cuda():
    full = Work("qwen3-0.6b", compute_dtype="bfloat16")
    shape, mesh = full.shape, work.one_device()
    settings = EngineSettings(
        full.prompt, full.new, Choice(()), page_size=64, cache_dtype="bfloat16", slots=64
    )
    config = update.update_config(full, full.microbatches[0])
    score = make_score(shape, mesh, 1.0)
    policy = Policy(mesh, shape, score, full.prompt, full.prompt + full.new, full.new)
    with lowered_for_cuda():
        decoding = lower_decode(shape, mesh, settings).as_text()
        updating = make_policy_update(config, policy, lambda _: 1e-6).lower().as_text()
    # Of the layers, which are alike, there is one function.
    assert "bf16" in decoding and decoding.count("__gpu$xla.gpu.triton") == 2
    # The kernels of a forward pass are there again for the backward pass.
    assert updating.count("__gpu$xla.gpu.triton") == 4 and "__cudnn" not in updating


@pytest.mark.slow
@pytest.mark.long
def test_the_command_measures_all_parts(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
    monkeypatch.setenv("XLA_FLAGS", flags)
    file = tmp_path / "results.json"
    parts = ",".join(p for p in accelerator.PARTS if p != "smoke")
    accelerator.main(["--model=tiny", "--repeats=1", f"--parts={parts}", f"--json={file}"])
    results = json.loads(file.read_text())
    assert results["device"][0]["count"] == 1
    *_, steps = results["step"]
    assert steps["steps"] == 1 and len(results["step"]) == 2 + 1 + 1
    assert "names no directory" in results["small"][0]["skipped"]
    [peer], ratio = results["peer"], results["over peer"]
    phases = [steps[f"time/{phase}"]["median"] for phase in ("rollout", "correct", "update")]
    assert steps["time/step"]["median"] == pytest.approx(sum(phases))
    assert 0 < steps["base/reward/mean"]["median"] < 1
    assert steps["tokens/trained_per_second_per_device"]["median"] > 0
    assert 0 <= steps["time/verify_hidden"]["median"] <= 1
    assert peer["parameters"] == count_parameters(TINY.shape)
    (ours,) = [row for row in results["decode"] if row["rows"] == peer["rows"]]
    assert ours["share"] is None and results["update"][0]["mfu"] is None
    rates = [x["tokens_per_second"]["median"] for x in (ours, peer)]
    assert ratio["engine_faster_by"] == rates[0] / rates[1]
    assert "no share: what 'cpu' could reach is not known" in capsys.readouterr().out
