"""Tokenizers without files, control tokens and chat templates: of the embedded tasks, and bytes.

Their interface is `tokenizer.Tokenizer`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from cipo_jax.data.control_tokens import utf8
from cipo_jax.types import CipoError


class _WithoutTemplate:
    """What "char" and "bytes" have in common. Ids 0 and 1 are pad and end."""

    pad_id, eos_id = 0, 1
    stop_ids: tuple[int, ...] = (1,)
    control: Mapping[str, int] = {}
    _name: str

    def frame(self, chat: bool) -> tuple[list[int], list[int]]:
        if chat:
            raise CipoError(
                f"config.data.chat_template: {self._name!r} has no template; set it to False"
            )
        return [], []

    def trims(self, chat: bool) -> tuple[bool, bool]:
        self.frame(chat)
        return False, False

    def turn_end(self, chat: bool) -> list[int]:
        self.frame(chat)
        return [self.eos_id]


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

    encode_trusted = encode

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self._texts[i] for i in ids if 0 <= i < self.vocab_size)

    show = decode


class ByteTokenizer(_WithoutTemplate):
    """One token per byte of UTF-8: writes any text, at about one token per character."""

    _name = "bytes"
    vocab_size = 258

    def encode(self, text: str) -> list[int]:
        return [byte + 2 for byte in utf8(text)]

    encode_trusted = encode

    def decode(self, ids: Iterable[int]) -> str:
        # A sampled completion need not be UTF-8; what is not becomes the replacement character.
        return bytes(i - 2 for i in ids if 2 <= i < self.vocab_size).decode("utf-8", "replace")

    show = decode
