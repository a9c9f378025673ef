"""Page accounting: who holds what, what is remembered, what is given away."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipo_jax.sampling.pages import PagePool


def tokens(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_pages_are_given_out_once() -> None:
    pool = PagePool(5, page_size=2)
    first, second = pool.allocate(2), pool.allocate(3)
    assert first is not None and second is not None
    assert sorted(first + second) == list(range(5))
    assert pool.allocate(1) is None and pool.allocate(0) == []
    pool.release(first)
    assert (pool.available, pool.held) == (2, 3)
    assert pool.allocate(3) is None  # and nothing is taken
    assert pool.available == 2


def test_a_page_is_free_when_its_last_holder_lets_go() -> None:
    pool = PagePool(2, page_size=2)
    pages = pool.allocate(2)
    assert pages is not None
    pool.hold(pages)
    pool.release(pages)
    assert pool.held == 2
    pool.release(pages)
    assert pool.held == 0
    with pytest.raises(AssertionError, match="nobody holds it"):
        pool.release(pages[:1])


def test_the_longest_common_beginning_is_found() -> None:
    pool = PagePool(8, page_size=2)
    pages = pool.allocate(3)
    assert pages is not None
    pool.remember(tokens(1, 2, 3, 4, 5, 6, 7), pages)
    pool.release(pages)
    assert pool.held == 0 and pool.available == 8  # remembered, and yet to be had
    for asked, count in (
        ((1, 2, 3, 4, 5, 6), 3),
        ((1, 2, 3, 4, 5), 2),
        ((1, 2, 3, 9, 5, 6), 1),
        ((1, 9, 3, 4, 5, 6), 0),
        ((3, 4, 5, 6), 0),  # the same tokens after others are other keys and values
        ((1,), 0),
        ((), 0),
    ):
        found = pool.find(tokens(*asked))
        assert found == pages[:count] and pool.held == count
        pool.release(found)


def test_remembered_pages_go_last_and_the_longest_unused_first() -> None:
    pool = PagePool(5, page_size=1)
    a, b = pool.allocate(2), pool.allocate(1)
    assert a is not None and b is not None
    pool.remember(tokens(1, 2), a)
    pool.remember(tokens(7), b)
    pool.release(b)
    pool.release(a)
    pool.release(pool.find(tokens(7)))  # used again, after a
    got = pool.allocate(3)  # two were never used
    assert got is not None and a[1] in got and a[0] not in got  # the end before the beginning
    assert pool.find(tokens(1, 2)) == a[:1] and pool.find(tokens(7)) == b


def test_tokens_are_remembered_under_one_page_and_pages_under_one_name() -> None:
    pool = PagePool(4, page_size=2)
    first, second = pool.allocate(1), pool.allocate(1)
    assert first is not None and second is not None
    pool.remember(tokens(1, 2), first)
    pool.remember(tokens(1, 2), second)  # computed twice at the same time
    pool.remember(tokens(3, 4), first)
    pool.release(second)
    pool.release(first)
    assert pool.find(tokens(1, 2)) == first and pool.find(tokens(3, 4)) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 1), max_size=6)), max_size=60))
def test_nothing_is_lost_whatever_happens(actions: list[tuple[int, list[int]]]) -> None:
    """Prompts over two token values come, find, compute, are remembered and go in any order."""
    pool = PagePool(7, page_size=2)
    holders: list[list[int]] = []
    contents: dict[int, tuple[int, ...]] = {}  # what was last written to a page, from the beginning
    for action, values in actions:
        if action == 0 and holders:
            pool.release(holders.pop())
        elif action == 1 and holders:
            pool.release(holders.pop(0))
        else:
            prompt = np.array(values, np.int32)
            found = pool.find(prompt)
            for i, page in enumerate(found, 1):
                assert contents[page] == tuple(values[: 2 * i])
            pages = pool.allocate(-(-len(values) // 2) - len(found))
            if pages is None:
                pool.release(found)
                continue
            every = [*found, *pages]
            for i, page in enumerate(every, 1):
                if page in pages:
                    assert not any(page in held for held in holders)
                    contents[page] = tuple(values[: 2 * i])
            pool.remember(prompt, every[: len(values) // 2])
            holders.append(every)
        assert pool.held == len({page for held in holders for page in held})
        assert pool.held + pool.available == 7
    for held in holders:
        pool.release(held)
    assert pool.held == 0 and len(pool.allocate(7) or []) == 7
