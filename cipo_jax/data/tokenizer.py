"""Tokenizers behind one small interface: Hugging Face's, sentencepiece, and the plain ones of
`plain_tokenizers.py`.

`encode` never produces a control token: text that looks like `<|im_end|>` or `</think>` becomes
ordinary characters (`control_tokens.py`), so no text of a model or a question can end a turn or
close a tag. Control tokens enter a prompt only from the chat template (`frame`) and from the
templates of the config (`encode_trusted`).

This file decides what counts as a control token and what stops a completion. It does not decide
what a prompt says or where it is cut (`prompts.py`).
"""

import functools
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from cipo_jax.config.ranges import did_you_mean
from cipo_jax.data.chat_template import ChatTemplate
from cipo_jax.data.control_tokens import encode_with_control, encode_without_control
from cipo_jax.data.plain_tokenizers import ByteTokenizer, CharTokenizer
from cipo_jax.data.tasks.embedded import GENERATED
from cipo_jax.types import CipoError
from cipo_jax.verifiers.thoughts import is_tag

_GENERATION = "generation_config.json"
# One of these holds the vocabulary of any tokenizer of transformers.
_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_TAG = re.compile(r"▁?(<.+>|\[.+\])")  # "▁" is how sentencepiece writes a space


class Tokenizer(Protocol):
    """Text to ids and back. All ids are in [0, vocab_size)."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_id(self) -> int:
        """Ends a demonstration's completion; one of `stop_ids`."""

    @property
    def pad_id(self) -> int:
        """Fills rows; may equal `eos_id`, so validity comes from masks, never from this id."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Each of these ends a sampled completion."""

    @property
    def control(self) -> Mapping[str, int]:
        """{name: id} of the control tokens."""

    def encode_trusted(self, text: str) -> list[int]:
        """Tokens of `text`, with the names of control tokens in it read as these.

        Raises:
          CipoError: the text cannot be written with this vocabulary.
        """

    def encode(self, text: str) -> list[int]:
        """Ordinary tokens of `text`, never a control token.

        Raises:
          CipoError: the text cannot be written with this vocabulary.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Special tokens, the tokenizer's own stop tokens and unknown ids give
        no text. The tags of a thought do: without them nobody could tell a thought from what is
        said. Ordinary tokens that the config makes stop tokens keep their text."""

    def show(self, ids: Iterable[int]) -> str:
        """As `decode`, control tokens written out: for people to read, not to encode again."""

    def frame(self, chat: bool) -> tuple[list[int], list[int]]:
        """The tokens before and after the user's text.

        With `chat`, one user turn and the opening of the assistant's turn as the chat template
        writes them; without, the tokenizer's beginning-of-sequence token if it has one.

        Raises:
          CipoError: `chat` is asked of a tokenizer without a usable chat template.
        """

    def trims(self, chat: bool) -> tuple[bool, bool]:
        """Whether the chat template leaves out whitespace at the beginning and at the end of the
        user's text. Raises as `frame`."""

    def turn_end(self, chat: bool) -> list[int]:
        """The tokens after the policy's text, up to the one that ends it: as the chat template
        writes them, else `eos_id`. Raises as `frame`."""


def holds_tokenizer(directory: Path) -> bool:
    """Whether a directory has a tokenizer's files; none is read."""
    return any((directory / name).is_file() for name in _FILES)


def load_tokenizer(name: str, thinking: str = "") -> Tokenizer:
    """The tokenizer called `name`.

    Args:
      name: that of an embedded task's tokenizer ("char", "char_code", "char_lists",
        "char_words", "char_guess", "char_graphs"), "bytes" (one token per UTF-8 byte, for any
        text), a directory with Hugging Face tokenizer files, or a sentencepiece `*.model` file.
      thinking: "on" or "off" sets the chat template's `enable_thinking` (Qwen3); "" leaves it.

    Raises:
      CipoError: there is no such thing, or it cannot be read.
    """
    path = Path(name)
    if name and path.is_dir():
        return HFTokenizer(path, thinking)
    if thinking:
        raise CipoError(
            f"data.thinking: got {thinking!r}, wanted '': tokenizer {name!r} has no chat template"
        )
    embedded = {task.tokenizer: (task.characters, task.phrases) for task in GENERATED.values()}
    if name in embedded:
        return CharTokenizer(*embedded[name])
    if name == "bytes":
        return ByteTokenizer()
    if path.suffix == ".model":
        return SentencePieceTokenizer(path)
    raise CipoError(
        f"config.data.tokenizer: got {name!r}, wanted {', '.join(map(repr, embedded))}, 'bytes', "
        "an existing directory with Hugging Face tokenizer files, or a sentencepiece *.model file"
        f"{did_you_mean(name, [*embedded, 'bytes'])}"
    )


