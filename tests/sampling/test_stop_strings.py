"""Where a stop string is complete, whatever the tokens in between are."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipo_jax.sampling.stop_strings import stop_text_end, text_before_stop

PIECES = ["a", "b", "ab", "é".encode(), "<end>", "", "ba", *[b"\xc3", b"\xa9"], " a"]
LETTERS = [0, 1, 2, 3, 4, 6]


def decode(ids: Sequence[int]) -> str:
    """As sentencepiece does: bytes make characters, and a text does not begin with a space."""
    pieces = [PIECES[i] for i in ids]
    whole = b"".join(p if isinstance(p, bytes) else p.encode() for p in pieces)
    return whole.decode("utf-8", "replace").removeprefix(" ")


def first_end(ids: Sequence[int], stops: Sequence[str], known: int = 0) -> int | None:
    """The shortest beginning with a stop string in its text that is not yet in `known` tokens."""
    before = [decode(ids[:known]).count(s) for s in stops]
    return next(
        (
            n
            for n in range(known + 1, len(ids) + 1)
            if any(decode(ids[:n]).count(s) > b for s, b in zip(stops, before, strict=True))
        ),
        None,
    )


@pytest.mark.parametrize(
    ("ids", "stops", "wanted"),
    [
        ([0, 1, 0], ("ba",), 3),
        ([0, 2, 0], ("aab",), 2),
        ([0, 0, 0], ("ba",), None),
        ([4, 0], ("<e",), 1),  # in the middle of a token
        ([3, 3, 0], ("éa",), 3),  # more bytes than characters
        ([0, 1, 0, 1], ("bab", "ab"), 2),  # the first to be complete
        ([], ("a",), None),
        ([7, 8], ("é",), 2),  # a byte each
        ([1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0], ("ba",), 14),  # tokens without a text
        ([1, 9], (" a",), 2),
    ],
)
def test_end_of_a_stop_string(ids: list[int], stops: tuple[str, ...], wanted: int | None) -> None:
    assert stop_text_end(ids, 0, stops, decode) == wanted
    # Token by token.
    ends = (stop_text_end(ids[: n + 1], n, stops, decode) for n in range(len(ids)))
    assert next((end for end in ends if end is not None), None) == wanted


STOPS = st.lists(
    st.sampled_from(["aba", "bé", "d>a", "ab" * 3, "é", "b a", " a"]), min_size=1, max_size=2
)


@given(
    st.lists(st.sampled_from([*LETTERS, 5, 5, 5, 7, 8, 9]), max_size=40),
    STOPS,
    st.integers(1, 5),
)
def test_chunk_borders_do_not_matter(ids: list[int], stops: list[str], chunk: int) -> None:
    found, known = None, 0
    while found is None and known < len(ids):
        found = stop_text_end(ids[: known + chunk], known, stops, decode)
        known += chunk
    assert found == first_end(ids, stops)


@given(st.lists(st.sampled_from(LETTERS), max_size=12), st.integers(0, 6), st.integers(1, 5))
def test_stop_strings_are_held_back(ids: list[int], held: int, chunk: int) -> None:
    """One that is complete with the first `held` tokens does not count, in tokens and text."""
    stops = ["d>a", "b<"]  # neither overlaps with itself
    found, known = None, 0
    while found is None and known < len(ids):
        found = stop_text_end(ids[: known + chunk], max(known, held), stops, decode)
        known += chunk
    assert found == first_end(ids, stops, held)
    text = text_before_stop(ids[:found], stops, held, decode)
    if found is None:
        assert text == decode(ids)
    else:
        assert len(text) > len(decode(ids[:held])) - 3
        assert any(decode(ids[:found]).startswith(text + stop) for stop in stops)


@pytest.mark.parametrize(
    ("text", "stops", "held", "wanted"),
    [
        ("a b c", (), 0, "a b c"),
        ("a b c", ("x",), 0, "a b c"),
        ("a b c b", ("b",), 0, "a "),
        ("a b c", ("c", "b"), 0, "a "),  # the first in the text, not in the list
        ("a", ("a",), 0, ""),
        ("a b c b", ("b",), 3, "a b c "),
        ("abcabc", ("bc",), 2, "a"),  # complete with the third
    ],
)
def test_text_before_a_stop_string(
    text: str, stops: tuple[str, ...], held: int, wanted: str
) -> None:
    tokens = list(map(ord, text))
    assert text_before_stop(tokens, stops, held, lambda ids: "".join(map(chr, ids))) == wanted
