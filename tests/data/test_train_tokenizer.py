"""A sentencepiece model trained on a text."""

import subprocess
import sys
from pathlib import Path

import pytest

from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.data.train_tokenizer import train_sentencepiece
from cipo_jax.types import CipoError

TEXT = "Natalia sold 48 clips in April, and half as many clips in May.\n" * 30


def test_a_trained_tokenizer_writes_any_text(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(TEXT)
    train_sentencepiece(tmp_path / "corpus.txt", tmp_path / "own.model", 340)
    tokenizer = load_tokenizer(str(tmp_path / "own.model"))
    for text in (TEXT, "def f(x):\n    return  x\n\n\té 字", "  two spaces "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size <= 340
    assert len(tokenizer.encode(" clips")) < len(tokenizer.encode(" spilc"))
    assert len(tokenizer.encode("4848")) == 4  # digit by digit
    assert len({tokenizer.pad_id, tokenizer.eos_id, *tokenizer.frame(chat=False)[0]}) == 3


@pytest.mark.parametrize(
    ("content", "model", "size", "message"),
    [
        (None, "own.model", 340, "corpus.txt: cannot be read"),
        (b" \n\n", "own.model", 340, "the file is empty"),
        (b"\xff\xfe", "own.model", 340, "not UTF-8 .byte 0"),
        (TEXT.encode(), "own.bin", 340, "a file name ending in .model"),
        (TEXT.encode(), "gone/own.model", 340, "in a directory that exists"),
        (TEXT.encode(), "own.model", 50, "vocab_size: got 50"),
    ],
)
def test_wrong_input(
    tmp_path: Path, content: bytes | None, model: str, size: int, message: str
) -> None:
    if content is not None:
        (tmp_path / "corpus.txt").write_bytes(content)
    with pytest.raises(CipoError, match=message):
        train_sentencepiece(tmp_path / "corpus.txt", tmp_path / model, size)
    assert not (tmp_path / model).exists()


def test_a_model_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(TEXT)
    (tmp_path / "own.model").mkdir()
    with pytest.raises(
        CipoError, match="model_file: got '.*own.model', wanted a file name ending in"
    ):
        train_sentencepiece(tmp_path / "corpus.txt", tmp_path / "own.model", 340)
    (tmp_path / "link.model").symlink_to(tmp_path / "gone" / "own.model")
    with pytest.raises(CipoError, match="link.model: cannot be written: No such file"):
        train_sentencepiece(tmp_path / "corpus.txt", tmp_path / "link.model", 340)


def test_the_command_trains_or_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(TEXT)
    command = [sys.executable, "-m", "cipo_jax.data.train_tokenizer", "corpus.txt"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert run("own.model", "340").returncode == 0
    assert load_tokenizer(str(tmp_path / "own.model")).vocab_size <= 340
    refused = run("own.bin", "340")
    assert refused.returncode == 1 and "error: model_file: got 'own.bin'" in refused.stderr
    for arguments in (["own.model"], ["own.model", "many"]):
        assert "usage: python -m cipo_jax.data.train_tokenizer" in run(*arguments).stderr
