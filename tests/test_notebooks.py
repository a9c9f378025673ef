"""The notebooks run from top to bottom, and are kept without outputs."""

import os
from pathlib import Path

import pytest
from places import ROOT

nbformat = pytest.importorskip("nbformat", reason="install the notebooks extra")
nbclient = pytest.importorskip("nbclient", reason="install the notebooks extra")

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


def code_cells(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {
        "evidence",
        "own_task",
        "quickstart",
        "reading_a_run",
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


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIPO_NOTEBOOK_WORKDIR", str(tmp_path / "run"))
    flags = [f"--config.{key}={value}" for key, value in SHORT.items()]
    monkeypatch.setenv("CIPO_NOTEBOOK_FLAGS", " ".join(flags))
    # One device, as a user's machine has it, not the suite's eight.
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("count=8", "count=1"))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=280, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
