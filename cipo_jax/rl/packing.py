"""Sequences into the fixed-shape rows of an update: the only place that packs and pads.

Runs on the host: NumPy arrays in, NumPy arrays out. Sequences are packed first-fit-decreasing.
A row holds one stream, and the base stream's come first: so a row has one loss weight, and the base
stream's gradient does not depend on corrections.

Completions of one prompt may share it, where attention can tell: the prompt is then in the row once
and computed once, forward and backward. Its last token is not shared, since what it predicts is
each completion's own first token. The loss and its gradient are the same.

Metrics are of all completions, the gradient is of some. Sequences without one are packed after the
others, where those leave room and in rows of their own, which come last: a microbatch of these is
scored only (`train_step`).

For several updates per rollout batch, each stream's groups are dealt to minibatches at random.
Groups stay whole: their advantages were centred together, so no update pushes all of a group's
completions the same way. Each minibatch gets its share of both streams, up to one group.

Not decided here: which sequences are trained on and with which advantage (`run/streams`), the sizes
of a batch (`run/update`), what a stream's loss is divided by (`aggregate`).
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cipo_jax.types import STREAMS, TrainBatch


@dataclasses.dataclass(frozen=True, eq=False)
class TrainSequence:
    """A prompt and its completion, ready to be trained on.

    Attributes:
      prompt: [P] int32, P >= 1.
      completion: [C] int32.
      old_logprobs: [C] float32, under the distribution that sampled them.
      advantage: of the whole completion.
      stream: `BASE` or `CORRECTION`.
      group: a number of the prompt, unique within its stream; read only with several minibatches.
      trained: False: it is in no loss and no normaliser, it is only measured.
    """

    prompt: np.ndarray
    completion: np.ndarray
    old_logprobs: np.ndarray
    advantage: float
    stream: int
    group: int = 0
    trained: bool = True

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def row_capacity(sequences: int, longest: int, row_tokens: int) -> int:
    """Rows that hold `sequences` sequences of up to `longest` tokens, whatever their lengths.

    First-fit never opens a row while another has room for one more of the longest sequences, so
    every row but the last holds at least row_tokens // longest.

    Args:
      longest: at most `row_tokens`.
    """
    return -(-sequences // (row_tokens // longest))


def microbatch_count(rows: int, microbatch_rows: int) -> int:
    """Microbatches that hold `rows` rows."""
    return -(-rows // microbatch_rows)


def pack_rows(
    lengths: Sequence[int], row_tokens: int, last: Sequence[bool] | None = None
) -> list[list[int]]:
    """First-fit-decreasing: indices of the sequences of each row. Deterministic.

    Args:
      last: which sequences are packed after all others; None: none.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    later = last or [False] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: (later[i], -lengths[i], i)):
        row = next((r for r, space in enumerate(free) if space >= lengths[i]), None)
        if row is None:
            rows.append([])
            free.append(row_tokens)
            row = len(rows) - 1
        rows[row].append(i)
        free[row] -= lengths[i]
    return rows


def minibatch_sequences(sequences: int, group_size: int, minibatches: int) -> int:
    """Most sequences of a stream that one of `minibatches` minibatches can hold, whose groups have
    `group_size` sequences or a divisor of it."""
    groups = -(-sequences // group_size)
    return -(-groups // minibatches) * group_size


def pack_shared(
    sequences: Sequence[TrainSequence], row_tokens: int, last: Sequence[bool] | None = None
) -> list[list[list[int]]]:
    """As `pack_rows`, with prompts shared: each row is a list of bundles, a bundle is the indices
    of completions of one prompt. What does not fit into one row goes on in another, with the
    prompt again. Deterministic."""
    later = last or [False] * len(sequences)
    bundles: dict[tuple[bool, bytes], list[int]] = {}
    for i in sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), i)):
        bundles.setdefault((later[i], sequences[i].prompt.tobytes()), []).append(i)

    def size(bundle: Sequence[int]) -> int:
        return bundle_tokens([sequences[i] for i in bundle])

    rows: list[list[list[int]]] = []
    free: list[int] = []
    for (_, _), left in sorted(bundles.items(), key=lambda b: (b[0][0], -size(b[1]), b[1])):
        while left:
            whole = size(left)
            row = next((r for r, space in enumerate(free) if space >= whole), None)
            if row is None:  # in two or more parts, the first where most of it fits
                row = max(range(len(free)), key=lambda r: free[r], default=None)
                if row is None or size(left[:2]) > free[row]:
                    rows.append([])
                    free.append(row_tokens)
                    row = len(rows) - 1
            fits = max(n for n in range(1, len(left) + 1) if n == 1 or size(left[:n]) <= free[row])
            rows[row].append(left[:fits])
            free[row] -= size(left[:fits])
            left = left[fits:]
    return rows


def bundle_tokens(bundle: Sequence[TrainSequence]) -> int:
    """Tokens in a row of completions that share their prompt."""
    shared = len(bundle[0].prompt) - 1
    return shared + sum(1 + len(s.completion) for s in bundle)


