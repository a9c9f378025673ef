"""Aggregation: weights and normalisers against plain loops over sequences."""

import numpy as np
import pytest
from tiny_updates import pack, sequences

from cipo_jax.rl.aggregate import AGGREGATIONS, Aggregation, segment_means, segment_sums
from cipo_jax.types import CORRECTION, STREAMS, CipoError

MAX_TOKENS = 7


def normaliser_of_row(kind: str, mask: np.ndarray, segments: np.ndarray) -> float:
    """What the completions of a packed row [T] add to their stream's normaliser."""
    lengths = [mask[segments == s].sum() for s in range(1, segments.max() + 1)]
    completions = sum(length > 0 for length in lengths)
    return {
        "token_mean": sum(lengths),
        "sequence_mean": completions,
        "constant": completions * MAX_TOKENS,
    }[kind]


def test_weights_and_normalisers_are_those_of_the_papers() -> None:
    lengths = [2, 5, 1]
    by_hand = {
        "token_mean": ([1, 1, 1], 8),
        "sequence_mean": ([1 / 2, 1 / 5, 1], 3),
        "constant": ([1, 1, 1], 3 * MAX_TOKENS),
    }
    mask = np.zeros((2, 12), np.float32)
    segments = np.zeros((2, 12), np.int32)
    # Prompts of two tokens; the first two sequences share a row.
    segments[0, :4], segments[0, 4:11], segments[1, :3] = 1, 2, 1
    mask[0, 2:4], mask[0, 6:11], mask[1, 2:3] = 1, 1, 1
    places = [(0, slice(2, 4)), (0, slice(6, 11)), (1, slice(2, 3))]
    for kind, (weights, normaliser) in by_hand.items():
        aggregation = Aggregation(kind, MAX_TOKENS)
        wanted = np.zeros_like(mask)
        for place, weight in zip(places, weights, strict=True):
            wanted[place] = weight
        np.testing.assert_allclose(aggregation.token_weights(mask, segments), wanted, rtol=1e-6)
        assert aggregation.normaliser(lengths) == normaliser
        of_rows = [normaliser_of_row(kind, *row) for row in zip(mask, segments, strict=True)]
        assert sum(of_rows) == normaliser


@pytest.mark.parametrize("kind", AGGREGATIONS)
def test_the_packer_s_normaliser_is_that_of_the_packed_rows(kind: str) -> None:
    aggregation = Aggregation(kind, MAX_TOKENS)
    members = sequences(base=7, correction=5)
    batch = pack(members, 1, 8, normaliser=aggregation.normaliser)
    assert batch.segments.max() >= 3
    rows = zip(batch.loss_mask[0, 0], batch.segments[0, 0], strict=True)
    of_rows = np.array([normaliser_of_row(kind, *row) for row in rows])
    of_streams = [of_rows[batch.stream[0, 0] == s].sum() for s in range(len(STREAMS))]
    np.testing.assert_array_equal(batch.token_counts, [of_streams])
    lengths = [len(s.completion) for s in members if s.stream == CORRECTION]
    assert of_streams[CORRECTION] == aggregation.normaliser(lengths)


def test_segment_sums_and_means_stay_within_row_and_sequence() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(3, 9)).astype(np.float32)
    # One token a segment at most: the bound on their number is reached.
    segments = np.array([[1, 1, 1, 2, 2, 3, 3, 3, 0], [1] * 9, np.arange(1, 10)], np.int32)
    mask = (random.random((3, 9)) < 0.6).astype(np.float32) * (segments > 0)
    sums, means = segment_sums(values, segments), segment_means(values, mask, segments)
    for r, t in np.ndindex(values.shape):
        same = segments[r] == segments[r, t]
        np.testing.assert_allclose(sums[r, t], values[r, same].sum(), rtol=1e-5, atol=1e-6)
        scored = same & (mask[r] > 0)
        mean = values[r, scored].mean() if scored.any() else 0.0
        np.testing.assert_allclose(means[r, t], mean, rtol=1e-5, atol=1e-6)


def test_misuse_is_refused() -> None:
    with pytest.raises(CipoError, match="'mean'"):
        Aggregation("mean")
    with pytest.raises(CipoError, match="max_tokens: got 0"):
        Aggregation("constant")
