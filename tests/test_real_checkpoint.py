"""configs/math.py on a model of the hub or a directory, and problems from a file."""

import json
from pathlib import Path

import pytest
from places import ROOT
from tiny_hub import hub_of, save_chat_model

from cipo_jax.main import run
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.types import CipoError

CONFIG = ROOT / "configs" / "math.py"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny-qwen3"
    save_chat_model(directory, max_positions=1024)
    return directory


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "problems.jsonl"
    rows = [
        {
            "id": f"shop-{i}",
            "problem": f"A box holds {i} pens. How many pens are in {i + 2} boxes?",
            "answer": str(i * (i + 2)),
            "level": 1,
        }
        for i in range(3, 15)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def math_run(checkpoint: Path | None, problems: Path, workdir: Path, *overrides: str) -> Path:
    """`checkpoint`: None leaves it to the config, which names one of the hub."""
    sizes = {
        "mesh.data": 2,
        "mesh.fsdp": 2,
        "mesh.tensor": 2,
        "data.eval_problems": 4,
        "data.max_prompt_tokens": 200,
        "data.max_attempt_tokens": 40,
        "data.max_completion_tokens": 24,
        "sampling.slots": 16,
        "sampling.chunk": 8,
        "rollout.problems_per_step": 4,
        "rollout.group_size": 2,
        "correction.group_size": 2,
        "correction.cut_anchors": True,  # a random policy never ends its turn
        "batch.row_tokens": 700,
        "batch.microbatch_rows": 4,
        "eval.samples": 2,
        "eval.pass_at": (1, 2),
        "eval.every": 0,
        "checkpoint.every": 1,
        "verifier.workers": 1,
        "num_steps": 3,
    }
    run(
        [
            "cipo_jax",
            f"--config={CONFIG}",
            f"--workdir={workdir}",
            *([f"--config.model.source={checkpoint}"] if checkpoint else []),
            f"--config.data.train={problems}",
            f"--config.data.eval={problems}",
            "--config.log.tensorboard=False",
            *(f"--config.{key}={value}" for key, value in sizes.items()),
            *overrides,
        ]
    )
    return workdir


@pytest.mark.slow
def test_three_steps_of_both_streams_and_resume(
    checkpoint: Path, problems: Path, tmp_path: Path
) -> None:
    with hub_of(checkpoint):
        whole = math_run(None, problems, tmp_path / "whole")
    steps = [r for r in read_metrics(whole) if r["phase"] == "train"]
    assert [r["step"] for r in steps] == [1, 2, 3]
    assert all(r["anchor/count"] == 2 for r in steps)
    streams = {a["stream"] for a in read_attempts(whole, "train")}
    assert streams == {"base", "correction"}

    # From the hub's cache or from a directory, the model is the same.
    parts = math_run(checkpoint, problems, tmp_path / "parts", "--config.num_steps=1")
    math_run(checkpoint, problems, parts)
    assert list(read_attempts(parts, "train")) == list(read_attempts(whole, "train"))


def test_the_file_is_named_when_a_line_is_broken(
    checkpoint: Path, problems: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(problems.read_text() + '{"problem": "no answer here"}\n')
    with pytest.raises(CipoError, match=r"broken\.jsonl:13"):
        math_run(checkpoint, broken, tmp_path / "run")


def test_a_question_over_the_budget_is_refused_by_name(
    checkpoint: Path, problems: Path, tmp_path: Path
) -> None:
    with pytest.raises(CipoError, match=r"shop-3.*max_prompt_tokens = 30"):
        math_run(checkpoint, problems, tmp_path / "run", "--config.data.max_prompt_tokens=30")


def test_a_missing_checkpoint_says_how_to_get_one(problems: Path, tmp_path: Path) -> None:
    with pytest.raises(CipoError, match=r"model\.source.*nowhere"):
        math_run(tmp_path / "nowhere", problems, tmp_path / "run")
