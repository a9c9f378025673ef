"""Trains a sentencepiece tokenizer, for a small model that is trained from scratch.

    python -m cipo_jax.data.train_tokenizer corpus.txt tokenizer.model 2000

learns 2,000 pieces; `--config.data.tokenizer=tokenizer.model` then uses them. This file decides how
such a vocabulary is made: one piece per digit, white space kept as it is, and bytes for characters
that the corpus does not have, so that any text can be written.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from cipo_jax.types import CipoError


def train_sentencepiece(text_file: str | Path, model_file: str | Path, vocab_size: int) -> None:
    """Learns a BPE vocabulary from a text file and writes it as a sentencepiece model.

    Args:
      text_file: UTF-8 text, in lines of up to a few thousand characters.
      model_file: `*.model` file to write.
      vocab_size: pieces, at least 256 bytes, 4 control pieces and the characters of the text; the
        model has fewer if the text is too short for them.

    Raises:
      CipoError: the text cannot be read or is empty, the model cannot be written there, or the
        vocabulary is too small.
    """
    import sentencepiece  # not needed for the embedded task

    model_file = Path(model_file)
    if model_file.suffix != ".model" or not model_file.parent.is_dir() or model_file.is_dir():
        wanted = "a file name ending in .model in a directory that exists"
        raise CipoError(f"model_file: got {str(model_file)!r}, wanted {wanted}")
    try:
        lines = Path(text_file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CipoError(f"{text_file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CipoError(f"{text_file}: not UTF-8 (byte {error.start})") from error
    if not any(line.strip() for line in lines):
        raise CipoError(f"{text_file}: the file is empty, wanted text")
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=written,
            vocab_size=vocab_size,
            model_type="bpe",
            byte_fallback=True,
            split_digits=True,
            hard_vocab_limit=False,
            character_coverage=1.0,
            # Text comes back as it was: indentation and line feeds matter in programs.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            user_defined_symbols=["\n"],
            pad_id=3,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise CipoError(f"vocab_size: got {vocab_size}, cannot be trained: {error}") from error
    try:
        model_file.write_bytes(written.getvalue())
    except OSError as error:
        raise CipoError(f"{model_file}: cannot be written: {error.strerror}") from error


def main(arguments: Sequence[str]) -> None:
    """Trains on (text file, model file, number of pieces); ends the process on mistakes."""
    try:
        text_file, model_file, vocab_size = arguments
        train_sentencepiece(text_file, model_file, int(vocab_size))
    except CipoError as error:
        sys.exit(f"error: {error}")
    except ValueError:
        sys.exit("usage: python -m cipo_jax.data.train_tokenizer corpus.txt tokenizer.model 2000")


if __name__ == "__main__":
    main(sys.argv[1:])
