"""The arguments of a device program's next call, as NumPy arrays, from what the host knows.

Nothing is decided here (`schedule` does that) and nothing runs on a device. The records are those
of `decode`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cipo_jax.policy.cache.attention import WORK_BLOCK, WorkList
from cipo_jax.sampling.decode import ChunkPlan, Slots, empty_slots
from cipo_jax.sampling.requests import CachedPrompt, Row


def prefill_arrays(
    calls: Sequence[Sequence[tuple[CachedPrompt, int]]], rows: int, width: int, table_width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """tokens, start, lengths, table of `decode.prefill`.

    Args:
      calls: per row shard, the prompts and how many of their next tokens to prefill.
      rows: rows per row shard.
    """
    B = rows * len(calls)
    tokens = np.zeros((B, width), np.int32)
    start, lengths = np.zeros((2, B), np.int32)
    table = np.zeros((B, table_width), np.int32)
    for shard, call in enumerate(calls):
        for i, (prompt, length) in enumerate(call, shard * rows):
            start[i], lengths[i] = prompt.filled, length
            tokens[i, :length] = prompt.tokens[prompt.filled : prompt.filled + length]
            table[i, : len(prompt.pages)] = prompt.pages
    return tokens, start, lengths, table


def chunk_plan(
    by_shard: Sequence[Sequence[Row]],
    local: int,
    fresh: Sequence[Row],
    copies: Sequence[Sequence[tuple[int, int]]],
    *,
    slots: int,
    width: int,
    page_size: int,
) -> ChunkPlan:
    """The plan of a decode chunk; its leaves are NumPy arrays.

    Args:
      by_shard: the rows to run, by row shard.
      local: rows of the program per row shard.
      fresh: the rows that were placed since the last chunk.
      copies: pages to copy (from, to), by row shard; at most `slots` in each.
      slots: slots per row shard.
      width: columns of the page table.
    """
    shards = len(by_shard)
    S, B = slots * shards, local * shards
    rows = np.full((B,), S, np.int32)
    table = np.zeros((B, width), np.int32)
    copy_from, copy_to = np.zeros((2, S), np.int32)
    counts = np.array([len(pairs) for pairs in copies], np.int32)
    works = []
    for shard, members in enumerate(by_shard):
        for i, row in enumerate(members, shard * local):
            rows[i] = row.slot
            table[i, : len(row.pages)] = row.pages
        works.append(_work_list(members, local * width, page_size))
        for i, (source, target) in enumerate(copies[shard], shard * slots):
            copy_from[i], copy_to[i] = source, target
    begun = _begun(fresh, S)
    parts: Any = (np.concatenate(x) for x in zip(*works, strict=True))
    arrays: Any = (rows, table, WorkList(*parts), copy_from, copy_to, counts)
    return ChunkPlan(begun, begun.live, *arrays)


def plan_shardings(whole: jax.sharding.Sharding, by_row: jax.sharding.Sharding) -> Any:
    """Where the leaves of a `ChunkPlan` lie: slots on every device, the rest with its rows."""
    slots = jax.tree.map(lambda _: whole, empty_slots(1))
    split: Any = (by_row, by_row, by_row, by_row)
    rest: Any = (whole, by_row, by_row, WorkList(*split), by_row, by_row, by_row)
    return ChunkPlan(slots, *rest)


def _work_list(members: Sequence[Row], size: int, page_size: int) -> tuple[np.ndarray, ...]:
    """(row, page, first, count) of one row shard's live pages, for a `WorkList` of >= `size`."""
    block = min(WORK_BLOCK, size)
    size = -(-size // block) * block
    counts = np.array([len(row.pages) for row in members], np.int32)
    total = int(counts.sum())
    row, page, first = np.zeros((3, size), np.int32)
    if total:
        row[:total] = np.repeat(np.arange(len(members), dtype=np.int32), counts)
        page[:total] = np.concatenate([r.pages for r in members])
        begins = np.repeat(np.cumsum(counts) - counts, counts)
        first[:total] = (np.arange(total) - begins) * page_size
    return row, page, first, np.array([total], np.int32)


def _begun(rows: Sequence[Row], count: int) -> Slots:
    """`count` slots in which `rows` begin and nothing else is live."""
    fresh: Any = empty_slots(count)
    for row in rows:
        request, slot = row.request, row.slot
        fresh.last[slot] = request.prompt.tokens[-1]
        fresh.position[slot] = len(request.prompt.tokens) - 1
        fresh.sampled[slot] = len(request.tokens)
        fresh.limit[slot] = request.limit
        fresh.live[slot] = True
        fresh.temperature[slot] = request.temperature
        fresh.request[slot] = request.id
        fresh.key[slot] = request.key
    return fresh
