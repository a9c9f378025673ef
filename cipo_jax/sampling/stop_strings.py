"""Where a stop string ends a completion, in its tokens and in its text.

Some tokens have no text (special tokens) and some only a part of a character (bytes), so how many
tokens a stop string takes is not known: it is searched for in decoded text, and in a stretch that
is long enough as text.
"""

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]

# What a decoder writes for a part of a character; those at an end may become another text.
_PART = "\ufffd"
# Characters at the beginning of a stretch that the tokens before it could change, such as a space
# that a decoder leaves out at the beginning of a text.
_CHANGEABLE = 4


def stop_text_end(
    tokens: Sequence[int], known: int, stop_strings: Sequence[str], decode: Decode
) -> int | None:
    """With how many tokens of a completion the first of `stop_strings` is complete; None: with none
    yet. Those that are complete with the first `known` tokens do not count."""
    if len(tokens) <= known:
        return None
    begin, before = _stretch(tokens, known, max(map(len, stop_strings)), decode)

    def found(end: int) -> bool:
        text = decode(list(tokens[begin:end]))
        return _first(text, before, stop_strings) is not None

    if not found(len(tokens)):
        return None
    return next(end for end in range(known + 1, len(tokens) + 1) if found(end))


def text_before_stop(
    tokens: Sequence[int], stop_strings: Sequence[str], min_new_tokens: int, decode: Decode
) -> str:
    """The text of a completion up to the first of `stop_strings`, not counting those that are
    complete with the first `min_new_tokens` tokens."""
    text = decode(list(tokens))
    before = decode(list(tokens[:min_new_tokens])) if stop_strings and min_new_tokens else ""
    return text[: _first(text, before, stop_strings)]


def _first(text: str, before: str, stop_strings: Sequence[str]) -> int | None:
    """Where the first of `stop_strings` begins that ends behind `before`, the text's beginning."""
    known = len(before.rstrip(_PART))
    places = [text.find(stop, max(0, known - len(stop) + 1)) for stop in stop_strings]
    return min((place for place in places if place >= 0), default=None)


def _stretch(tokens: Sequence[int], known: int, longest: int, decode: Decode) -> tuple[int, str]:
    """Where to begin so that a stop string of `longest` characters which ends behind the first
    `known` tokens is found, and the text from there to those tokens' end."""
    size = longest + _CHANGEABLE
    while True:
        begin = max(0, known - size)
        text = decode(list(tokens[begin:known]))
        if begin == 0 or len(text.strip(_PART)) >= longest + _CHANGEABLE:
            return begin, text
        size *= 2
