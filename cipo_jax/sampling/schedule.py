"""Who waits, who is decoded, and who holds which pages: the engine's decisions.

Each row shard of the mesh has its own queue of requests, slots and pool of pages. A request belongs
to one shard from its arrival to its end.

Not decided here: when a turn of the loop begins and what the device computes in it (`engine`), how
pages are counted and found again (`pages`), what a program's arguments look like (`plan`). No JAX
here: everything is Python and NumPy on the host.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cipo_jax.sampling.pages import PagePool
from cipo_jax.sampling.requests import CachedPrompt, Request, Row
from cipo_jax.sampling.settings import (
    EngineSettings,
    EngineStats,
    pages_per_shard,
    prefill_budget,
    prefill_rows,
    prefill_widths,
)


class PrefillCall(NamedTuple):
    """What one call of the prefill program computes.

    Attributes:
      stretches: for each row shard, prompts and how many of their next tokens to prefill.
      rows: rows of the program, per row shard.
      width: tokens of a row, padding included.
    """

    stretches: Sequence[Sequence[tuple[CachedPrompt, int]]]
    rows: int
    width: int


class Schedule:
    """The host's state of all requests.

    Attributes:
      slots_per_shard: slots of each row shard; slots are numbered shard by shard.
      stats: prompts, evictions and the most pages held are counted here, the rest in `engine`.
      pools: the pages of each row shard.
      queues: requests that wait for a slot, of each row shard, in the order they are served.
      placed: {slot: row} of the requests being decoded.
      free: the free slots of each row shard, used from the end.
      fresh: rows placed since the last decode chunk.
      copies: pages to copy (from, to) before the next decode chunk, of each row shard.

    Raises:
      CipoError: settings that cannot work with one another.
    """

    def __init__(self, settings: EngineSettings, shards: int) -> None:
        self.settings = settings
        self.slots_per_shard = -(-settings.slots // shards)
        self.stats = EngineStats()
        self._widths = prefill_widths(settings)
        self._num_pages = pages_per_shard(settings, shards)
        self.pools: list[PagePool] = []
        self.queues: list[deque[Request]] = [deque() for _ in range(shards)]
        self.placed: dict[int, Row] = {}
        self.free: list[list[int]] = []
        self.fresh: list[Row] = []
        self.copies: list[list[tuple[int, int]]] = [[] for _ in range(shards)]
        self._arrivals = 0
        self.empty_cache()

    @property
    def shards(self) -> int:
        return len(self.queues)

    @property
    def num_pages(self) -> int:
        """Pages of the cache, over all row shards."""
        return self._num_pages * self.shards

    @property
    def busy(self) -> bool:
        """Whether requests wait or are being decoded."""
        return bool(self.placed or any(self.queues))

    def empty_cache(self) -> None:
        """Forgets all pages, and what earlier requests have left: the next ones get the slots that
        they would get in a new engine. A row's last bits may depend on its place in the batch, and
        a run that is continued samples with a new engine. Only without requests."""
        page_size = self.settings.page_size
        slots = np.arange(self.slots_per_shard * self.shards).reshape(self.shards, -1)
        self.free, self._arrivals = slots[:, ::-1].tolist(), 0
        self.pools = [PagePool(self._num_pages, page_size) for _ in range(self.shards)]

    def submit(
        self,
        request_id: int,
        prompt: np.ndarray,
        key: np.ndarray,
        samples: int,
        temperature: float,
        limit: int,
    ) -> None:
        """Queues requests with ids `request_id` ... `request_id` + samples - 1, in the row shard
        with the fewest waiting requests less free slots. Arguments as in `Request`."""
        load = [len(q) - len(f) for q, f in zip(self.queues, self.free, strict=True)]
        shard = int(np.argmin(load))
        shared = CachedPrompt(np.asarray(prompt, np.int32), shard, samples)
        for i in range(request_id, request_id + samples):
            asked = (i, key, temperature, limit, shared, shared.tokens, self._arrivals)
            self.queues[shard].append(Request(*asked))
            self._arrivals += 1

    def cancel(self) -> None:
        """Drops all requests."""
        for slot in list(self.placed):
            self.vacate(slot)
        for queue in self.queues:
            for request in queue:
                self._drop_prompt(request.prompt)
            queue.clear()
        self.fresh.clear()
        for copies in self.copies:
            copies.clear()

    # Prompts.

    def plan_prefill(self) -> list[PrefillCall]:
        """The next stretches of the prompts that slots are free for, as calls of the program, to be
        made in this order, each followed by `note_prefilled`. The prompts get their pages."""
        budget = prefill_budget(self.settings, self.shards)
        stretches = [self._next_stretches(shard, budget) for shard in range(self.shards)]
        calls = []
        while any(stretches):
            widest = max(shard[0][1] for shard in stretches if shard)
            narrower, width = next(
                pair for pair in itertools.pairwise((0, *self._widths)) if pair[1] >= widest
            )
            needed = max(sum(length > narrower for _, length in shard) for shard in stretches)
            rows = prefill_rows(self.settings, self.shards, width, needed)
            # Shorter ones fill the rows that would be empty.
            calls.append(PrefillCall([shard[:rows] for shard in stretches], rows, width))
            stretches = [shard[rows:] for shard in stretches]
        return calls

    def note_prefilled(self, call: PrefillCall) -> None:
        """The call's stretches are in their pages; prompts that are complete can be found again."""
        for stretches in call.stretches:
            for prompt, length in stretches:
                prompt.filled += length
                if prompt.ready:
                    whole = (len(prompt.tokens) - 1) // self.settings.page_size
                    self.pools[prompt.shard].remember(prompt.tokens, prompt.pages[:whole])

    def _next_stretches(self, shard: int, budget: int) -> list[tuple[CachedPrompt, int]]:
        """(prompt, tokens) to prefill in a row shard, about `budget` tokens, longest first."""
        found: list[tuple[CachedPrompt, int]] = []
        left, seen = budget, set[int]()
        candidates = zip(self.queues[shard], self.free[shard], strict=False)
        for rows, (request, _) in enumerate(candidates, self._live(shard)):
            prompt = request.prompt
            if id(prompt) in seen or prompt.ready:
                continue
            seen.add(id(prompt))
            if not prompt.begun and not self._begin_prompt(prompt, rows):
                if rows:
                    break  # until those before it have finished
                for waiting in self.queues[shard]:
                    self._drop_prompt(waiting.prompt)
                if not self._begin_prompt(prompt, rows):
                    raise AssertionError("an empty cache cannot hold one prompt")
            length = prompt.missing
            if length > self._widths[-1]:  # the next stretch must begin a page
                length = self._widths[-1] // self.settings.page_size * self.settings.page_size
            if length and (length <= left or not found):
                found.append((prompt, length))
                left -= length
            if left <= 0:
                break
        return sorted(found, key=lambda item: -item[1])

    def _begin_prompt(self, prompt: CachedPrompt, rows: int) -> bool:
        """Finds what the cache has of a prompt and takes pages for the rest; False if there are too
        few now, with `rows` rows before it."""
        pool = self.pools[prompt.shard]
        tokens = prompt.tokens[:-1]  # the last one is fed by the first decode step
        found = pool.find(tokens)
        wanted = -(-len(tokens) // pool.page_size) - len(found)
        fits = not rows or wanted + (rows + 1) * self._growth < pool.available
        pages = pool.allocate(wanted) if fits else None
        if pages is None:
            pool.release(found)
            return False
        prompt.pages, prompt.filled = [*found, *pages], len(found) * pool.page_size
        prompt.begun = True
        self.stats.prompt_tokens += len(tokens)
        self.stats.reused_tokens += prompt.filled
        return True

    def _drop_prompt(self, prompt: CachedPrompt) -> None:
        """Takes a prompt's pages away; it is prefilled again when its turn comes."""
        self.pools[prompt.shard].release(prompt.pages)
        prompt.pages, prompt.filled, prompt.begun = [], 0, False

    # Slots.

    def _live(self, shard: int) -> int:
        """Rows of a shard that are being decoded."""
        return self.slots_per_shard - len(self.free[shard])

    @property
    def _growth(self) -> int:
        """Pages kept free for each row when another gets a slot: what it may need for a chunk. 0 if
        there is room for all slots at full length."""
        s = self.settings
        return -(-s.chunk // s.page_size) if s.cache_tokens else 0

    def fill_slots(self) -> None:
        """Moves requests whose prompt is ready from the queues' heads into free slots."""
        for shard, queue in enumerate(self.queues):
            pool, free = self.pools[shard], self.free[shard]
            live = self._live(shard)
            while queue and free and queue[0].prompt.ready:
                if live and pool.available <= (live + 1) * self._growth:
                    break
                pages = self._pages_of_sample(queue[0].prompt)
                if pages is None:
                    assert live, "prompts are begun only where rows keep room to grow"
                    break
                row = Row(queue.popleft(), free.pop(), shard, pages)
                self.placed[row.slot] = row
                self.fresh.append(row)
                live += 1

    def _pages_of_sample(self, prompt: CachedPrompt) -> list[int] | None:
        """A sample's pages for its prompt: it shares full pages and gets a copy of the last one, to
        which it goes on writing; the last sample takes the prompt's own. None if there is no page
        for the copy."""
        prompt.waiting -= 1
        if prompt.waiting == 0:
            pages, prompt.pages = prompt.pages, []
            return pages
        pool = self.pools[prompt.shard]
        whole = (len(prompt.tokens) - 1) // pool.page_size
        shared, partial = prompt.pages[:whole], prompt.pages[whole:]
        own = pool.allocate(len(partial))
        if own is None:
            prompt.waiting += 1
            return None
        pool.hold(shared)
        self.copies[prompt.shard] += zip(partial, own, strict=True)
        return [*shared, *own]

    def vacate(self, slot: int) -> None:
        """Takes the row out of a slot, and its pages from it."""
        row = self.placed.pop(slot)
        row.gone = True
        self.pools[row.shard].release(row.pages)
        self.free[row.shard].append(slot)
        if row in self.fresh:
            self.fresh.remove(row)

    # Room for the next chunk.

    def grow(self) -> int | None:
        """Gives every row the pages that its next chunk may reach, the oldest request first.
        Returns None if all have theirs, else the row shard that has run out of pages: the caller
        makes room there (`drop_waiting_prompt`, `evict`) and calls again."""
        for row in sorted(self.placed.values(), key=lambda row: row.request.arrival):
            reach = row.reach(self.settings.chunk)
            wanted = -(-reach // self.settings.page_size) - len(row.pages)
            pages = self.pools[row.shard].allocate(max(wanted, 0))
            if pages is None:
                return row.shard
            row.pages += pages
        return None

    def drop_waiting_prompt(self, shard: int) -> bool:
        """Takes the pages of the last prompt that has some and whose samples still wait; False if
        there is none."""
        waiting = [r.prompt for r in self.queues[shard] if r.prompt.begun]
        if waiting:
            self._drop_prompt(waiting[-1])
        return bool(waiting)

    def evict(self, shard: int) -> None:
        """Takes slot and pages from the youngest request of a row shard. It goes back to the head
        of the queue; its tokens are prefilled with its prompt. No chunk may be in flight."""
        rows = [row for row in self.placed.values() if row.shard == shard]
        youngest = max(rows, key=lambda row: row.request.arrival)
        self.vacate(youngest.slot)
        # Copies into its pages must not reach whoever gets them next.
        gone = set(youngest.pages)
        self.copies[shard] = [c for c in self.copies[shard] if c[1] not in gone]
        request = youngest.request
        request.prompt = CachedPrompt(request.all_tokens(), shard, 1)
        self.queues[shard].appendleft(request)
        self.stats.evictions += 1

    # Chunks.

    def rows_by_shard(self) -> list[list[Row]]:
        """The rows being decoded, by row shard, in order of their slots."""
        by_shard: list[list[Row]] = [[] for _ in range(self.shards)]
        for row in sorted(self.placed.values(), key=lambda row: row.slot):
            by_shard[row.shard].append(row)
        return by_shard

    def note_dispatched(self) -> None:
        """A chunk of all placed rows, with `fresh` and `copies`, is under way."""
        for row in self.placed.values():
            row.in_flight += 1
        self.fresh.clear()
        for pairs in self.copies:
            pairs.clear()
        held = sum(pool.held for pool in self.pools)
        self.stats.peak_pages = max(self.stats.peak_pages, held)