def make_minibatches(
    sequences: Sequence[TrainSequence],
    minibatches: int,
    rng: np.random.Generator | None,
    pack: Callable[[Sequence[TrainSequence]], TrainBatch],
) -> TrainBatch:
    """Deals the groups of each stream to minibatches and packs each of them.

    Args:
      sequences: of both streams, with `group` set if there are several minibatches.
      minibatches: U.
      rng: shuffles the groups; may be None if U = 1.
      pack: `make_train_batch` with its shape; see there for what it raises.

    Returns:
      A batch with a leading axis: arrays [U, M, R, ...], normalisers [U, 2].
    """
    members: list[list[TrainSequence]] = [[] for _ in range(minibatches)]
    for stream in range(len(STREAMS)):
        of_stream = [s for s in sequences if s.stream == stream]
        groups = list(dict.fromkeys(s.group for s in of_stream))
        if minibatches > 1:
            if rng is None:
                raise ValueError("several minibatches need a generator to deal groups to them")
            groups = [groups[i] for i in rng.permutation(len(groups))]
        # Each to the emptiest, the largest first: so none gets more than `minibatch_sequences`.
        size = collections.Counter(s.group for s in of_stream)
        place, loads = {}, [0] * minibatches
        for group in sorted(groups, key=lambda g: -size[g]):
            place[group] = loads.index(min(loads))
            loads[place[group]] += size[group]
        for sequence in of_stream:
            members[place[sequence.group]].append(sequence)
    packed = zip(*map(pack, members), strict=True)  # the minibatches' arrays, field by field
    return TrainBatch(*(None if arrays[0] is None else np.stack(arrays) for arrays in packed))


def make_train_batch(
    sequences: Sequence[TrainSequence],
    microbatches: int,
    microbatch_rows: int,
    row_tokens: int,
    zero_advantages_learn: bool = True,
    normaliser: Callable[[Sequence[int]], float] = sum,
    share_prompts: bool = False,
) -> TrainBatch:
    """Packs sequences of both streams into one minibatch of NumPy arrays [M, R, ...].

    Args:
      zero_advantages_learn: sequences of advantage 0 have a gradient; without KL and entropy terms
        it is exactly zero.
      normaliser: lengths of a stream's trained completions -> its entry of `token_counts`.
      share_prompts: completions of one prompt share it where that takes fewer rows, and the batch
        has `prefixes`.

    Raises:
      ValueError: the rows do not fit; the caller's capacity is wrong.
    """
    M, R, T = microbatches, microbatch_rows, row_tokens
    learning: list[list[list[TrainSequence]]] = []
    measured: list[list[list[TrainSequence]]] = []
    token_counts = np.zeros(len(STREAMS), np.float32)
    for stream in range(len(STREAMS)):
        members = [s for s in sequences if s.stream == stream]
        token_counts[stream] = normaliser([len(s.completion) for s in members if s.trained])
        idle = [not s.trained or not (zero_advantages_learn or s.advantage) for s in members]
        packed = [[[i] for i in row] for row in pack_rows([len(s) for s in members], T, last=idle)]
        if share_prompts:
            packed = min(packed, pack_shared(members, T, last=idle), key=len)
        for row in packed:
            # The first to be packed into a row learns, or none does.
            kind = measured if idle[row[0][0]] else learning
            kind.append([[members[i] for i in bundle] for bundle in row])
    rows = learning + measured
    if len(rows) > M * R:
        raise ValueError(f"{len(rows)} rows do not fit into {M} microbatches of {R} rows")

    tokens, positions, segments, prefixes = (np.zeros((M * R, T), np.int32) for _ in range(4))
    completion_mask, loss_mask, advantages, old_logprobs = (
        np.zeros((M * R, T), np.float32) for _ in range(4)
    )
    stream_of_row = np.zeros((M * R,), np.int32)
    for r, bundles in enumerate(rows):
        stream_of_row[r] = bundles[0][0].stream
        begin = 0
        for segment, (part, position, prefix, sequence) in enumerate(_segments(bundles), start=1):
            at = slice(begin, begin + len(part))
            tokens[r, at], segments[r, at], prefixes[r, at] = part, segment, prefix
            positions[r, at] = position + np.arange(len(part))
            begin = at.stop
            if sequence is not None:
                completion = slice(begin - len(sequence.completion), begin)
                completion_mask[r, completion] = 1.0
                loss_mask[r, completion] = sequence.trained
                advantages[r, completion] = sequence.advantage
                old_logprobs[r, completion] = sequence.old_logprobs
    arrays = (
        *(tokens, positions, segments),
        *(completion_mask, loss_mask, advantages, old_logprobs),
    )
    by_token = (x.reshape(M, R, T) for x in arrays)
    fields: Any = (*by_token, stream_of_row.reshape(M, R), token_counts)
    batch = TrainBatch(*fields)
    return batch._replace(prefixes=prefixes.reshape(M, R, T)) if share_prompts else batch


def _segments(
    row: Sequence[Sequence[TrainSequence]],
) -> Iterator[tuple[np.ndarray, int, int, TrainSequence | None]]:
    """(tokens, position of the first, the segment they see besides their own or their own, what
    completion they end with) of each of the row's segments, which count from 1."""
    number = 0
    for bundle in row:
        prompt, position, shared = bundle[0].prompt, 0, 0
        if len(bundle) > 1:
            number += 1
            yield prompt[:-1], 0, number, None
            prompt, position, shared = prompt[-1:], len(prompt) - 1, number
        for sequence in bundle:
            number += 1
            yield (
                np.concatenate([prompt, sequence.completion]),
                position,
                shared or number,
                sequence,
            )


def pad_share(batch: TrainBatch) -> float:
    """Share of padding among the tokens of the rows in use, over all minibatches."""
    segments = np.asarray(batch.segments).reshape(-1, batch.segments.shape[-1])
    used = segments[segments.any(axis=1)]
    return float((used == 0).mean()) if used.size else 0.0