class HFTokenizer:
    """The tokenizer of a Hugging Face model directory; nothing is downloaded.

    Completions stop at the tokenizer's end-of-sequence token and at those that
    `generation_config.json`, or without it `config.json`, names.

    Raises:
      CipoError: missing or unreadable files, or no end-of-sequence token.
    """

    def __init__(self, directory: str | Path, thinking: str = "") -> None:
        """`thinking`: as in `load_tokenizer`."""
        from transformers import AutoTokenizer  # heavy, and not needed for the embedded task

        self._directory, self._thinking = Path(directory), thinking
        if not self._directory.is_dir():
            raise CipoError(f"config.data.tokenizer: {self._directory} is not a directory")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                str(self._directory), local_files_only=True, split_special_tokens=True
            )
        except Exception as error:  # transformers raises many kinds for broken directories
            if not holds_tokenizer(self._directory):
                raise CipoError(
                    f"config.data.tokenizer: {self._directory} holds no tokenizer; looked for "
                    f"{', '.join(_FILES)}; copy the model's there, or name another directory "
                    "that has one"
                ) from error
            raise CipoError(
                f"config.data.tokenizer: the one in {self._directory} cannot be read: "
                f"{str(error).strip().partition(chr(10))[0]}; restore its files, or name another "
                "directory"
            ) from error
        if self._tokenizer.eos_token_id is None:
            raise CipoError(
                f"config.data.tokenizer: {self._directory} names no end-of-sequence token; "
                "set eos_token in its tokenizer_config.json"
            )
        self.vocab_size = max(self._tokenizer.get_vocab().values()) + 1
        self.eos_id = int(self._tokenizer.eos_token_id)
        pad_id = self._tokenizer.pad_token_id
        self.pad_id = self.eos_id if pad_id is None else int(pad_id)
        self.stop_ids = _stop_ids(self._directory / _GENERATION, self.eos_id, self.vocab_size)
        self._silent = {*self.stop_ids, self.pad_id}
        self._special = {
            i
            for i, token in self._tokenizer.added_tokens_decoder.items()
            if (token.special or i in self._tokenizer.all_special_ids) and not is_tag(token.content)
        }
        self.control = self._control_tokens()
        self._frames: dict[bool, tuple[list[int], list[int]]] = {}

    def encode(self, text: str) -> list[int]:
        return encode_without_control(self._encode, text, self.control)

    def encode_trusted(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False)

    def decode(self, ids: Iterable[int]) -> str:
        return self.show(i for i in ids if i not in self._silent and i not in self._special)

    def show(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], clean_up_tokenization_spaces=False)

    def _control_tokens(self) -> dict[str, int]:
        """Special tokens, stop tokens, and added tokens that a text could imitate.

        transformers keeps only tokens that are marked special out of text; tags such as
        `</think>` often are not. Added whitespace and single characters are ordinary text, and the
        unknown-character token controls nothing.
        """
        added = self._tokenizer.added_tokens_decoder
        unknown = {self._tokenizer.unk_token_id} - self._silent
        return {self._tokenizer.convert_ids_to_tokens(i): i for i in self._silent} | {
            token.content: i
            for i, token in added.items()
            if i not in unknown
            and (token.special or (len(token.content) > 1 and not token.content.isspace()))
        }

    def frame(self, chat: bool) -> tuple[list[int], list[int]]:
        if chat not in self._frames:
            before, after = self._template.around_user() if chat else ("", "")
            frame = self.encode_trusted(before), self.encode_trusted(after)
            self._frames[chat] = frame if chat else (self._start(), [])
        return self._frames[chat]

    def trims(self, chat: bool) -> tuple[bool, bool]:
        return self._template.trims() if chat else (False, False)

    def turn_end(self, chat: bool) -> list[int]:
        after = self.encode_trusted(self._template.after_policy()) if chat else []
        control = set(self.control.values())
        ends = [n for n, i in enumerate(after, 1) if i in control]
        return after[: ends[0]] if ends else [self.eos_id]

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        return ChatTemplate(self._tokenizer, self._directory, self._thinking)

    def _start(self) -> list[int]:
        start = self._tokenizer.bos_token_id
        added = self._tokenizer("").input_ids  # what the tokenizer itself puts around any text
        return [start] if start is not None and added[:1] == [start] else []

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


