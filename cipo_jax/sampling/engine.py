"""The host loop of sampling: requests in, completions out as they finish.

Requests wait in a queue. Each turn of the loop prefills the prompts at its head, moves requests
whose prompt is ready into free slots, runs one chunk of decode steps over the live slots, and hands
out what has finished. So the device works on live tokens: a finished completion's slot goes to the
next request, and its pages of the cache to whoever needs them.

    queue -> prompt prefilled once, its pages shared by its samples -> slot -> completion
               ^                                                        |
               +---- preempted: out of pages, the youngest waits again -+

Nothing of this shows in a completion: it depends on the parameters, its prompt, its request id and
the key, not on slots, pages, chunks, neighbours, order of arrival, preemption or the mesh.

Shapes are static: a decode program per number of rows (the slots, and halves of that for when few
requests are left), a prefill program per bucket of widths and rows.
"""

import functools
import operator
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cipo_jax.policy.cache.pages import Pages, empty_pages
from cipo_jax.policy.model import ModelConfig, Params, cast_weights, param_shardings
from cipo_jax.policy.sharding import ROWS, logical_rules, replicated, row_count
from cipo_jax.sampling.decode import ChunkResult, Slots, decode_chunk, empty_slots, prefill
from cipo_jax.sampling.pages import PagePool
from cipo_jax.sampling.plan import chunk_plan, plan_shardings, prefill_arrays
from cipo_jax.sampling.requests import Prompt, Request, Row, stop_text_end
from cipo_jax.sampling.settings import (
    EngineSettings,
    EngineStats,
    cache_dtype,
    pages_per_shard,
    prefill_widths,
    row_bucket,
    table_width,
)
from cipo_jax.types import CipoError, Completion

# (params, prompts, samples, key) -> (request id, completion) as they finish
Sample = Callable[[Params, Sequence[np.ndarray], int, jax.Array], Iterator[tuple[int, Completion]]]


