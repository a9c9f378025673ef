"""How text that looks like control tokens is encoded as ordinary characters.

This file decides how such a text is cut. Which tokens are control tokens is decided in
`tokenizer.py`.
"""

import re
from collections.abc import Callable, Collection

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
      CipoError: the tokenizer writes a single character as a control token only.
    """
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


def _cut_inside(text: str, names: Collection[str]) -> list[str]:
    """`text` cut after the first character of each occurrence of a multi-character name."""
    long_names = [re.escape(name) for name in names if len(name) > 1]
    if not long_names:
        return [text]
    starts = [m.start() for m in re.finditer(f"(?={'|'.join(long_names)})", text)]
    edges = [0, *(start + 1 for start in starts), len(text)]
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
