"""Where a model directory comes from: the disk, or the Hugging Face hub.

Decides what is downloaded and what an error says. What the files mean is decided in `config` and
`load`.
"""

import functools
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cipo_jax.policy.huggingface.json_files import read_json
from cipo_jax.types import CipoError

_WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model"]
# Second copies of the weights in other layouts.
_UNWANTED = ["original/*", "consolidated*", "onnx/*"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


class HubUnreachable(CipoError):
    """The hub could not be asked, and its cache does not have the model."""


def is_hub_id(source: str) -> bool:
    """Whether `model_directory` would ask the hub, or its cache, for `source`."""
    return not Path(source).is_dir() and _HUB_ID.fullmatch(source) is not None


@functools.cache
def model_directory(source: str) -> Path:
    """The directory of a model in Hugging Face format.

    Args:
      source: an existing directory, or a hub id such as "Qwen/Qwen3-4B", with "@<revision>" behind
        it to fix one. Files of a hub id that are not in huggingface_hub's cache are downloaded
        there, with a progress bar; of several processes on a host, the others wait for one.

    Raises:
      HubUnreachable: the hub cannot be reached.
      CipoError: neither; or the hub refuses or does not have it; or what is there is not in this
        format.
    """
    directory = Path(source) if Path(source).is_dir() else _download(source, None)
    _require_model(source, directory)
    return directory


def local_model(source: str) -> Path | None:
    """As `model_directory`, but nobody is asked: None for what is neither here nor in the cache. An
    interrupted download may have left a part of a model there."""
    if Path(source).is_dir():
        return Path(source)
    if not _HUB_ID.fullmatch(source):
        return None
    import huggingface_hub  # heavy, and not needed for directories

    repository, _, revision = source.partition("@")
    try:
        found = huggingface_hub.snapshot_download(
            repository, revision=revision or None, local_files_only=True
        )
    except (OSError, ValueError):  # as in `_download`
        return None
    return Path(found)


def download_model(source: str, directory: Path) -> None:
    """Writes the files of a hub id into an existing directory. What an interrupted download has
    written there is not downloaded again.

    Raises:
      CipoError: as `model_directory`.
    """
    if any(directory.iterdir()):
        # Without the hub, huggingface_hub takes whatever is in a directory for the whole model.
        with tempfile.TemporaryDirectory() as empty:
            _download(source, Path(empty), ["config.json"])
    _download(source, directory)


def holds_run(directory: Path) -> bool:
    """Whether the config.json of a directory is that of a run, not of a model.

    Raises:
      CipoError: it cannot be read.
    """
    return "model.source" in read_json(directory / "config.json")  # a key of this program's configs


def _require_model(source: str, directory: Path) -> None:
    """Refuses a directory without a model's config.json. Plans need no weights: these are looked
    for where they are read (`load`)."""
    if not (directory / "config.json").is_file():
        where = "" if Path(source) == directory else f" (in {directory})"
        raise CipoError(
            f"config.model.source: {source!r} has no config.json{where}; wanted a model in Hugging "
            "Face format: config.json, model.safetensors or model.safetensors.index.json with "
            "its parts, and for data.tokenizer='' tokenizer.json or the like"
        )
    if holds_run(directory):
        raise CipoError(
            f"config.model.source: {source!r} is the directory of a run, wanted a model; "
            "--mode=export writes a run's parameters as one, and --config.init_from takes a run"
        )


def _download(source: str, into: Path | None, wanted: Sequence[str] = _WANTED) -> Path:
    """The directory of a hub id's files: `into`, or one in the cache. Raises as
    `model_directory`."""
    if not _HUB_ID.fullmatch(source):
        raise CipoError(
            f"config.model.source: got {source!r}, wanted an existing directory in Hugging Face "
            "format, or a hub id such as 'Qwen/Qwen3-4B'"
        )
    # Heavy, and not needed for directories.
    import huggingface_hub
    from filelock import FileLock
    from huggingface_hub import constants, errors

    repository, _, revision = source.partition("@")
    # One lock per host, and none in the cache, which may be read-only or shared between hosts.
    lock = f"cipo-jax-{os.getuid()}-{repository.replace('/', '--')}.lock"
    try:
        # A process that waited finds the files in the cache.
        with FileLock(Path(tempfile.gettempdir(), lock)):
            directory = huggingface_hub.snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=list(wanted),
                ignore_patterns=_UNWANTED,
                local_dir=into,
            )
            return Path(directory)
    except (OSError, ValueError) as error:  # the hub's errors, and a full disk
        reason = str(error).strip().split("\n")[0]
        kind: type[CipoError] = CipoError
        if isinstance(error, errors.GatedRepoError):
            why = (
                f"it needs permission: accept its terms on https://huggingface.co/{repository} and "
                f"log in with `hf auth login` or HF_TOKEN ({reason})"
            )
        elif isinstance(error, errors.RevisionNotFoundError):
            why = f"it has no revision {revision!r} ({reason})"
        elif isinstance(error, errors.RepositoryNotFoundError):
            why = (
                "it does not exist, or is private: check the name, or log in with `hf auth login` "
                f"or HF_TOKEN ({reason})"
            )
        elif isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            kind, offline = HubUnreachable, constants.HF_HUB_OFFLINE
            cause = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached"
            why = f"it is not in the cache {constants.HF_HUB_CACHE}, and {cause} ({reason})"
        else:
            why = f"it could not be downloaded: {type(error).__name__}: {error}"
        raise kind(
            f"config.model.source: {source!r} is no directory here, and as a hub id {why}"
        ) from error
