"""Where a stop string is complete, and how far a row may write."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipo_jax.sampling.requests import CachedPrompt, Request, Row, stop_text_end


def request(prompt: Sequence[int], limit: int) -> Request:
    tokens = np.array(prompt, np.int32)
    return Request(
        id=0,
        key=np.zeros(2, np.uint32),
        temperature=1.0,
        limit=limit,
        prompt=CachedPrompt(tokens, shard=0, waiting=1),
        prompt_tokens=tokens,
        arrival=0,
    )


def test_reach_counts_chunks_in_flight_and_ends_at_the_limit() -> None:
    """Of a prompt of 5, the first step writes position 4."""
    row = Row(request([1] * 5, limit=10), slot=0, shard=0, pages=[])
    assert row.reach(chunk=4) == 4 + 4
    row.in_flight = 1
    assert row.reach(chunk=4) == 4 + 8
    row.in_flight = 2
    assert row.reach(chunk=4) == 4 + 10  # the last token sampled is never fed
    row.request.tokens += [2, 3, 4]
    row.in_flight = 0
    assert row.reach(chunk=4) == 4 + 7


def test_an_evicted_request_keeps_its_tokens() -> None:
    r = request([1, 2], limit=4)
    r.tokens += [3, 4]
    r.logprobs += [-1.0, -2.0]
    assert r.all_tokens().tolist() == [1, 2, 3, 4] and r.all_tokens().dtype == np.int32
    done = r.completion(finished=True)
    assert done.tokens.tolist() == [3, 4] and done.logprobs.tolist() == [-1, -2] and done.finished


PIECES = ["a", "b", "ab", "é", "<end>", "", "ba"]


def decode(ids: Sequence[int]) -> str:
    return "".join(PIECES[i] for i in ids)


def first_end(ids: Sequence[int], stops: Sequence[str]) -> int | None:
    """The shortest beginning with a stop string in its text."""
    return next(
        (n for n in range(1, len(ids) + 1) if any(s in decode(ids[:n]) for s in stops)), None
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
    ],
)
def test_end_of_a_stop_string(ids: list[int], stops: tuple[str, ...], wanted: int | None) -> None:
    assert stop_text_end(ids, 0, stops, decode) == wanted


# Tokens without a text can lie in between, but not as many as a stop string has bytes.
@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 6]), max_size=12),
    st.lists(st.sampled_from(["aba", "bé", "d>a", "ab" * 3, "é"]), min_size=1, max_size=2),
    st.integers(1, 5),
)
def test_chunk_borders_do_not_matter(ids: list[int], stops: list[str], chunk: int) -> None:
    found, known = None, 0
    while found is None and known < len(ids):
        found = stop_text_end(ids[: known + chunk], known, stops, decode)
        known += chunk
    assert found == first_end(ids, stops)
