"""How far a row may write, and what an evicted request keeps."""

from collections.abc import Sequence

import numpy as np

from cipo_jax.sampling.requests import CachedPrompt, Request, Row


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
