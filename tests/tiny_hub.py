"""A hub that has one model under every name: a random Qwen3 of two layers with a chat tokenizer."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tiny_hf import make_tokenizer
from tiny_models import save_tiny_model_without_torch

from cipo_jax.policy.huggingface.hub import model_directory


def save_chat_model(directory: Path, max_positions: int) -> None:
    """Writes model and tokenizer."""
    with tempfile.TemporaryDirectory() as vocabulary:
        size = make_tokenizer(Path(vocabulary))
        # More rows than tokens, as usual.
        shape = {"num_layers": 2, "vocab_size": -(-size // 8) * 8, "max_positions": max_positions}
        save_tiny_model_without_torch(directory, **shape)
        shutil.copytree(vocabulary, directory, dirs_exist_ok=True)


@contextlib.contextmanager
def hub_of(directory: Path) -> Iterator[None]:
    """Inside, whatever is asked of the hub is the model in `directory`."""

    def download(repository: str, local_dir: Path | None = None, **_: Any) -> str:
        if local_dir is None:
            return str(directory)
        shutil.copytree(directory, local_dir, dirs_exist_ok=True)
        return str(local_dir)

    model_directory.cache_clear()
    with mock.patch("huggingface_hub.snapshot_download", download):
        yield
    model_directory.cache_clear()
