"""Where a model directory comes from: the disk, or the Hugging Face hub.

Decides what is downloaded and what an error says. What the files mean is decided in `config` and
`load`.
"""

import functools
import os
import re
import tempfile
from pathlib import Path

from cipo_jax.types import CipoError

_WANTED = ("*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model")
# Second copies of the weights in other layouts.
_UNWANTED = ("original/*", "consolidated*", "onnx/*")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@functools.cache
def model_directory(source: str) -> Path:
    """The directory of a model in Hugging Face format.

    Args:
      source: an existing directory, or a hub id such as "Qwen/Qwen3-4B", with "@<revision>" behind
        it to fix one. Of a hub id, the files are downloaded into huggingface_hub's cache (with its
        progress bar) unless they are there; with several processes on a host, by one of them while
        the others wait.

    Raises:
      CipoError: neither; or the hub refuses, does not have it, or cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
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
    where = f"config.model.source: {source!r} is no directory here, and as a hub id"
    try:
        # Who waited finds the files in the cache.
        with FileLock(Path(tempfile.gettempdir(), lock)):
            return Path(
                huggingface_hub.snapshot_download(
                    repository,
                    revision=revision or None,
                    allow_patterns=list(_WANTED),
                    ignore_patterns=list(_UNWANTED),
                )
            )
    except errors.GatedRepoError as error:
        raise CipoError(
            f"{where} it needs permission: accept its terms on https://huggingface.co/{repository} "
            f"and log in with `hf auth login` or HF_TOKEN ({_first_line(error)})"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CipoError(
            f"{where} it has no revision {revision!r} ({_first_line(error)})"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CipoError(
            f"{where} it does not exist, or is private: check the name, or log in with "
            f"`hf auth login` or HF_TOKEN ({_first_line(error)})"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        raise CipoError(
            f"{where} it is not in the cache {constants.HF_HUB_CACHE}, and {why} "
            f"({_first_line(error)})"
        ) from error
    except (OSError, ValueError) as error:  # the rest of the hub's errors, and a full disk
        raise CipoError(
            f"{where} it could not be downloaded: {type(error).__name__}: {error}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
