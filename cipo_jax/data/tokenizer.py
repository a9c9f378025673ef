"""Tokenizers behind one small interface: the embedded one, Hugging Face's, sentencepiece.

`encode` never produces a control token: text that looks like `<|im_end|>` or `</think>` becomes
ordinary characters (`control_tokens.py`), so no text of a model or a data file can end a turn or
close a tag. Control tokens enter a prompt only through `frame`, from the chat template.

This file decides what counts as a control token and what stops a completion. It does not decide
what a prompt says or where it is cut (`prompts.py`).
"""

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from cipo_jax.data.control_tokens import encode_without_control
from cipo_jax.data.tasks.embedded import GENERATED
from cipo_jax.types import CipoError

_GENERATION = "generation_config.json"
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

    def encode(self, text: str) -> list[int]:
        """Ordinary tokens of `text`, never a control token.

        Raises:
          CipoError: the text cannot be written with this vocabulary.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens, stop tokens and unknown ids give no text."""

    def show(self, ids: Iterable[int]) -> str:
        """As `decode`, control tokens written out: for people to read, not to encode again."""

    def frame(self, chat: bool) -> tuple[list[int], list[int]]:
        """The tokens before and after the user's text.

        With `chat`, one user turn and the opening of the assistant's turn as the chat template
        writes them; without, the tokenizer's beginning-of-sequence token if it has one.

        Raises:
          CipoError: `chat` is asked of a tokenizer without a usable chat template.
        """


