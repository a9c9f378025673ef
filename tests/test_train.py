"""Whole runs on the smallest scale, through the program's own entry point."""

import collections
import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from places import ROOT

from cipo_jax import train
from cipo_jax.config.keys import Config
from cipo_jax.main import run
from cipo_jax.run import training
from cipo_jax.run.measures import find_metric
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.records.starts import read_starts
from cipo_jax.run.records.terminal import format_step_line
from cipo_jax.run.watch.compiles import LEDGER_FILE
from cipo_jax.run.watch.speed import MEASURED
from cipo_jax.types import CipoError

CONFIG = ROOT / "configs" / "smoke.py"
# Two devices' worth of everything: the suite has eight virtual ones.
MESH = ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2"]
FAST = [
    *MESH,
    "--config.log.tensorboard=False",
    "--config.cold_start.max_steps=40",
    "--config.cold_start.check_every=20",
    "--config.cold_start.check_problems=16",
    "--config.data.eval_problems=8",
]


def smoke(workdir: Path, *overrides: str) -> Path:
    run(["cipo_jax", f"--config={CONFIG}", f"--workdir={workdir}", *FAST, *overrides])
    return workdir


def of_phase(workdir: Path, phase: str) -> list[dict]:
    """The phase's metrics, without what depends on the machine and the hour."""
    return [
        {k: v for k, v in record.items() if not k.startswith(MEASURED)}
        for record in read_metrics(workdir)
        if record["phase"] == phase
    ]


def saved_params(workdir: Path, step: int) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    path = (workdir / "checkpoints" / f"step_{step}" / "params").absolute()
    flat, _ = jax.tree_util.tree_flatten_with_path(ocp.StandardCheckpointer().restore(path))
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in flat}