class SentencePieceTokenizer:
    """A sentencepiece model file, without chat template. A `generation_config.json` beside it
    gives further stop tokens.

    Control pieces and pieces written like a tag (`<start_of_turn>`, `[INST]`) count as control
    tokens. A beginning-of-sequence token starts every prompt if the vocabulary has one: the file
    does not say whether its model expects it.

    Raises:
      CipoError: missing or unreadable file, or no end-of-sequence piece.
    """

    def __init__(self, model_file: str | Path) -> None:
        import sentencepiece  # not needed for the embedded task

        if not Path(model_file).is_file():
            raise CipoError(f"config.data.tokenizer: there is no sentencepiece file {model_file}")
        try:
            model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        except Exception as error:  # RuntimeError or OSError, depending on what is broken
            raise CipoError(
                f"config.data.tokenizer: {model_file} is not a sentencepiece model: {error}"
            ) from error
        if model.eos_id() < 0:
            raise CipoError(f"config.data.tokenizer: {model_file} has no end-of-sequence piece")
        self._model: Any = model
        self._file = Path(model_file)
        self.vocab_size = int(model.vocab_size())
        self.eos_id = int(model.eos_id())
        self.pad_id = self.eos_id if model.pad_id() < 0 else int(model.pad_id())
        self.stop_ids = _stop_ids(self._file.with_name(_GENERATION), self.eos_id, self.vocab_size)
        self.control: dict[str, int] = {}
        self._silent = set(self.stop_ids)
        for i in range(self.vocab_size):
            piece = model.id_to_piece(i)
            if model.is_control(i):
                if not is_tag(piece):
                    self._silent.add(i)
                self.control[piece] = i
            elif _TAG.fullmatch(piece) and not model.is_unknown(i) and not model.is_byte(i):
                self.control[piece] = i

    def encode(self, text: str) -> list[int]:
        return encode_without_control(self._model.encode, text, self.control)

    def encode_trusted(self, text: str) -> list[int]:
        return encode_with_control(self.encode, text, self.control)

    def decode(self, ids: Iterable[int]) -> str:
        return self.show(i for i in ids if 0 <= i < self.vocab_size and i not in self._silent)

    def show(self, ids: Iterable[int]) -> str:
        runs = itertools.groupby(map(int, ids), self._model.is_control)
        return "".join(
            "".join(map(self._model.id_to_piece, run)) if control else self._model.decode(list(run))
            for control, run in runs
        )

    def frame(self, chat: bool) -> tuple[list[int], list[int]]:
        if chat:
            raise CipoError(
                f"data.chat_template: the sentencepiece file {self._file} has none; "
                "set it to False, or use the model's Hugging Face directory"
            )
        start = self._model.bos_id()
        return ([int(start)] if start >= 0 else []), []

    def trims(self, chat: bool) -> tuple[bool, bool]:
        self.frame(chat)
        return False, False

    def turn_end(self, chat: bool) -> list[int]:
        self.frame(chat)
        return [self.eos_id]


def _stop_ids(path: Path, eos_id: int, vocab_size: int) -> tuple[int, ...]:
    """`eos_id` and the end-of-sequence ids of a `generation_config.json`, or, as transformers does
    without one, of the `config.json` beside it."""
    path = path if path.is_file() else path.with_name("config.json")
    if not path.is_file():
        return (eos_id,)
    try:
        ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id", [])
    except (ValueError, AttributeError) as error:
        raise CipoError(f"{path}: wanted a json object: {error}") from error
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    if not all(type(i) is int and 0 <= i < vocab_size for i in ids):
        raise CipoError(
            f"{path}: eos_token_id: got {ids!r}, wanted a token id or a list of them, "
            f"each below the tokenizer's vocabulary size {vocab_size}"
        )
    return tuple(dict.fromkeys((eos_id, *ids)))