def load_tokenizer(name: str, thinking: str = "") -> Tokenizer:
    """The tokenizer called `name`.

    Args:
      name: that of an embedded task's tokenizer ("char", "char_code", "char_lists",
        "char_words"), "bytes" (one token per UTF-8 byte, for any text), a directory with Hugging
        Face tokenizer files, or a sentencepiece `*.model` file.
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
    )


class _WithoutTemplate:
    """What "char" and "bytes" have in common. Ids 0 and 1 are pad and end."""

    pad_id, eos_id = 0, 1
    stop_ids: tuple[int, ...] = (1,)
    _name: str

    def frame(self, chat: bool) -> tuple[list[int], list[int]]:
        if chat:
            raise CipoError(
                f"config.data.chat_template: {self._name!r} has no template; set it to False"
            )
        return [], []


class CharTokenizer(_WithoutTemplate):
    """The embedded tokenizer of the arithmetic task, and, with more pieces, of the other tasks.

    One piece per digit, sign and lower-case letter, so that the model sees numbers digit by digit;
    the phrases of the default templates and `\\boxed{` are single pieces, which shortens prompts.
    The longest piece that matches is taken.
    """

    _name = "char"
    _CHARACTERS = "0123456789()+-*=.abcdefghijklmnopqrstuvwxyzC \n}"
    _PHRASES = ("\\boxed{", "Compute ", "Check and correct it.")

    def __init__(self, characters: str = "", phrases: Sequence[str] = ()) -> None:
        """`characters` and `phrases` are added to the pieces."""
        self._texts = ["", "", *self._CHARACTERS, *self._PHRASES, *characters, *phrases]
        self._ids = {text: i for i, text in enumerate(self._texts) if text}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._piece = re.compile("|".join(map(re.escape, longest_first)))
        self.vocab_size = len(self._texts)

    def encode(self, text: str) -> list[int]:
        ids, position = [], 0
        while position < len(text):
            match = self._piece.match(text, position)
            if match is None:
                raise CipoError(
                    f"tokenizer 'char' cannot write the character {text[position]!r} of "
                    f"{text[max(position - 20, 0) : position + 20]!r}; it is made for the embedded "
                    "tasks: set data.tokenizer to 'bytes' or a tokenizer directory for other text"
                )
            ids.append(self._ids[match.group()])
            position = match.end()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self._texts[i] for i in ids if 0 <= i < self.vocab_size)

    show = decode


class ByteTokenizer(_WithoutTemplate):
    """One token per byte of UTF-8: writes any text, at about one token per character."""

    _name = "bytes"
    vocab_size = 258

    def encode(self, text: str) -> list[int]:
        return [byte + 2 for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[int]) -> str:
        # A sampled completion need not be UTF-8; what is not becomes the replacement character.
        return bytes(i - 2 for i in ids if 2 <= i < self.vocab_size).decode("utf-8", "replace")

    show = decode


class HFTokenizer:
    """The tokenizer of a Hugging Face model directory; nothing is downloaded.

    Completions stop at the tokenizer's end-of-sequence token and at those that
    `generation_config.json` names.

    Raises:
      CipoError: missing or unreadable files, or no end-of-sequence token.
    """

    # Stands for the user's text while the chat template is cut in two around it.
    _USER_TEXT = "CIPO-USER-TEXT"

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
            raise CipoError(
                f"config.data.tokenizer: cannot load one from {self._directory}, wanted a "
                "directory with tokenizer.json or another tokenizer file of transformers: "
                + str(error).strip().partition("\n")[0]
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
        self._control = self._control_tokens()
        self._frames: dict[bool, tuple[list[int], list[int]]] = {}

    def encode(self, text: str) -> list[int]:
        return encode_without_control(self._encode, text, self._control)

    def decode(self, ids: Iterable[int]) -> str:
        kept = [int(i) for i in ids if i not in self._silent]
        return self._tokenizer.decode(
            kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

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
        if chat not in self._frames:  # kept: a template may write the date, a run needs one
            self._frames[chat] = self._chat_frame() if chat else (self._start(), [])
        return self._frames[chat]

    def _start(self) -> list[int]:
        start = self._tokenizer.bos_token_id
        added = self._tokenizer("").input_ids  # what the tokenizer itself puts around any text
        return [start] if start is not None and added[:1] == [start] else []

    def _chat_frame(self) -> tuple[list[int], list[int]]:
        """The chat template's tokens before and after the user's text."""
        if not self._tokenizer.chat_template:
            raise CipoError(
                f"data.chat_template: the tokenizer in {self._directory} has no chat template; "
                "set it to False, or add chat_template.jinja to the directory"
            )
        switch = {"enable_thinking": self._thinking == "on"} if self._thinking else {}
        if switch and "enable_thinking" not in str(self._tokenizer.chat_template):
            raise CipoError(
                f"data.thinking: got {self._thinking!r}, wanted '': the chat template in "
                f"{self._directory} has no switch enable_thinking"
            )
        turn = [{"role": "user", "content": self._USER_TEXT}]
        rendered = self._tokenizer.apply_chat_template(
            turn, add_generation_prompt=True, tokenize=False, **switch
        )
        if rendered.count(self._USER_TEXT) != 1:
            raise CipoError(
                f"data.chat_template: the chat template in {self._directory} writes the user's "
                f"text {rendered.count(self._USER_TEXT)} times, wanted once"
            )
        before, after = rendered.split(self._USER_TEXT)
        return self._encode_control(before), self._encode_control(after)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def _encode_control(self, text: str) -> list[int]:
        """Tokens of trusted text, control tokens read as such."""
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False)


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
        self._control, self._silent = {}, set(self.stop_ids)
        for i in range(self.vocab_size):
            piece = model.id_to_piece(i)
            if model.is_control(i):
                self._silent.add(i)
                self._control[piece] = i
            elif _TAG.fullmatch(piece) and not model.is_unknown(i) and not model.is_byte(i):
                self._control[piece] = i

    def encode(self, text: str) -> list[int]:
        return encode_without_control(self._model.encode, text, self._control)

    def decode(self, ids: Iterable[int]) -> str:
        return self._model.decode(
            [int(i) for i in ids if 0 <= i < self.vocab_size and i not in self._silent]
        )

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


def _stop_ids(path: Path, eos_id: int, vocab_size: int) -> tuple[int, ...]:
    """`eos_id` and the end-of-sequence ids of a `generation_config.json`, if there is one."""
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
