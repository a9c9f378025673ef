"""Evaluation of a run directory and of a model, on fixtures in the benchmarks' own columns."""

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_hf
from places import TESTS
from sandboxes import open_or_skip

from cipo_jax.commands import evaluate as module
from cipo_jax.commands.evaluate import evaluate_run
from cipo_jax.config import default_config
from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import provenance, resolve
from cipo_jax.data.benchmarks.suites import CORRECT, CRITIQUE, SUITES
from cipo_jax.main import run as command
from cipo_jax.run.parameters import fresh_parameters
from cipo_jax.run.parts import open_parts
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.run.records.directory import claim_workdir
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import (
    Attempt,
    CipoError,
    Completion,
    Outcome,
    Problem,
    Prompt,
    Verdict,
)

FIXTURES = TESTS / "fixtures" / "suites"


def tiny_config(tokenizer: Path, **eval_keys: Any) -> Config:
    """A random model of two layers over a byte-level tokenizer."""
    c = default_config()
    c.model.num_layers, c.model.d_model, c.model.head_dim, c.model.mlp_dim = 2, 32, 8, 48
    c.mesh.fsdp, c.mesh.data = 1, -1
    c.data.tokenizer = str(tokenizer)
    c.data.max_prompt_tokens, c.data.max_attempt_tokens = 640, 160
    c.data.max_completion_tokens = 8
    c.data.eval_problems = 4
    c.sampling.slots = 16
    c.eval.samples, c.eval.pass_at = 2, (1, 2)
    c.eval.data_dir = str(FIXTURES)
    c.eval.update(eval_keys)
    return resolve(c)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_hf.make_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def run(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with the parameters of step 0."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny_config(tokenizer)
    claim_workdir(workdir, config, provenance(config, config, set()))
    with open_parts(config) as parts, Checkpoints(workdir / "checkpoints", keep=1) as saved:
        saved.save_params(fresh_parameters(config.model, config.seed, parts.policy))
    return workdir


@pytest.mark.slow
def test_every_suite_end_to_end(run: Path, tokenizer: Path) -> None:
    open_or_skip()
    config = tiny_config(tokenizer, suites=tuple(SUITES), suite_samples=2, name="all")
    directory = evaluate_run(config, run)
    assert directory == run / "evaluations" / "all"
    results = json.loads((directory / "results.json").read_text())
    table = (directory / "table.md").read_text()
    assert set(results["suites"]) == set(SUITES) and results["step"] == 0
    for name, suite in SUITES.items():
        found = results["suites"][name]
        wanted = {CORRECT: "correction/accuracy_after", CRITIQUE: "critique/f1"}
        metric = found["metrics"][wanted.get(suite.task, "pass@1")]
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
        assert (found["problems"], found["samples"]) == (4, 2)
        assert found["temperature"] == suite.temperature and f"| {name} | 4 | 2 |" in table
        records = list(read_attempts(directory, name))
        first = [r for r in records if suite.task == CORRECT or r["stream"] == "base"]
        assert len(first) == 8 and found["sampled_tokens"] > 0
        assert all((r["tests"] is None) != (r["answer"] is None) for r in records)
        if suite.task == CORRECT:
            assert all(r["anchor"]["text"] for r in records)
            assert found["metrics"]["correction/accuracy_before"]["value"] in (0, 0.5)
    assert len(results["suites"]["debugbench"]["skipped"]) == 1
    assert results["suites"]["minerva"]["source"] == str(FIXTURES / "minerva.jsonl")


@pytest.mark.slow
def test_a_run_on_its_own_problems_again_gives_the_same(run: Path, tokenizer: Path) -> None:
    command(["cipo_jax", "--mode=evaluate", f"--workdir={run}", "--config.eval.name=a"])
    command(["cipo_jax", "--mode=evaluate", f"--workdir={run}", "--step=0"])
    a, b = (run / "evaluations" / name for name in ("a", "step-000000"))
    first, second = (json.loads((d / "results.json").read_text()) for d in (a, b))
    assert first["suites"] == second["suites"]
    assert {"pass@1", "pass@2", "maj@2", "correction/accuracy_after"} <= set(
        first["suites"]["eval"]["metrics"]
    )
    files = [gzip.decompress(next((d / "attempts").iterdir()).read_bytes()) for d in (a, b)]
    assert files[0] == files[1]


def test_only_majorities_start_workers_that_compare_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: Any) -> None:
        raise RuntimeError("started")

    monkeypatch.setattr(module, "open_pool", start)
    rest: Any = ([], [], None, tmp_path, Heartbeat())
    assert module._evaluate_suites(tiny_config(tmp_path, majority=False), *rest) == {}
    with pytest.raises(RuntimeError, match="started"):
        module._evaluate_suites(tiny_config(tmp_path), *rest)