COMPILED_BY_STEP: list[int] = []  # programs compiled when the finished run printed each step


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps."""
    compiled = 0

    def count(event: str, seconds: float, **_: object) -> None:
        nonlocal compiled
        compiled += event == "/jax/core/compile/backend_compile_duration"

    def step_line(*args: Any) -> str:
        COMPILED_BY_STEP.append(compiled)
        return format_step_line(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "format_step_line", step_line)
        jax.monitoring.register_event_duration_secs_listener(count)
        return smoke(tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.slow
def test_nothing_is_compiled_after_the_first_steps(finished: Path) -> None:
    # The evaluations at steps 0 and 2 use the programs of the steps.
    assert COMPILED_BY_STEP[0] > 10  # the listener does count
    late = COMPILED_BY_STEP[-1] - COMPILED_BY_STEP[1]
    recorded = [json.loads(line) for line in (finished / LEDGER_FILE).read_text().splitlines()]
    # Prompts of a width that no step had before need a program of that width.
    assert [r["program"] for r in recorded if r["step"] > 2] == ["jit(prefill)"] * late
    assert late <= 1


@pytest.mark.slow
def test_cold_start_loss_falls_and_corrections_are_made(finished: Path) -> None:
    losses = [r["loss/demonstration"] for r in of_phase(finished, "cold_start")]
    checks = [r for r in of_phase(finished, "cold_start") if "pass_rate" in r]
    assert all(0 <= r["lines_true"] <= 1 for r in checks)
    assert all(0 <= r["eval/lines_true"] <= 1 for r in of_phase(finished, "eval"))
    assert losses[-1] < 0.7 * losses[0]
    steps = of_phase(finished, "train")
    assert [r["step"] for r in steps] == [1, 2, 3, 4]
    for record in steps:
        assert record["anchor/count"] == 8
        assert record["correction/reward/mean"] >= 0
        assert np.isfinite(record["loss/total"])
        # Sampler and trainer agree on what they sampled.
        assert record.get("base/sampler_gap", 0.0) < 1e-4


@pytest.mark.slow
def test_every_metric_is_explained(finished: Path) -> None:
    names = {name for record in read_metrics(finished) for name in record} - {"phase", "step"}
    assert len(names) > 80 and not [name for name in names if find_metric(name) is None]


@pytest.mark.slow
def test_what_is_measured(finished: Path) -> None:
    lines = {(r["phase"], r["step"]): r for r in read_metrics(finished)}
    ledger = [json.loads(line) for line in (finished / "compiles.jsonl").read_text().splitlines()]
    assert {"jit(step)", "jit(prefill)", "jit(decode_chunk)"} <= {c["program"] for c in ledger}
    for step in range(1, 5):
        record = lines["train", step]
        phases = [record[f"time/{phase}"] for phase in ("rollout", "correct", "update")]
        assert record["time/step"] == pytest.approx(sum(phases)) and min(phases) > 0
        sampling = record["time/rollout"] + record["time/correct"]
        speed = record["tokens/per_second_per_device"]
        assert speed * sampling * 8 == pytest.approx(record["tokens/sampled"])
        assert 0 <= record["time/verify_wait"] <= sampling
        assert "update/mfu" not in record  # the peak of a CPU is not known
        noted = [c for c in ledger if c["step"] == step]
        if step > 1:
            assert record["compile/count"] + record["compile/cached"] == len(noted)
    # Saved every second step, so the third has waited for it.
    assert [s for s in range(1, 5) if "time/checkpoint" in lines["train", s]] == [3]
    assert all(lines["eval", step]["time/eval"] > 0 for step in (0, 2, 4))


@pytest.mark.slow
def test_attempts_wrong_at_the_first_evaluation_are_corrected_at_each(finished: Path) -> None:
    first, *later = (list(read_attempts(finished, "eval", {step})) for step in (0, 2, 4))
    wrong = [
        (a["problem_id"], a["anchor"]["text"])
        for a in first
        if a["anchor"] and a["anchor"]["outcome"] not in ("correct", "error")
    ]
    assert len(wrong) > 2
    for attempts in later:
        again = [a for a in attempts if a["anchor"] and a["anchor"].get("first")]
        assert [(a["problem_id"], a["anchor"]["text"]) for a in again] == wrong
    lines = of_phase(finished, "eval")
    assert lines[0]["eval/first_wrong/w2r"] == lines[0]["eval/correction/w2r"]
    assert all("eval/first_wrong/w2r_gain" in line for line in lines)


@pytest.mark.slow
def test_evaluations_and_report(finished: Path) -> None:
    assert [r["step"] for r in of_phase(finished, "eval")] == [0, 2, 4]
    page = (finished / "report.html").read_text()
    assert "pass@1" in page
    (start,) = read_starts(finished)
    assert start["devices"].endswith(" x cpu") and f"{start['parameters']:,} parameters" in page
    config = json.loads((finished / "config.json").read_text())
    assert config["mesh.data"] == {"value": 2, "source": "command line"}
    assert config["cold_start.batch_size"]["source"] == "file"
    assert config["optimizer.b1"]["source"] == "default"


@pytest.mark.slow
def test_a_run_stopped_in_the_cold_start_and_between_steps_is_the_whole_one(
    finished: Path, tmp_path: Path
) -> None:
    stopped = tmp_path / "run"
    shutil.copytree(finished, stopped)
    # As if killed after the check at step 20: its checkpoint was the newest.
    for directory in ("checkpoints", "cold_start", "attempts"):
        shutil.rmtree(stopped / directory)
    for file in ("metrics.jsonl", "difficulty.jsonl"):
        (stopped / file).unlink()
    with pytest.raises(_Stopped):
        _stop_after_first_cold_start_check(stopped)
    smoke(stopped, "--config.num_steps=2")
    assert [r["step"] for r in of_phase(stopped, "train")] == [1, 2]
    smoke(stopped)
    for phase in ("cold_start", "train", "eval"):
        assert of_phase(stopped, phase) == of_phase(finished, phase)
    assert list(read_attempts(stopped)) == list(read_attempts(finished))
    there, here = saved_params(finished, 4), saved_params(stopped, 4)
    assert there.keys() == here.keys()
    for name in there:
        np.testing.assert_array_equal(there[name], here[name], err_msg=name)


class _Stopped(Exception):
    pass


def _stop_after_first_cold_start_check(workdir: Path) -> None:
    from cipo_jax.run.records.checkpoint import Checkpoints

    original = Checkpoints.save

    def save_then_stop(self: Checkpoints, *args: object) -> None:
        original(self, *args)
        raise _Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_then_stop)
        smoke(workdir)


@pytest.mark.slow
def test_another_config_may_not_take_over_a_run(finished: Path) -> None:
    before = (finished / "config.json").read_text()
    with pytest.raises(CipoError, match=r"optimizer\.learning_rate: 0\.0004 there, 0\.1 now"):
        smoke(finished, "--config.optimizer.learning_rate=0.1")
    assert (finished / "config.json").read_text() == before


@pytest.mark.parametrize(
    "missing",
    [
        "data.train=nowhere.jsonl",
        "data.eval=arithmetic=0.5,nowhere.jsonl=0.5",
        "cold_start.demonstrations=nowhere.jsonl",
        "init_from=nowhere",
    ],
)
def test_what_is_not_there_is_named_before_anything_is_opened(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "open_parts", None)  # it would fail
    with pytest.raises(CipoError, match=f"config.{missing.partition('=')[0]}: .*nowhere"):
        smoke(tmp_path / "run", f"--config.{missing}")
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_start_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"question": "1+1?"')
    with pytest.raises(CipoError, match=r"broken\.jsonl:1: not JSON"):
        smoke(tmp_path / "run", f"--config.data.train={tmp_path}/broken.jsonl")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        "dapo",
        *(pytest.param(v, marks=pytest.mark.long) for v in ("dr_grpo", "gspo", "failures_only")),
    ],
)
def test_baselines_run_from_the_same_program(variant: str, finished: Path, tmp_path: Path) -> None:
    # The demo's variants on the smoke run's sizes.
    file = tmp_path / "variant.py"
    file.write_text(
        "from cipo_jax.config import load_file\n"
        "def get_config():\n"
        f"    c = load_file('smoke.py', beside={str(CONFIG)!r}).get_config()\n"
        f"    return load_file('variants.py', beside={str(CONFIG)!r}).apply(c, {variant!r})\n"
    )
    run(
        [
            "cipo_jax",
            f"--config={file}",
            f"--workdir={tmp_path / 'run'}",
            *FAST,
            f"--config.init_from={finished}",
            "--config.num_steps=2",
            "--config.log.gradient_stats_every=2",
        ]
    )
    # It begins with the parameters of the other run.
    assert of_phase(tmp_path / "run", "cold_start") == []
    at_start, at_end = of_phase(tmp_path / "run", "eval")[0], of_phase(finished, "eval")[-1]
    assert at_start["eval/pass@1"] == at_end["eval/pass@1"]
    first, second = of_phase(tmp_path / "run", "train")
    assert np.isfinite(second["loss/total"])
    if variant == "failures_only":
        assert second["anchor/realised_success_share"] == 0
        # Absent where a stream has no gradient, as where all its groups were wrong.
        alone = 0 in (second["grad/base_norm"], second["grad/correction_norm"])
        assert ("grad/cosine" in second) != alone and abs(second.get("grad/cosine", 0)) <= 1
    else:  # of GRPO's kind: no corrections were sampled
        assert not any(k.startswith(("correction/", "anchor/")) for k in (*first, *second))


@pytest.mark.slow
def test_several_updates_a_step_with_every_option_resume_exactly(
    finished: Path, tmp_path: Path
) -> None:
    options = [
        f"--config.init_from={finished}",
        "--config.mesh.data=1",  # and not as the run that it begins with
        "--config.mesh.context=2",
        "--config.num_steps=2",
        "--config.checkpoint.every=1",
        "--config.batch.minibatches=2",
        "--config.batch.epochs=2",
        "--config.algorithm.old_logprobs=trainer",
        "--config.algorithm.tis_cap=2.0",
        "--config.algorithm.kl_coef=0.01",
        "--config.algorithm.entropy_coef=0.001",
        "--config.algorithm.overlong=mask",
        "--config.rollout.max_refills=1",
        "--config.rollout.curriculum=learnability",
        "--config.correction.from_corrections=0.5",
        "--config.optimizer.schedule=cosine",
        "--config.optimizer.decay_steps=20",
    ]
    whole = smoke(tmp_path / "whole", *options)
    stopped = smoke(tmp_path / "stopped", *options, "--config.num_steps=1")
    smoke(stopped, *options)
    attempts = list(read_attempts(whole, "train"))
    assert {a["round"] for a in attempts} == {0, 1, 2}  # corrections of corrections are there
    # All that was sampled is archived, what dynamic sampling has not kept included.
    archived = collections.Counter()
    for attempt in attempts:
        archived[attempt["step"]] += attempt["completion_tokens"]
    lines = of_phase(whole, "train")
    assert archived == {line["step"]: line["tokens/sampled"] for line in lines}
    assert any(line["rollout/replaced_groups"] for line in lines)
    assert of_phase(stopped, "train") == of_phase(whole, "train")
    assert list(read_attempts(stopped, "train")) == attempts
    assert (stopped / "difficulty.jsonl").read_text() == (whole / "difficulty.jsonl").read_text()


@pytest.mark.slow
def test_a_health_rule_stops_a_run_that_leaves_the_initial_policy(
    finished: Path, tmp_path: Path
) -> None:
    run_dir = smoke(
        tmp_path / "run",
        f"--config.init_from={finished}",
        "--config.health.entropy_floor=5.0",
        "--config.health.patience=2",
        "--config.health.action=stop",
        "--config.algorithm.kl_coef=0.1",
        "--config.eval.corrected_attempts=0",
    )
    [firing] = of_phase(run_dir, "health")
    assert firing["step"] == 2
    assert [r["step"] for r in of_phase(run_dir, "train")] == [1, 2]
    assert (run_dir / "checkpoints" / "step_2").is_dir()
    first, second = of_phase(run_dir, "train")
    assert abs(first["base/kl"]) < 1e-6
    assert second["base/kl"] > first["base/kl"]


def test_only_the_first_host_reads_the_run_directory_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics.jsonl").write_text("what an earlier run has left on this host\n")
    done = SimpleNamespace(
        evaluate_if_due=lambda: None,
        is_over=True,
        host=SimpleNamespace(difficulty={}),
        parts=SimpleNamespace(hosts=SimpleNamespace(first=False)),
        record=SimpleNamespace(report=lambda: tmp_path / "report.html"),
    )
    monkeypatch.setattr(train, "open_run", lambda *_: contextlib.nullcontext(done))
    train.train(Config(), tmp_path, {})
