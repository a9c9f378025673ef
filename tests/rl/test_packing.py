"""Packing: nothing lost, nothing mixed, and the capacity is enough for any lengths."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipo_jax.policy import attention
from cipo_jax.rl.packing import (
    TrainSequence,
    bundle_tokens,
    make_minibatches,
    make_train_batch,
    microbatch_count,
    minibatch_sequences,
    pack_rows,
    pack_shared,
    pad_share,
    row_capacity,
)
from cipo_jax.types import BASE, CORRECTION, TrainBatch

ROW = 16


def sequence(number: int, prompt: int, completion: int, stream: int = BASE) -> TrainSequence:
    """A sequence whose tokens, log-probs and advantage all name it."""
    tokens = 100 * number + np.arange(1, prompt + completion + 1)
    return TrainSequence(
        prompt=tokens[:prompt].astype(np.int32),
        completion=tokens[prompt:].astype(np.int32),
        old_logprobs=-(number + np.arange(1, completion + 1) / 100).astype(np.float32),
        advantage=(-1) ** number * (number + 0.5),
        stream=stream,
    )


@st.composite
def sequence_lists(draw: Any) -> list[TrainSequence]:
    shapes = draw(
        st.lists(
            st.tuples(st.integers(1, ROW - 1), st.integers(1, ROW), st.integers(0, 1)), max_size=24
        )
    )
    return [
        sequence(number, prompt, min(completion, ROW - prompt), stream)
        for number, (prompt, completion, stream) in enumerate(shapes, start=1)
    ]


def unpack(batch: TrainBatch) -> list[TrainSequence]:
    """The sequences of a batch, row by row; all that is not theirs must be zero."""
    flat = {
        name: np.array(x).reshape(-1, *x.shape[2:])
        for name, x in batch._asdict().items()
        if name not in ("token_counts", "ref_logprobs", "prefixes")
    }
    found = []
    for r in range(len(flat["segments"])):
        segments = flat["segments"][r]
        # 1, 2, ... from the left without gaps, then padding.
        count = segments.max()
        used = segments[segments > 0]
        assert (segments[: len(used)] > 0).all()
        assert sorted(set(used.tolist())) == list(range(1, count + 1))
        assert (np.diff(used) >= 0).all()
        for segment in range(1, count + 1):
            at = np.flatnonzero(segments == segment)
            mask = flat["completion_mask"][r, at]
            prompt = int((mask == 0).sum())
            np.testing.assert_array_equal(mask, np.arange(len(at)) >= prompt)
            np.testing.assert_array_equal(flat["positions"][r, at], np.arange(len(at)))
            advantages = flat["advantages"][r, at]
            assert len(set(advantages[prompt:].tolist())) == 1
            assert not advantages[:prompt].any() and not flat["old_logprobs"][r, at[:prompt]].any()
            found.append(
                TrainSequence(
                    prompt=flat["tokens"][r, at[:prompt]],
                    completion=flat["tokens"][r, at[prompt:]],
                    old_logprobs=flat["old_logprobs"][r, at[prompt:]],
                    advantage=float(advantages[-1]),
                    stream=int(flat["stream"][r]),
                    trained=bool(flat["loss_mask"][r, at].any()),
                )
            )
            in_loss = mask if found[-1].trained else 0 * mask
            np.testing.assert_array_equal(flat["loss_mask"][r, at], in_loss)
        for name in (
            "completion_mask",
            "tokens",
            "positions",
            "loss_mask",
            "advantages",
            "old_logprobs",
        ):
            assert not flat[name][r, segments == 0].any()
    return found


def by_first_token(sequences: list[TrainSequence]) -> list[tuple]:
    return sorted(
        (
            *s.prompt.tolist(),
            "|",
            *s.completion.tolist(),
            s.old_logprobs.tolist(),
            s.advantage,
            s.stream,
            s.trained,
        )
        for s in sequences
    )


@given(sequence_lists())
def test_unpacking_gives_every_sequence_back_once(sequences: list[TrainSequence]) -> None:
    batch = make_train_batch(sequences, 7, 4, ROW)
    assert by_first_token(unpack(batch)) == by_first_token(sequences)
    ints = (batch.tokens, batch.positions, batch.segments, batch.stream)
    floats = (batch.loss_mask, batch.advantages, batch.old_logprobs)
    assert all(x.dtype == np.int32 for x in ints) and all(x.dtype == np.float32 for x in floats)
    assert batch.tokens.shape == (7, 4, ROW) and batch.stream.shape == (7, 4)


def some_idle(sequences: list[TrainSequence]) -> list[TrainSequence]:
    """Every third has no advantage, every third is not trained on."""
    changes: list[dict[str, Any]] = [{}, {"advantage": 0.0}, {"trained": False}]
    return [dataclasses.replace(s, **changes[i % 3]) for i, s in enumerate(sequences)]


@given(sequence_lists())
def test_base_rows_come_first_and_do_not_depend_on_corrections(
    sequences: list[TrainSequence],
) -> None:
    sequences = some_idle(sequences)
    pack = functools.partial(
        make_train_batch,
        microbatches=7,
        microbatch_rows=4,
        row_tokens=ROW,
        zero_advantages_learn=False,
    )
    batch = pack(sequences)
    used = batch.segments.any(axis=-1).reshape(-1)
    # Rows in use are the first ones, so that empty microbatches are at the end; rows that learn are
    # the first of those, and base rows the first of either.
    assert used[: used.sum()].all()
    learning = ((batch.loss_mask > 0) & (batch.advantages != 0)).any(axis=-1).reshape(-1)
    assert learning[: learning.sum()].all()
    stream = batch.stream.reshape(-1)
    for rows in (stream[learning], stream[used & ~learning]):
        assert (np.diff(rows) >= 0).all()
    alone = pack([s for s in sequences if s.stream == BASE])
    base_rows = int((stream[learning] == BASE).sum())
    for together, apart in zip(batch[:7], alone[:7], strict=True):
        shape = (-1, ROW)
        np.testing.assert_array_equal(
            together.reshape(shape)[:base_rows], apart.reshape(shape)[:base_rows]
        )


@given(sequence_lists())
def test_all_are_packed_and_the_trained_ones_counted(sequences: list[TrainSequence]) -> None:
    some = some_idle(sequences)
    for zero_advantages_learn in (True, False):
        batch = make_train_batch(some, 7, 4, ROW, zero_advantages_learn=zero_advantages_learn)
        assert by_first_token(unpack(batch)) == by_first_token(some)
        counts = [
            sum(len(s.completion) for s in some if s.stream == stream and s.trained)
            for stream in (0, 1)
        ]
        assert batch.token_counts.tolist() == counts


def test_a_batch_by_hand() -> None:
    sequences = [sequence(1, 2, 1), sequence(2, 1, 2, CORRECTION), sequence(3, 2, 3)]
    batch = make_train_batch(sequences, 1, 3, 9)
    assert batch.tokens[0].tolist() == [
        [301, 302, 303, 304, 305, 101, 102, 103, 0],
        [201, 202, 203, 0, 0, 0, 0, 0, 0],
        [0] * 9,
    ]
    assert batch.positions[0, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0]
    assert batch.segments[0, 0].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 0]
    assert batch.loss_mask[0, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 1, 0]
    assert batch.advantages[0, 0].tolist() == [0, 0, -3.5, -3.5, -3.5, 0, 0, -1.5, 0]
    assert batch.stream[0].tolist() == [BASE, CORRECTION, BASE]
    assert batch.token_counts.tolist() == [4, 2] and batch.ref_logprobs is None
    # 1 + 6 of the 18 tokens of the two rows in use.
    assert pad_share(batch) == 7 / 18
    assert pad_share(make_train_batch([], 1, 3, 9)) == 0
    assert pad_share(make_train_batch([sequence(1, 4, 5)], 1, 3, 9)) == 0


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(0, 20))
def test_rows_never_exceed_the_capacity(lengths: list[int], slack: int) -> None:
    longest = max(lengths, default=1)
    row_tokens = longest + slack
    rows = pack_rows(lengths, row_tokens)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[i] for i in row) <= row_tokens for row in rows)
    assert len(rows) <= row_capacity(len(lengths), longest, row_tokens)
    assert rows == pack_rows(lengths, row_tokens)


@given(st.integers(0, 30), st.integers(1, 12), st.integers(0, 30))
def test_the_capacity_is_reached_when_all_are_long(count: int, longest: int, slack: int) -> None:
    rows = pack_rows([longest] * count, longest + slack)
    assert len(rows) == row_capacity(count, longest, longest + slack)


def test_packing_is_first_fit_decreasing() -> None:
    assert pack_rows([2, 9, 4, 7, 1, 5], 10) == [[1, 4], [3, 0], [5, 2]]
    # Sequences of one length keep their order.
    assert pack_rows([5, 5, 5], 10) == [[0, 1], [2]]
    assert pack_rows([], 10) == []


def test_capacity_is_tight() -> None:
    # Two of 7 tokens fit into 16; a third opens a row.
    assert [row_capacity(n, 7, 16) for n in range(5)] == [0, 1, 1, 2, 2]
    assert len(pack_rows([7] * 5, 16)) == row_capacity(5, 7, 16) == 3
    assert row_capacity(3, 16, 16) == 3
    assert [microbatch_count(rows, 4) for rows in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_too_small_a_batch_raises() -> None:
    sequences = [sequence(i, 5, 5) for i in range(1, 4)]
    with pytest.raises(ValueError, match="3 rows do not fit into 1 microbatches of 2 rows"):
        make_train_batch(sequences, 1, 2, ROW)


# Shared prompts.


def completions_of(number: int, prompt: int, completions: Sequence[int]) -> list[TrainSequence]:
    """Completions of one prompt, whose length and theirs are given."""
    some = [sequence(10 * number + i, prompt, c) for i, c in enumerate(completions)]
    return [dataclasses.replace(s, prompt=some[0].prompt) for s in some]


def seen(batch: TrainBatch) -> list[tuple]:
    """(what it sees, its own tokens, old log-probs, advantage) of each completion, by `attention.
    visible`."""
    found = []
    places = (x.reshape(-1, ROW) for x in (batch.tokens, batch.positions, batch.segments))
    rows = zip(
        *(*places, batch.prefixes.reshape(-1, ROW), batch.completion_mask.reshape(-1, ROW)),
        *(batch.old_logprobs.reshape(-1, ROW), batch.advantages.reshape(-1, ROW)),
        strict=True,
    )
    for tokens, positions, segments, prefixes, mask, old, advantages in rows:
        visible = np.asarray(
            attention.visible(
                *(x[None] for x in (positions, segments, positions, segments)),
                q_prefixes=prefixes[None],
            )[0]
        )
        for segment in range(1, segments.max() + 1):
            own = np.flatnonzero((segments == segment) & (mask > 0))
            if not len(own):
                continue
            for t in own:  # what it sees are all positions up to its own, each once
                of_seen = positions[visible[t]]
                np.testing.assert_array_equal(np.sort(of_seen), np.arange(positions[t] + 1))
            context = np.flatnonzero(visible[own[-1]])
            context = context[np.argsort(positions[context])][: -len(own)]
            found.append(
                (
                    *(tokens[context].tolist(), tokens[own].tolist()),
                    *(old[own].tolist(), advantages[own].tolist()),
                )
            )
    return sorted(found)


@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.lists(st.integers(1, 8), min_size=1, max_size=6)),
        max_size=5,
    )
)
def test_completions_see_the_prompt_that_they_share(groups: Any) -> None:
    members = [s for n, group in enumerate(groups) for s in completions_of(n + 1, *group)]
    shared, apart = (make_train_batch(members, 8, 4, ROW, share_prompts=s) for s in (True, False))
    assert seen(shared) == sorted(
        (
            *(s.prompt.tolist(), s.completion.tolist()),
            *(s.old_logprobs.tolist(), [s.advantage] * len(s.completion)),
        )
        for s in members
    )
    assert used_rows(shared) <= used_rows(apart) and apart.prefixes is None
    np.testing.assert_array_equal(shared.token_counts, apart.token_counts)


def used_rows(batch: TrainBatch) -> int:
    return int(batch.segments.any(axis=-1).sum())


def test_a_prompt_is_in_a_row_once() -> None:
    members = completions_of(1, 6, [4, 3, 2])  # 5 of the prompt, then 5 + 4 + 3
    assert bundle_tokens(members) == 17 and bundle_tokens(members[:2]) == 14
    assert pack_shared(members, 17) == [[[0, 1, 2]]]
    # One too many: the last goes on in another row, with the prompt.
    assert pack_shared(members, 16) == [[[0, 1]], [[2]]]
    shared, apart = (make_train_batch(members, 1, 3, ROW, share_prompts=s) for s in (True, False))
    assert (used_rows(shared), used_rows(apart)) == (2, 3)
    # What is measured only never shares with what is learned from.
    idle = [False, True, False]
    assert pack_shared(members, ROW, idle) == [[[0, 2]], [[1]]]
    members += completions_of(2, 6, [1, 1, 1, 1])
    assert pack_shared(members, ROW) == [[[0, 1]], [[2]], [[3, 4, 5, 6]]]


# Minibatches.

G = 3


def groups_of(base: int, correction: int) -> list[TrainSequence]:
    """Groups of G sequences in both streams, of various lengths; group numbers start at 0 in
    each."""
    return [
        dataclasses.replace(
            sequence(1 + 2 * (G * group + j) + stream, 1 + group % 3, 1 + (group + j) % 7, stream),
            group=group,
        )
        for stream, count in ((BASE, base), (CORRECTION, correction))
        for group in range(count)
        for j in range(G)
    ]


def deal(
    sequences: Sequence[TrainSequence], minibatches: int, seed: int = 0, rows: int = 12, **how: Any
) -> TrainBatch:
    shape = functools.partial(
        make_train_batch, microbatches=rows, microbatch_rows=2, row_tokens=ROW, **how
    )
    return make_minibatches(sequences, minibatches, np.random.default_rng(seed), shape)


def minibatch(batch: TrainBatch, u: int) -> TrainBatch:
    return TrainBatch(*(None if x is None else x[u] for x in batch))


@given(st.integers(0, 9), st.integers(0, 7), st.integers(1, 4), st.integers(0, 3))
def test_groups_are_dealt_whole_and_evenly(base: int, correction: int, U: int, seed: int) -> None:
    members = groups_of(base, correction)
    batch = deal(members, U, seed)
    assert batch.tokens.shape == (U, 12, 2, ROW) and batch.token_counts.shape == (U, 2)
    parts = [unpack(minibatch(batch, u)) for u in range(U)]
    assert by_first_token([s for part in parts for s in part]) == by_first_token(members)
    # Tokens name sequences, and those of one group lie in one minibatch.
    group_of = {(s.prompt[0], s.stream): s.group for s in members}
    homes: dict[tuple[int, int], set[int]] = {}
    for u, part in enumerate(parts):
        for s in part:
            homes.setdefault((group_of[s.prompt[0], s.stream], s.stream), set()).add(u)
        for stream, count in ((BASE, base), (CORRECTION, correction)):
            found = [s for s in part if s.stream == stream]
            assert len(found) % G == 0 and len(found) // G in (count // U, -(-count // U))
            assert len(found) <= minibatch_sequences(count * G, G, U)
            assert batch.token_counts[u, stream] == sum(len(s.completion) for s in found)
    assert len(homes) == base + correction and all(len(home) == 1 for home in homes.values())


def test_the_generator_decides_who_goes_where() -> None:
    members = groups_of(8, 4)
    first, again, other = (deal(members, 2, seed).tokens for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    # The base stream's groups go the same way with and without corrections.
    alone = deal([s for s in members if s.stream == BASE], 2, 0)
    together = deal(members, 2, 0)
    for u in range(2):
        of_both = [s for s in unpack(minibatch(together, u)) if s.stream == BASE]
        assert by_first_token(of_both) == by_first_token(unpack(minibatch(alone, u)))
    with pytest.raises(ValueError, match="need a generator"):
        make_minibatches(members, 2, None, functools.partial(make_train_batch))


def test_one_minibatch_is_the_whole_batch_in_its_order() -> None:
    members = groups_of(4, 3)
    whole = make_train_batch(members, 12, 2, ROW)
    dealt = make_minibatches(members, 1, None, lambda m: make_train_batch(m, 12, 2, ROW))
    for one, other in zip(minibatch(dealt, 0), whole, strict=True):
        np.testing.assert_array_equal(one, other)
    assert pad_share(dealt) == pad_share(whole)


def test_normalisers_count_what_has_no_advantage_and_not_what_is_not_trained() -> None:
    members = [
        dataclasses.replace(s, advantage=0.0 if s.group == 1 else s.advantage)
        for s in groups_of(4, 2)
    ]
    batch = deal(members, 2, normaliser=len, zero_advantages_learn=False)
    np.testing.assert_array_equal(batch.token_counts, [[2 * G, G]] * 2)
    members[0] = dataclasses.replace(members[0], trained=False)
    fewer = deal(members, 2, normaliser=len, zero_advantages_learn=False)
    assert fewer.token_counts.sum() == batch.token_counts.sum() - 1


def test_minibatches_hold_the_largest_share() -> None:
    assert [minibatch_sequences(12, 4, u) for u in (1, 2, 3, 4)] == [12, 8, 4, 4]
    assert minibatch_sequences(0, 4, 2) == 0


@pytest.mark.parametrize("wrong_slots", [2, 3])
def test_larger_groups_are_dealt_so_that_no_minibatch_overflows(wrong_slots: int) -> None:
    """Groups of wrong anchors take several slots; whatever their number, the shares are kept."""
    for slots, minibatches in itertools.product(range(wrong_slots, 10), range(1, 5)):
        most = minibatch_sequences(slots, wrong_slots, minibatches)
        for wrong in range(slots // wrong_slots + 1):
            sizes = [wrong_slots] * wrong + [1] * (slots - wrong_slots * wrong)
            members = [
                dataclasses.replace(sequence(0, 1, 1, CORRECTION), group=group)
                for group, size in enumerate(sizes)
                for _ in range(size)
            ]
            dealt: list[int] = []

            def pack(members: Sequence[TrainSequence], dealt: list[int] = dealt) -> TrainBatch:
                dealt.append(len(members))
                return make_train_batch([], 1, 1, ROW)

            make_minibatches(members, minibatches, np.random.default_rng(slots), pack)
            assert sum(dealt) == slots and max(dealt) <= most, (slots, wrong, minibatches)
