"""Who holds which page of the key/value cache: a free list with reference counts.

Pages that hold a prompt's tokens are remembered under those tokens and everything before them, so
that a later prompt with the same beginning finds them. A remembered page that nobody holds any more
is forgotten and given out only when the free ones run out, the longest unused first.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


class PagePool:
    """The pages 0 .. num_pages - 1 of one row shard."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self._holders = np.zeros(num_pages, np.int64)
        self._name: dict[int, bytes] = {}  # remembered page -> its name
        self._page: dict[bytes, int] = {}
        self._unheld: OrderedDict[int, None] = OrderedDict()  # remembered, longest unused first

    @property
    def available(self) -> int:
        """Pages that `allocate` can give."""
        return len(self._free) + len(self._unheld)

    @property
    def held(self) -> int:
        """Pages that somebody holds."""
        return self.num_pages - self.available

    def allocate(self, count: int) -> list[int] | None:
        """`count` pages, each with one holder; None if there are fewer."""
        if count > self.available:
            return None
        while len(self._free) < count:
            page, _ = self._unheld.popitem(last=False)
            del self._page[self._name.pop(page)]
            self._free.append(page)
        pages = [self._free.pop() for _ in range(count)]
        self._holders[pages] = 1
        return pages

    def hold(self, pages: Sequence[int]) -> None:
        """One more holder for each of `pages`."""
        for page in pages:
            self._holders[page] += 1
            self._unheld.pop(page, None)

    def release(self, pages: Sequence[int]) -> None:
        """One holder less for each of `pages`, which are in order of position."""
        for page in reversed(pages):  # a page is of no use without those before it
            if self._holders[page] <= 0:
                raise AssertionError(f"page {page} is released but nobody holds it")
            self._holders[page] -= 1
            if self._holders[page] == 0:
                if page in self._name:
                    self._unheld[page] = None
                else:
                    self._free.append(page)

    def remember(self, tokens: np.ndarray, pages: Sequence[int]) -> None:
        """Notes that `pages` hold keys and values of the first len(pages) * page_size tokens."""
        for name, page in zip(self._names(tokens, len(pages)), pages, strict=True):
            if name not in self._page and page not in self._name:
                self._page[name], self._name[page] = page, name

    def find(self, tokens: np.ndarray) -> list[int]:
        """The remembered pages of the longest beginning of `tokens`, held for the caller."""
        found = []
        for name in self._names(tokens, len(tokens) // self.page_size):
            if name not in self._page:
                break
            found.append(self._page[name])
        self.hold(found)
        return found

    def _names(self, tokens: np.ndarray, count: int) -> list[bytes]:
        """A digest per page of all tokens up to its end."""
        digest, names = hashlib.blake2b(digest_size=16), []
        for i in range(count):
            digest.update(tokens[i * self.page_size : (i + 1) * self.page_size].tobytes())
            names.append(digest.digest())
        return names
