"""What an installation brings, and that it works away from the checkout."""

import email
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from places import ROOT

import cipo_jax


def python(*arguments: str, **kwargs: object) -> str:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, **kwargs
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_command_answers_at_once() -> None:
    """Measured in processor time, which a busy machine does not change."""
    script = (
        "import sys, time\n"
        "from cipo_jax.main import main\n"
        "main(['cipo_jax', '--help'])\n"
        "heavy = {'jax', 'tensorflow', 'transformers', 'torch'} & set(sys.modules)\n"
        "print(sorted(heavy), time.process_time())\n"
    )
    heavy, seconds = python("-c", script).splitlines()[-1].rsplit(maxsplit=1)
    assert heavy == "[]" and float(seconds) < 2


def test_the_package_is_the_command() -> None:
    wanted = python("-m", "cipo_jax.main", "--help")
    assert python("-m", "cipo_jax", "--help") == wanted and "Modes:" in wanted


@pytest.mark.slow
def test_no_module_imports_tensorflow_or_torch() -> None:
    """TensorBoard, TF-only data sets and the oracles of tests do, when they are used."""
    script = (
        "import importlib, pkgutil, sys, cipo_jax\n"
        "for module in pkgutil.walk_packages(cipo_jax.__path__, 'cipo_jax.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(sorted({'tensorflow', 'torch', 'datasets'} & set(sys.modules)))\n"
    )
    assert python("-c", script).strip() == "[]"


def check_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        told = email.message_from_bytes(archive.read(name))
        assert any(n.endswith("LICENSE") for n in archive.namelist())
        assert all(n.startswith("cipo_jax") for n in archive.namelist())
        assert "cipo_jax/py.typed" in archive.namelist()
    assert told["Version"] == cipo_jax.__version__
    assert "Apache-2.0" in (told["License-Expression"], told["License"])
    assert {"tpu", "cuda", "test", "notebooks", "wandb"} <= set(
        told.get_all("Provides-Extra") or ()
    )
    needed = [r for r in told.get_all("Requires-Dist") or () if "extra ==" not in r]
    assert any(r.startswith("jax") for r in needed)
    assert not any(r.startswith(("torch", "pytest", "ruff", "datasets")) for r in needed)


def test_commits_are_checked_by_what_the_tests_install() -> None:
    """So that a hook and `make style` are of one version and say the same."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    extra = (ROOT / "setup.py").read_text().partition('"test": [')[2].partition("]")[0]
    for hook in hooks:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert re.search(rf'"{tool}(-\w+)?>=', extra), f"{tool} is not of the extra test"
    styled = re.search(r"(?m)^style:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
    assert styled is not None
    for command in styled[1].splitlines():
        words = command.replace("$(BIN)/", "").split()
        known = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks]
        named = [word for word in words if word not in ("--check", ".")]
        assert any(entry.split()[: len(named)] == named for entry in known), command


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == cipo_jax.__version__
    assert citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    paper = citation["preferred-citation"]
    assert "2605.14539" in paper["url"] and "2605.14539" in paper["doi"]
    assert "Correction-Oriented Policy Optimization" in paper["title"]


@pytest.mark.slow
def test_a_wheel_works_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """Built, installed and run without the checkout; dependencies are those of this environment."""
    source, wheels, empty = tmp_path / "source", tmp_path / "wheels", tmp_path / "empty"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "cipo_jax", source / "cipo_jax", ignore=shutil.ignore_patterns("__py*"))
    pip = ("-m", "pip", "--disable-pip-version-check")
    python(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source))
    (wheel,) = wheels.glob("cipo_jax-*.whl")
    check_metadata(wheel)
    shutil.rmtree(source)

    environment = tmp_path / "environment"
    venv.create(environment)
    own = str(environment / "bin" / "python")
    python(*pip, "--python", own, "install", "--no-deps", "--no-index", str(wheel))
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # A plain path: the editable installation's own .pth file there is not read.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    empty.mkdir()
    (empty / "mine.py").write_text(
        "from cipo_jax.config import default_config\n"
        "def get_config():\n"
        "    c = default_config()\n"
        "    c.rollout.problems_per_step = 12\n"
        "    return c\n"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    clean |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}

    def installed(*arguments: str) -> str:
        result = subprocess.run(
            [own, *arguments], capture_output=True, text=True, cwd=empty, env=clean
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    where = Path(installed("-c", "import cipo_jax; print(cipo_jax.__file__)").strip())
    assert where.is_relative_to(site_packages)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    explained = installed("-m", "cipo_jax.main", "--mode=explain", "--config=mine.py")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 5, "of a processor, so on a busy machine as well"
    assert "12 problems x 8 attempts + 12 anchors x 8 corrections" in explained
    short = subprocess.run(
        [environment / "bin" / "cipo-jax", "--mode=verify", "--config=mine.py"],
        capture_output=True,
        text=True,
        cwd=empty,
        env=clean,
    )
    assert short.returncode == 2 and "--input is missing" in short.stderr
    # Workers are modules of the package too.
    answers = empty / "answers.jsonl"
    answers.write_text(json.dumps({"answer": "2", "text": "\\boxed{2}"}) + "\n")
    graded = installed(
        "-m", "cipo_jax.main", "--mode=verify", "--config=mine.py", f"--input={answers}"
    )
    assert "correct" in graded
    # The report's templates are no modules.
    report = "import pathlib, cipo_jax.report.page as p; print(p.write_report(pathlib.Path(), 5))"
    page = empty / installed("-c", report).strip()
    assert "<h1>empty</h1>" in page.read_text()