class Engine:
    """Samples completions.

    Args:
      mesh: how sampling sees the devices. It may have more tensor shards and fewer of rows than the
        parameters' own mesh: they are laid out anew, in the compute dtype, when they are opened.
      decode_text: token ids -> text; needed with stop strings.

    Raises:
      CipoError: settings that cannot work with the model or with one another.
    """

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        settings: EngineSettings,
        decode_text: Callable[[list[int]], str] | None = None,
    ) -> None:
        s = settings
        self.config, self.mesh, self.settings = config, mesh, s
        self.stats = EngineStats()
        self._decode_text = decode_text
        self._longest = min(s.max_prompt_tokens, config.max_positions - s.max_new_tokens)
        self._shards = row_count(mesh)
        self._per_shard = -(-s.slots // self._shards)
        self._table_width = table_width(s)
        self._widths = prefill_widths(s)
        self._num_pages = pages_per_shard(s, self._shards)

        rules = logical_rules(mesh, config.axis_sizes)
        self._shardings = param_shardings(config, mesh)
        self._new_pages = jax.jit(
            functools.partial(
                empty_pages,
                config.num_layers,
                self._num_pages * self._shards,
                s.page_size,
                config.num_kv_heads,
                config.head_dim,
                cache_dtype(s, config.compute_dtype, mesh),
                rules,
            )
        )
        self._prefill = jax.jit(
            functools.partial(prefill, config, rules), static_argnums=0, donate_argnums=2
        )
        self._decode = jax.jit(
            functools.partial(decode_chunk, config, rules, s.choice, s.chunk),
            donate_argnums=(1, 2),
        )
        self._whole = replicated(mesh)
        self._by_row = NamedSharding(mesh, P(ROWS))

        # On the device, between `open` and `close`.
        self._leaves: list[jax.Array] = []
        self._params: Params = {}
        self._pages: Pages | None = None
        self._slots: Slots | None = None
        # On the host.
        self._pools: list[PagePool] = []
        self._queues: list[deque[Request]] = [deque() for _ in range(self._shards)]
        self._placed: dict[int, Row] = {}  # slot -> row
        self._free: list[list[int]] = [
            list(range(r * self._per_shard, (r + 1) * self._per_shard))[::-1]
            for r in range(self._shards)
        ]
        self._in_flight: deque[tuple[list[Row | None], ChunkResult]] = deque()
        self._fresh: list[Row] = []  # placed since the last chunk
        self._copies: list[list[tuple[int, int]]] = [[] for _ in range(self._shards)]
        self._arrivals = 0

    # What callers use.

    @property
    def num_pages(self) -> int:
        """Pages of the cache, over all row shards."""
        return self._num_pages * self._shards

    def open(self, params: Params) -> None:
        """Samples with `params` from now on. Equal parameters (the same arrays as before) keep the
        cache, so prompts find what earlier ones have in common with them."""
        if self.busy:
            raise RuntimeError("the engine still has requests of other parameters")
        leaves = jax.tree.leaves(params)
        if self._pages is not None and all(map(operator.is_, leaves, self._leaves)):
            return
        self._leaves, self._params = leaves, self._laid_out(params)
        self._pools = [
            PagePool(self._num_pages, self.settings.page_size) for _ in range(self._shards)
        ]
        if self._pages is None:
            with jax.set_mesh(self.mesh):
                self._pages = self._new_pages()
            self._slots = jax.device_put(empty_slots(self._per_shard * self._shards), self._whole)

    def close(self) -> None:
        """Gives the cache's memory back; what is not finished is dropped."""
        self.cancel()
        self._leaves, self._params, self._pages, self._slots = [], {}, None, None

    def submit(
        self,
        request_id: int,
        prompt: np.ndarray,
        key: np.ndarray,
        samples: int = 1,
        temperature: float | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        """Queues `samples` requests with ids `request_id`, `request_id` + 1, ...

        Args:
          prompt: [P] int32 tokens, 1 <= P <= max_prompt_tokens.
          key: [2] uint32, the data of the call's key.
          temperature: default: the settings'.
          max_new_tokens: at most the settings', which is the default.

        Raises:
          CipoError: a prompt or limit out of range.
        """
        s = self.settings
        limit = s.max_new_tokens if max_new_tokens is None else max_new_tokens
        if not 0 < len(prompt) <= self._longest:
            raise CipoError(
                f"prompt {request_id // samples}: has {len(prompt)} tokens, wanted 1 to "
                f"{self._longest} (the longest prompt declared, or what the model's positions "
                "leave beside the completion)"
            )
        if not 1 <= limit <= s.max_new_tokens:
            raise CipoError(f"max_new_tokens: got {limit}, wanted 1 to {s.max_new_tokens}")
        load = [len(q) - len(f) for q, f in zip(self._queues, self._free, strict=True)]
        shard = int(np.argmin(load))
        shared = Prompt(np.asarray(prompt, np.int32), shard, samples)
        for j in range(samples):
            self._queues[shard].append(
                Request(
                    id=request_id + j,
                    key=key,
                    temperature=s.temperature if temperature is None else temperature,
                    limit=limit,
                    prompt=shared,
                    prompt_tokens=shared.tokens,
                    arrival=self._arrivals + j,
                )
            )
        self._arrivals += samples

    @property
    def busy(self) -> bool:
        """Whether requests are waiting or being decoded."""
        return bool(self._placed or self._in_flight or any(self._queues))

    def step(self) -> list[tuple[int, Completion]]:
        """One turn of the loop: prefill, fill slots, decode a chunk; returns (request id,
        completion) of what finished."""
        with jax.set_mesh(self.mesh):
            self._prefill_waiting()
            self._fill_slots()
            done = self._grow()
            if self._placed:
                self._dispatch()
        while len(self._in_flight) > (self.settings.dispatch_ahead and bool(self._placed)):
            done += self._harvest()
        return done

    def progress(self) -> dict[int, list[int]]:
        """The tokens so far of the requests that are being decoded, by request id."""
        return {row.request.id: list(row.request.tokens) for row in self._placed.values()}

    def cancel(self) -> None:
        """Drops all requests."""
        self._in_flight.clear()
        for slot in list(self._placed):
            self._vacate(slot)
        for queue in self._queues:
            for request in queue:
                self._drop_prompt(request.prompt)
            queue.clear()
        self._fresh.clear()
        for copies in self._copies:
            copies.clear()

    def sample(
        self,
        params: Params,
        prompts: Sequence[np.ndarray],
        samples: int,
        key: jax.Array,
        temperature: float | None = None,
        max_new_tokens: int | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Samples `samples` completions of each prompt.

        Yields `(request id, Completion)` as they finish; sample j of prompt i has request id
        `i * samples + j`. Arguments as in `open` and `submit`.
        """
        self.open(params)
        key_data = np.asarray(jax.random.key_data(key))
        try:
            for i, prompt in enumerate(prompts):
                self.submit(i * samples, prompt, key_data, samples, temperature, max_new_tokens)
            while self.busy:
                yield from self.step()
        finally:
            self.cancel()

    def _laid_out(self, params: Params) -> Params:
        """The parameters as decoding reads them, step after step: in the compute dtype, on the
        shards of the engine's mesh."""
        c = self.config
        if c.param_dtype != c.compute_dtype:
            params = jax.jit(functools.partial(cast_weights, dtype=c.compute_dtype))(params)
        return jax.device_put(params, self._shardings)

    # Prompts.

    def _prefill_waiting(self) -> None:
        """Prefills the next stretches of the prompts that slots are free for."""
        budget = max(self.settings.prefill_tokens // self._shards, self._widths[0])
        stretches: list[list[tuple[Prompt, int]]] = []  # per shard: prompt, tokens
        for shard, queue in enumerate(self._queues):
            found: list[tuple[Prompt, int]] = []
            left = budget
            seen: set[int] = set()
            live = self._live(shard)
            for rows, (request, _) in enumerate(zip(queue, self._free[shard], strict=False), live):
                prompt = request.prompt
                if id(prompt) in seen or prompt.ready:
                    continue
                seen.add(id(prompt))
                if not prompt.begun and not self._begin_prompt(prompt, rows):
                    if rows:
                        break  # until those before it have finished
                    self._drop_waiting(shard)
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
            stretches.append(sorted(found, key=lambda item: -item[1]))
        while any(stretches):
            widest = max(shard[0][1] for shard in stretches if shard)
            width = next(w for w in self._widths if w >= widest)
            most = max(1, budget // width)
            calls = [shard[:most] for shard in stretches]
            stretches = [shard[most:] for shard in stretches]
            self._prefill_call(calls, width, most)

    def _begin_prompt(self, prompt: Prompt, rows: int) -> bool:
        """Finds what the cache has of a prompt and takes pages for the rest; False if none are to
        be had now, with `rows` rows that come before it."""
        pool = self._pools[prompt.shard]
        tokens = prompt.tokens[:-1]  # the last one is fed by the first decode step
        found = pool.find(tokens)
        wanted = -(-len(tokens) // pool.page_size) - len(found)
        fits = not rows or wanted + (rows + 1) * self._growth < pool.available
        pages = pool.allocate(wanted) if fits else None
        if pages is None:
            pool.release(found)
            return False
        prompt.pages = [*found, *pages]
        prompt.filled = len(found) * pool.page_size
        prompt.begun = True
        self.stats.prompt_tokens += len(tokens)
        self.stats.reused_tokens += prompt.filled
        return True

    def _prefill_call(self, calls: list[list[tuple[Prompt, int]]], width: int, most: int) -> None:
        """Prefills a stretch of every listed prompt (per row shard), padded to `width`."""
        # Coarser than for decoding: prompts are prefilled once, and few programs are compiled.
        rows = row_bucket(most, max(len(call) for call in calls), step=4)
        tokens, start, lengths, table = prefill_arrays(calls, rows, width, self._table_width)
        context = -(-int(start.max()) // self.settings.page_size)
        if context:  # a power of two, so that few programs serve all lengths
            context = min(1 << (context - 1).bit_length(), self._table_width)
        put = functools.partial(jax.device_put, device=self._by_row)
        self._pages = self._prefill(
            context, self._params, self._pages, put(tokens), put(start), put(lengths), put(table)
        )
        self.stats.prefill_positions += tokens.size
        for call in calls:
            for prompt, length in call:
                prompt.filled += length
                if prompt.ready:
                    whole = (len(prompt.tokens) - 1) // self.settings.page_size
                    self._pools[prompt.shard].remember(prompt.tokens, prompt.pages[:whole])

    def _drop_prompt(self, prompt: Prompt) -> None:
        """Takes a prompt's pages away; it is prefilled again when its turn comes."""
        self._pools[prompt.shard].release(prompt.pages)
        prompt.pages, prompt.filled, prompt.begun = [], 0, False

    def _drop_waiting(self, shard: int) -> None:
        """Takes the pages of a shard's waiting prompts away."""
        for request in self._queues[shard]:
            self._drop_prompt(request.prompt)

    # Slots.

    def _live(self, shard: int) -> int:
        """Rows of a shard that are being decoded."""
        return self._per_shard - len(self._free[shard])

    @property
    def _growth(self) -> int:
        """Pages to spare for every row when another is let in: what it may need for a chunk.
        Nothing if there is room for all slots at full length."""
        s = self.settings
        return -(-s.chunk // s.page_size) if s.cache_tokens else 0

    def _fill_slots(self) -> None:
        """Moves requests whose prompt is ready from the queues' heads into free slots."""
        for shard, queue in enumerate(self._queues):
            pool, free = self._pools[shard], self._free[shard]
            live = self._live(shard)
            while queue and free and queue[0].prompt.ready:
                if live and pool.available <= (live + 1) * self._growth:
                    break
                request = queue[0]
                prompt = request.prompt
                pages = self._pages_of_sample(prompt)
                if pages is None:
                    assert live, "prompts are begun only where rows keep room to grow"
                    break
                queue.popleft()
                row = Row(request, free.pop(), shard, pages)
                self._placed[row.slot] = row
                self._fresh.append(row)
                live += 1

    def _pages_of_sample(self, prompt: Prompt) -> list[int] | None:
        """A sample's pages for its prompt: whole ones are shared, of the last one, which the sample
        goes on writing to, it gets a copy; the last sample takes the prompt's own."""
        prompt.waiting -= 1
        if prompt.waiting == 0:
            pages, prompt.pages = prompt.pages, []
            return pages
        pool = self._pools[prompt.shard]
        whole = (len(prompt.tokens) - 1) // pool.page_size
        shared, partial = prompt.pages[:whole], prompt.pages[whole:]
        own = pool.allocate(len(partial))
        if own is None:
            prompt.waiting += 1
            return None
        pool.hold(shared)
        self._copies[prompt.shard] += zip(partial, own, strict=True)
        return [*shared, *own]

    def _vacate(self, slot: int) -> Row:
        row = self._placed.pop(slot)
        row.gone = True
        self._pools[row.shard].release(row.pages)
        self._free[row.shard].append(slot)
        if row in self._fresh:
            self._fresh.remove(row)
        return row

    def _grow(self) -> list[tuple[int, Completion]]:
        """Gives every row the pages its next chunk may reach; preempts the youngest rows of a shard
        that runs out."""
        done: list[tuple[int, Completion]] = []
        for row in sorted(self._placed.values(), key=lambda row: row.request.arrival):
            while not row.gone:
                reach = row.reach(self.settings.chunk)
                wanted = -(-reach // self.settings.page_size) - len(row.pages)
                pages = self._pools[row.shard].allocate(max(wanted, 0))
                if pages is not None:
                    row.pages += pages
                    break
                done += self._make_room(row.shard)
        return done

    def _make_room(self, shard: int) -> list[tuple[int, Completion]]:
        """Frees pages of a row shard: of prompts whose samples still wait, else of the youngest
        row, whose request goes back to the head of the queue with the tokens it has."""
        waiting = [r.prompt for r in self._queues[shard] if r.prompt.begun]
        if waiting:
            self._drop_prompt(waiting[-1])
            return []
        if self._in_flight:  # its tokens may be under way, or have finished it
            done = []
            while self._in_flight:
                done += self._harvest()
            return done
        rows = [row for row in self._placed.values() if row.shard == shard]
        youngest = max(rows, key=lambda row: row.request.arrival)
        self._vacate(youngest.slot)
        # Copies into its pages must not reach whoever gets them next.
        gone = set(youngest.pages)
        self._copies[shard] = [c for c in self._copies[shard] if c[1] not in gone]
        request = youngest.request
        request.prompt = Prompt(request.all_tokens(), shard, 1)
        self._queues[shard].appendleft(request)
        self.stats.preemptions += 1
        return []

    # Chunks.

    def _dispatch(self) -> None:
        """Starts a decode chunk over the live rows."""
        by_shard: list[list[Row]] = [[] for _ in range(self._shards)]
        for row in sorted(self._placed.values(), key=lambda row: row.slot):
            by_shard[row.shard].append(row)
        local = row_bucket(self._per_shard, max(map(len, by_shard)))
        plan = chunk_plan(
            by_shard,
            local,
            self._fresh,
            self._copies,
            slots=self._per_shard,
            width=self._table_width,
            page_size=self.settings.page_size,
        )
        placed = jax.device_put(plan, plan_shardings(self._whole, self._by_row))
        self._pages, self._slots, result = self._decode(
            self._params, self._pages, self._slots, placed
        )
        snapshot: list[Row | None] = []
        for members in by_shard:
            snapshot += [*members, *[None] * (local - len(members))]
            for row in members:
                row.in_flight += 1
        self._fresh.clear()
        for pairs in self._copies:
            pairs.clear()
        for leaf in jax.tree.leaves(result):
            leaf.copy_to_host_async()
        self._in_flight.append((snapshot, result))
        self.stats.peak_pages = max(self.stats.peak_pages, sum(p.held for p in self._pools))

    def _harvest(self) -> list[tuple[int, Completion]]:
        """Waits for the oldest chunk; its rows' new tokens, and the completions it finished."""
        snapshot, result = self._in_flight.popleft()
        result = jax.device_get(result)
        steps = 0
        done = []
        for i, row in enumerate(snapshot):
            if row is None or row.gone:
                continue
            row.in_flight -= 1
            request = row.request
            new = int(result.sampled[i]) - len(request.tokens)
            before = len(request.tokens)
            request.tokens += result.tokens[:new, i].tolist()
            request.logprobs += result.logprobs[:new, i].tolist()
            steps = max(steps, new)
            self.stats.sampled_tokens += new
            finished = bool(new) and request.tokens[-1] in self.settings.choice.stop_ids
            if self.settings.stop_strings and self._decode_text is not None:
                end = stop_text_end(
                    request.tokens, before, self.settings.stop_strings, self._decode_text
                )
                if end is not None:
                    del request.tokens[end:], request.logprobs[end:]
                    finished = True
            if finished or not result.live[i]:
                self._vacate(row.slot)
                done.append((request.id, request.completion(finished)))
        self.stats.decode_steps += steps
        self.stats.row_steps += steps * len(snapshot)
        return done
