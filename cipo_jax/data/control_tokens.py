"""How text that looks like control tokens is encoded: as ordinary characters, or as these tokens.

This file decides how such a text is cut. Which tokens are control tokens is decided in
`tokenizer.py`, which texts are trusted in `prompts.py`.
"""

import re
from collections.abc import Callable, Collection, Mapping

from cipo_jax.types import CipoError


def encode_without_control(
    encode: Callable[[str], list[int]], text: str, control: dict[str, int]
) -> list[int]:
    """`encode(text)`, with the text cut inside whatever would have become a control token.

    Decoding gives the same text, except with tokenizers that put a space before each piece.

    Args:
      encode: of a tokenizer; it may write control tokens.
      control: {text: id} of the control tokens.

    Raises:
      CipoError: the tokenizer writes a single character as a control token only, or as `utf8`.
    """
    utf8(text)
    forbidden = set(control.values())
    ids = encode(text)
    if forbidden.isdisjoint(ids):
        return ids
    pieces = _cut_inside(text, control)
    if len(pieces) == 1:  # the tokenizer's normalisation made the control token: halve the text
        if len(text) == 1:
            raise CipoError(f"config.data.tokenizer: writes {text!r} only as a control token")
        pieces = [text[: len(text) // 2], text[len(text) // 2 :]]
    return [i for piece in pieces for i in encode_without_control(encode, piece, control)]


def utf8(text: str) -> bytes:
    """The bytes of `text`.

    Raises:
      CipoError: it holds a half of a character, as json may ("\\ud83d").
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        around = text[max(error.start - 20, 0) : error.end + 20]
        raise CipoError(
            f"text {around!r}: {text[error.start]!r} is half of a character, which no tokenizer "
            "can write; correct it where it comes from"
        ) from error


def encode_with_control(
    encode: Callable[[str], list[int]], text: str, control: Mapping[str, int]
) -> list[int]:
    """`text` with the names of control tokens as these, and `encode` of what stands between."""
    ids, end = [], 0
    for name in find_control(text, control):
        ids += [*encode(text[end : name.start()]), control[name[0]]]
        end = name.end()
    return [*ids, *encode(text[end:])] if end < len(text) else ids


def find_control(text: str, control: Collection[str]) -> list[re.Match[str]]:
    """Where names of control tokens stand in `text`; the longest where several begin."""
    present = [name for name in control if name in text]  # of thousands, in some vocabularies
    names = "|".join(map(re.escape, sorted(present, key=len, reverse=True)))
    return list(re.finditer(names, text)) if names else []


def _cut_inside(text: str, names: Collection[str]) -> list[str]:
    """`text` cut after the first character of each occurrence of a multi-character name."""
    long_names = [re.escape(name) for name in names if len(name) > 1 and name in text]
    if not long_names:
        return [text]
    starts = [m.start() for m in re.finditer(f"(?={'|'.join(long_names)})", text)]
    edges = [0, *(start + 1 for start in starts), len(text)]
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