def test_attempts_without_a_verdict_are_reported_with_their_reasons() -> None:
    nothing = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), True)

    def attempt(name: str, outcome: Outcome, detail: str = "") -> Attempt:
        prompt = Prompt(Problem(name, "?"), np.array([1]))
        return Attempt(prompt, nothing, "", Verdict(outcome, detail=detail))

    judged = [attempt("a", Outcome.CORRECT), attempt("b", Outcome.WRONG)]
    failed = [attempt(name, Outcome.ERROR, f"problem {name!r} has no answer") for name in "abb"]
    assert module._errors_of("math500", judged) == []
    count, reason = module._errors_of("math500", [*judged, *failed])
    assert "math500: 3 of 5 attempts, of 2 problems, have no verdict" in count
    assert reason == "math500: 3 times: a problem has no answer"


def test_gold_is_checked_without_a_model(
    tmp_path: Path,
    tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "open_parts", None)  # it would fail
    config = tiny_config(tokenizer, suites=("math500", "minerva"), check_gold=True)
    assert evaluate_run(config, tmp_path / "nowhere") is None
    assert "4 of     4 as expected" in capsys.readouterr().out
    assert not (tmp_path / "nowhere").exists()


def test_gold_of_own_problems_has_their_solutions_and_lines(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_or_skip()
    stdin = {"type": "stdin", "cases": [{"input": "", "output": "2"}]}
    rows = [
        {"question": "1+1?", "answer": "2", "solution": "It is \\boxed{2}."},
        {"question": "1+2?", "answer": "3", "solution": "It is \\boxed{4}."},
        {"question": "2+2?", "answer": "4", "solution": "It is 4, without a box."},
        {"question": "Print 2.", "tests": stdin, "solution": "print(2)"},
        {"question": "Write 2.", "tests": stdin, "solution": "print(3)"},
    ]
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tiny_config(tokenizer, check_gold=True)
    data = dataclasses.replace(config.data, eval=str(own), eval_problems=5)
    verifier = dataclasses.replace(config.verifier, kind="auto", workers=1)
    config = dataclasses.replace(config, data=data, verifier=verifier)
    assert evaluate_run(config, tmp_path / "nowhere") is None
    printed = capsys.readouterr().out
    assert "answer        3 of     3 as expected" in printed
    assert "solution      2 of     4 as expected" in printed
    assert [line.rpartition(" at ")[2] for line in printed.splitlines() if " at " in line] == [
        f"{own}:2",
        f"{own}:5",
    ]


def test_what_is_not_there_is_named_before_anything_is_read(
    run: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_suites", None)  # it would fail
    suites = ("math500", "debugbench")
    config = tiny_config(tokenizer, suites=suites)

    def with_source(source: str) -> Config:
        model = dataclasses.replace(config.model, source=source)
        return dataclasses.replace(config, model=model)

    (run / "evaluations" / "old").mkdir(parents=True)
    (run / "evaluations" / "old" / "results.json").touch()
    cases = (
        (tiny_config(tokenizer, suites=suites, data_dir="nowhere"), run, "latest", "a directory"),
        (tiny_config(tokenizer, suites=(*suites, "mbbp")), run, "latest", "got 'mbbp'"),
        (tiny_config(tokenizer, suites=suites, name="old"), run, "latest", "results already"),
        (config, run, "7", "--step: got '7'"),
        (config, tmp_path, "latest", "is not a run directory"),
        (with_source("/nowhere"), tmp_path, "latest", "got '/nowhere'"),
        (with_source(str(tmp_path)), tmp_path, "latest", "has no config.json"),
    )
    for wrong, workdir, step, message in cases:
        with pytest.raises(CipoError, match=message):
            evaluate_run(wrong, workdir, step)
    no_weights = tmp_path / "no_weights"
    no_weights.mkdir()
    (no_weights / "config.json").write_text("{}")
    with pytest.raises(CipoError, match="wanted model.safetensors or .*found neither"):
        evaluate_run(with_source(str(no_weights)), tmp_path)


def test_bad_data_is_named_before_the_model_is_touched(
    run: Path,
    tmp_path: Path,
    tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "open_parts", None)
    data = tmp_path / "data"
    data.mkdir()
    row = {"unique_id": "a", "problem": "word " * 700, "answer": "np.arcsin(10/13)"}
    (data / "math500.jsonl").write_text(json.dumps(row) + "\n")
    config = tiny_config(tokenizer, suites=("math500",), data_dir=str(data))
    with pytest.raises(CipoError, match=r"math500\.jsonl:1: problem 'a': .*max_prompt_tokens"):
        evaluate_run(config, run)
    assert "math500.jsonl:1: answer of 'a'" in capsys.readouterr().out


def test_a_directory_that_is_no_run_and_another_model_are_refused(
    tokenizer: Path, tmp_path: Path
) -> None:
    config = tiny_config(tokenizer)
    with pytest.raises(CipoError, match="is not a run directory"):
        evaluate_run(config, tmp_path)
    claim_workdir(tmp_path, config, provenance(config, config, set()))
    with pytest.raises(CipoError, match="holds no finished checkpoint"):
        evaluate_run(config, tmp_path)
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, mlp_dim=96))
    with pytest.raises(CipoError, match=r"config\.model\.mlp_dim: 48 there, 96 here"):
        evaluate_run(other, tmp_path)
