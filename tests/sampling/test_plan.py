"""The arguments of the device programs, by hand."""

import jax
import numpy as np

from cipo_jax.policy import sharding
from cipo_jax.sampling.plan import chunk_plan, plan_shardings, prefill_arrays
from cipo_jax.sampling.requests import CachedPrompt, Request, Row


def prompt(tokens: list[int], pages: list[int], filled: int = 0, shard: int = 0) -> CachedPrompt:
    return CachedPrompt(np.array(tokens, np.int32), shard, 0, pages, filled, begun=True)


def row(tokens: list[int], slot: int, pages: list[int], shard: int = 0, sampled: int = 0) -> Row:
    p = prompt(tokens, [], shard=shard)
    request = Request(10 + slot, np.array([slot, 7], np.uint32), 0.5, 9, p, p.tokens, arrival=0)
    request.tokens = [1] * sampled
    return Row(request, slot, shard, pages)


def test_a_stretch_begins_where_the_prompt_is_filled() -> None:
    """Two row shards of two rows each; the second shard has one stretch."""
    calls = [
        [(prompt([1, 2, 3, 4, 5], [6, 7], filled=2), 2), (prompt([8, 9], [3]), 1)],
        [(prompt([4, 4, 4], [2, 5], shard=1), 2)],
    ]
    tokens, start, lengths, table = prefill_arrays(calls, rows=2, width=3, table_width=4)
    assert tokens.tolist() == [[3, 4, 0], [8, 0, 0], [4, 4, 0], [0, 0, 0]]
    assert start.tolist() == [2, 0, 0, 0] and lengths.tolist() == [2, 1, 2, 0]
    assert table.tolist() == [[6, 7, 0, 0], [3, 0, 0, 0], [2, 5, 0, 0], [0, 0, 0, 0]]
    assert {x.dtype for x in (tokens, start, lengths, table)} == {np.dtype("int32")}


def test_a_chunk_names_rows_pages_and_copies_by_shard() -> None:
    old = row([5, 6, 7], slot=1, pages=[4, 2], sampled=2)
    new = row([3, 9], slot=2, pages=[0], shard=1)
    plan = chunk_plan(
        [[old], [new]], 2, [new], [[], [(6, 0)]], slots=2, width=3, page_size=4
    )  # four slots in all
    assert plan.rows.tolist() == [1, 4, 2, 4]  # 4: no slot
    assert plan.table.tolist() == [[4, 2, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert plan.copies.tolist() == [0, 1]
    assert plan.copy_from.tolist() == [0, 0, 6, 0] and plan.copy_to.tolist() == [0, 0, 0, 0]

    assert plan.is_fresh.tolist() == plan.fresh.live.tolist() == [False, False, True, False]
    assert (plan.fresh.last[2], plan.fresh.position[2], plan.fresh.sampled[2]) == (9, 1, 0)
    assert (plan.fresh.request[2], plan.fresh.limit[2], plan.fresh.temperature[2]) == (12, 9, 0.5)
    assert plan.fresh.key[2].tolist() == [2, 7]

    size = len(plan.work.row) // 2
    assert size >= 2 * 3 and plan.work.count.tolist() == [2, 1]
    assert plan.work.row[:2].tolist() == [0, 0] and plan.work.page[:2].tolist() == [4, 2]
    assert plan.work.first[:2].tolist() == [0, 4]
    # Of the second shard, whose rows count from 0 as well.
    assert (plan.work.row[size], plan.work.page[size], plan.work.first[size]) == (0, 0, 0)


def test_every_leaf_of_a_plan_has_a_sharding() -> None:
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    plan = chunk_plan([[]], 2, [], [[]], slots=2, width=3, page_size=4)
    whole = sharding.replicated(mesh)
    shardings = plan_shardings(whole, whole)
    assert jax.tree.structure(plan) == jax.tree.structure(shardings)
