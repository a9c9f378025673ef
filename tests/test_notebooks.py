"""The notebooks run from top to bottom, and are kept without outputs."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from places import NO_REAL_MODEL, REAL_MODEL, ROOT
from tiny_hub import save_chat_model

nbformat = pytest.importorskip("nbformat", reason="install the notebooks extra")
nbclient = pytest.importorskip("nbclient", reason="install the notebooks extra")

REAL = "real_model"  # the notebook that needs a pretrained model
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Enough to go through every cell.
SHORT = {
    "num_steps": 2,
    "cold_start.max_steps": 4,
    "cold_start.check_every": 4,
    "cold_start.check_problems": 8,
    "rollout.problems_per_step": 8,
    "data.eval_problems": 16,
    "eval.every": 2,
}

SHORT_REAL = SHORT | {
    "num_steps": 1,
    "cold_start.max_steps": 2,
    "cold_start.check_every": 2,
    "cold_start.check_problems": 1,
    "rollout.problems_per_step": 2,
    "rollout.group_size": 2,
    "correction.group_size": 2,
    "correction.cut_anchors": True,
    "data.eval_problems": 1,
    "eval.samples": 1,
    "eval.pass_at": "(1,)",
}
# A tokenizer of a few hundred tokens writes long prompts and solutions.
LONG_TEXTS = {
    "data.max_prompt_tokens": 400,
    "data.max_attempt_tokens": 300,
    "data.max_completion_tokens": 300,
}


def code_cells(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {
        "evidence",
        "own_task",
        "quickstart",
        "reading_a_run",
        REAL,
    }


def test_they_begin_with_the_same_installation() -> None:
    (first,) = {code_cells(path)[0] for path in NOTEBOOKS}
    assert '"google.colab" in sys.modules' in first
    exec(compile(first.partition("if ")[0], "cell", "exec"), {})  # what runs everywhere


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_stripped(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


def execute(
    path: Path,
    workdir: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    seconds: int = 280,
) -> None:
    monkeypatch.setenv("CIPO_NOTEBOOK_WORKDIR", str(workdir))
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    monkeypatch.setenv("CIPO_NOTEBOOK_FLAGS", " ".join(flags))
    # One device, as a user's machine has it, not the suite's eight.
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("count=8", "count=1"))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=seconds, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()


# The quickstart trains two runs, each as long as another notebook's one.
RUN_HERE = [
    pytest.param(p, marks=[pytest.mark.long] if p.stem == "quickstart" else [], id=p.stem)
    for p in NOTEBOOKS
    if p.stem != REAL
]


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN_HERE)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(path, tmp_path / "run", SHORT, monkeypatch)


@pytest.mark.slow
def test_the_one_on_a_real_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny model that stands in for it."""
    save_chat_model(tmp_path / "model", max_positions=2048)
    monkeypatch.setenv("CIPO_NOTEBOOK_MODEL", str(tmp_path / "model"))
    path = ROOT / "notebooks" / f"{REAL}.ipynb"
    execute(path, tmp_path / "run", SHORT_REAL | LONG_TEXTS, monkeypatch)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_it_runs_on_the_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (REAL_MODEL / "config.json").is_file():
        pytest.skip(NO_REAL_MODEL)
    monkeypatch.setenv("CIPO_NOTEBOOK_MODEL", str(REAL_MODEL))
    monkeypatch.setenv("XLA_FLAGS", "")  # it computes more than it compiles
    path = ROOT / "notebooks" / f"{REAL}.ipynb"
    execute(path, tmp_path / "run", SHORT_REAL, monkeypatch, seconds=560)
    shutil.rmtree(tmp_path / "run")  # some gigabytes
