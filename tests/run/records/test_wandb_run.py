"""Numbers at Weights & Biases: through the metric writer, into one run, and only when asked for.

The package is played by a small module; with the package itself, offline, it is tried where it is
installed.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cipo_jax.config.keys import Log
from cipo_jax.run.records.metrics_file import MetricWriter
from cipo_jax.run.records.record import check_records
from cipo_jax.run.records.wandb_run import ID_FILE
from cipo_jax.types import CipoError


class Package(ModuleType):
    """As much of wandb as is used; what it was told is in `told`."""

    def __init__(self, refuses: str = "") -> None:
        super().__init__("wandb")
        self.errors = SimpleNamespace(Error=type("Error", (Exception,), {}))
        self.refuses = refuses
        self.told: list[tuple[str, Any]] = []

    def init(self, **settings: Any) -> "Package":
        if self.refuses:
            raise self.errors.Error(f"{self.refuses}\nand more")
        self.told.append(("init", settings))
        return self

    def define_metric(self, name: str, step_metric: str = "") -> None:
        self.told.append(("define", (name, step_metric)))

    def log(self, values: dict[str, float]) -> None:
        self.told.append(("log", values))

    def finish(self) -> None:
        self.told.append(("finish", None))


def test_a_run_that_is_continued_is_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "demo"
    workdir.mkdir()
    config = {"seed": {"value": 3, "source": "default"}}
    (workdir / "config.json").write_text(json.dumps(config))
    begun: list[dict[str, Any]] = []
    for _ in range(2):
        package = Package()
        monkeypatch.setitem(sys.modules, "wandb", package)
        writer = MetricWriter(workdir, tensorboard=False, wandb="mine")
        writer.write(4, {"loss/total": 0.5}, "train")
        writer.write(4, {"pass@1": 0.25}, "eval")
        writer.close()
        (_, settings), *defined = package.told[:3]
        begun.append(settings)
        assert defined == [("define", ("step", "")), ("define", ("*", "step"))]
        assert package.told[3:] == [
            ("log", {"loss/total": 0.5, "step": 4}),
            ("log", {"eval/pass@1": 0.25, "step": 4}),
            ("finish", None),
        ]
    first, second = begun
    assert first == second
    assert first["id"] == (workdir / ID_FILE).read_text() and len(first["id"]) == 32
    assert first["resume"] == "allow" and first["dir"] == str(workdir)
    assert (first["project"], first["name"], first["config"]) == ("mine", "demo", {"seed": 3})


def test_without_a_project_the_package_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package()
    monkeypatch.setitem(sys.modules, "wandb", package)
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"x": 1.0}, "train")
    writer.close()
    assert not package.told and [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_package_that_is_missing_or_refuses_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    missing = r"log\.wandb: got 'mine'.*pip install 'cipo_jax\[wandb\]'"
    with pytest.raises(CipoError, match=missing):
        MetricWriter(tmp_path / "a", tensorboard=False, wandb="mine")
    with pytest.raises(CipoError, match=missing):  # before anything is written
        check_records(tmp_path / "b", Log(tensorboard=False, wandb="mine"))
    assert not (tmp_path / "b").exists()
    monkeypatch.setitem(sys.modules, "wandb", Package(refuses="No API key configured"))
    with pytest.raises(CipoError, match="No API key configured; log in by .*WANDB_MODE=offline"):
        MetricWriter(tmp_path, tensorboard=False, wandb="mine")


def test_all_charts_are_closed_whatever_one_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package()
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
    writer = MetricWriter(tmp_path, tensorboard=True, wandb="mine")
    writer.write(1, {"x": 1.0}, "train")
    with pytest.raises(ImportError, match="clu"):
        writer.close()
    assert package.told[-1] == ("finish", None)


def test_offline_with_the_package_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    writer = MetricWriter(tmp_path, tensorboard=False, wandb="mine")
    writer.write(1, {"x": 1.0}, "train")
    writer.close()
    identity = (tmp_path / ID_FILE).read_text()
    assert list(tmp_path.glob(f"wandb/offline-run-*/run-{identity}.wandb"))
