"""Model sources: a directory, or a hub id and errors that name the remedy."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from cipo_jax.policy.huggingface.hub import is_hub_id, local_model, model_directory
from cipo_jax.types import CipoError


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_directory.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def put_model(directory: Path) -> None:
    """What makes a directory one of a model."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")


def test_a_directory_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("Qwen/Qwen3-4B") and not is_hub_id(str(tmp_path)) and not is_hub_id("nowhere")
    put_model(Path("Qwen/Qwen3-4B"))
    assert model_directory("Qwen/Qwen3-4B") == Path("Qwen/Qwen3-4B")
    assert not is_hub_id("Qwen/Qwen3-4B")


def test_a_directory_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CipoError, match=f"model.source: '{tmp_path}' has no config.json; wanted"):
        model_directory(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model.source": {"value": ""}}')
    with pytest.raises(CipoError, match="is the directory of a run, wanted a model; --mode=export"):
        model_directory(str(tmp_path))
    put_model(tmp_path)
    assert model_directory(str(tmp_path)) == tmp_path


def test_a_hub_id_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    put_model(tmp_path)

    def download(repository: str, **how: object) -> str:
        calls.append((repository, how))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert model_directory("Qwen/Qwen3-4B@v1") == model_directory("Qwen/Qwen3-4B@v1") == tmp_path
    ((repository, how),) = calls
    assert (repository, how["revision"]) == ("Qwen/Qwen3-4B", "v1")
    kept = list(
        huggingface_hub.utils.filter_repo_objects(
            ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "merges.txt"]
            + ["tokenizer.model", "chat_template.jinja", "pytorch_model.bin", "README.md"]
            + ["consolidated.safetensors", "original/params.json"],
            allow_patterns=how["allow_patterns"],
            ignore_patterns=how["ignore_patterns"],
        )
    )
    assert len(kept) == 5 and "pytorch_model.bin" not in kept
    model_directory("Qwen/Qwen3-4B")
    assert calls[-1][1]["revision"] is None


def test_what_is_here_is_found_without_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert local_model(str(tmp_path)) == tmp_path
    assert local_model("no/such/place") is None and local_model("some/model") is None
    snapshot = cache / "models--some--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (cache / "models--some--model" / "refs").mkdir()
    (cache / "models--some--model" / "refs" / "main").write_text("0" * 40)
    found = local_model("some/model")
    assert found and found.samefile(snapshot)
    assert local_model("some/model@v9") is None


def refusal(kind: type[Exception]) -> Exception:
    return kind.__new__(kind, "says the hub")  # without the response that it takes


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(errors.GatedRepoError), "accept its terms on https://huggingface.co/some/m"),
        (refusal(errors.RepositoryNotFoundError), "does not exist, or is private.*HF_TOKEN"),
        (refusal(errors.RevisionNotFoundError), "no revision 'v9'"),
        (refusal(errors.HfHubHTTPError), "could not be downloaded: HfHubHTTPError"),
        (OSError(28, "No space left on device"), "could not be downloaded: .*No space left"),
        (errors.LocalEntryNotFoundError("no connection"), "not in the cache .*no connection"),
    ],
)
def test_failures_name_the_source_and_the_remedy(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CipoError, match=rf"config\.model\.source: 'some/model@v9'.*{message}"):
        model_directory("some/model@v9")


def test_offline() -> None:
    # conftest.py has set HF_HUB_OFFLINE before the hub's library was imported.
    with pytest.raises(CipoError, match="not in the cache .*HF_HUB_OFFLINE is set"):
        model_directory("some/model")


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "/no/such/directory", "some model/x"])
def test_what_is_neither_is_refused(source: str) -> None:
    with pytest.raises(CipoError, match=r"config\.model\.source: got .*an existing directory"):
        model_directory(source)


DOWNLOAD = """
import json, sys, time
from pathlib import Path
import huggingface_hub
from cipo_jax.policy.huggingface.hub import local_model, model_directory

def download(*_, **__):
    began = time.monotonic()
    time.sleep(0.5)
    print(json.dumps([began, time.monotonic()]))
    return sys.argv[1]

huggingface_hub.snapshot_download = download
model_directory("some/shared-model")
"""


def test_processes_of_a_host_download_one_after_the_other(tmp_path: Path) -> None:
    put_model(tmp_path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DOWNLOAD, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        for _ in range(2)
    ]
    spans = sorted(json.loads(p.communicate(timeout=60)[0]) for p in processes)
    assert spans[0][1] <= spans[1][0]  # the clock is the machine's
