"""The loop of sampling: one turn of the host, one chunk of the device, until nothing is left.

A turn prefills the prompts at the head of the queue, moves requests whose prompt is ready into free
slots, runs one chunk of decode steps over the live slots, and returns what has finished. So the
device works on live tokens: a finished completion's slot and pages go to other requests.

    queue -> prompt prefilled once, its pages shared by its samples -> slot -> completion
               ^                                                        |
               +----- evicted: out of pages, the youngest waits again --+

A completion depends on the parameters, its prompt, its request id and the key, not on slots, pages,
chunks, neighbours, order of arrival, evictions or the mesh.

This file holds what lives on the device (parameters, cache, slots, compiled programs) and calls it.
Who gets a slot or a page is decided in `schedule`, what the programs compute in `decode`.

Shapes are static: there is a decode program per number of rows (the slots, and halves of that for
when few requests are left), and a prefill program per bucket of widths and rows.
"""

import functools
import operator
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cipo_jax.policy.cache.pages import Pages, read_by_kernels
from cipo_jax.policy.model import ModelConfig, Params
from cipo_jax.policy.random_keys import key_data
from cipo_jax.policy.sharding import ROWS, logical_rules, replicated, row_count
from cipo_jax.sampling.decode import (
    ChunkResult,
    Slots,
    decode_chunk,
    empty_cache,
    empty_slots,
    prefill,
)
from cipo_jax.sampling.plan import chunk_plan, plan_shardings, prefill_arrays
from cipo_jax.sampling.requests import Row
from cipo_jax.sampling.schedule import PrefillCall, Schedule
from cipo_jax.sampling.settings import (
    EngineSettings,
    EngineStats,
    context_pages,
    row_bucket,
    table_width,
)
from cipo_jax.sampling.stop_strings import stop_text_end
from cipo_jax.sampling.weights import own_form, placed
from cipo_jax.types import CipoError, Completion

# (params, prompts, samples, key) -> (request id, completion) as they finish
Sample = Callable[[Params, Sequence[np.ndarray], int, jax.Array], Iterator[tuple[int, Completion]]]


class Engine:
    """Samples completions.

    Args:
      mesh: how sampling sees the devices. It may have more tensor shards and fewer of rows than the
        parameters' own mesh: `open` lays them out anew, in the compute dtype.
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
        self._decode_text = decode_text
        self._longest = min(s.max_prompt_tokens, config.max_positions - s.max_new_tokens)
        self._schedule = Schedule(s, row_count(mesh))
        self._in_flight: deque[tuple[list[Row | None], ChunkResult]] = deque()

        rules = logical_rules(mesh, config.axis_sizes)
        self._new_pages = jax.jit(functools.partial(empty_cache, config, mesh, s, rules))
        filling = functools.partial(prefill, config, rules)
        self._prefill = jax.jit(filling, static_argnums=0, donate_argnums=2)
        decoding = functools.partial(decode_chunk, config, rules, s.choice, s.chunk)
        self._decode = jax.jit(decoding, donate_argnums=(1, 2))
        self._whole = replicated(mesh)
        self._by_row = NamedSharding(mesh, P(ROWS))

        # On the device, between `open` and `close`.
        self._leaves: list[jax.Array] = []
        self._params: Params = {}
        self._pages: Pages | None = None
        self._slots: Slots | None = None

    # What callers use.

    @property
    def stats(self) -> EngineStats:
        """Counts since this was last set."""
        return self._schedule.stats

    @stats.setter
    def stats(self, stats: EngineStats) -> None:
        self._schedule.stats = stats

    @property
    def num_pages(self) -> int:
        """Pages of the cache, over all row shards."""
        return self._schedule.num_pages

    def open(self, params: Params) -> None:
        """Samples with `params` from now on. The same arrays as before keep the cache, in which
        prompts find what earlier ones have in common with them.

        Raises:
          RuntimeError: requests are left.
        """
        if self.busy:
            raise RuntimeError("the engine still has requests of other parameters")
        leaves = jax.tree.leaves(params)
        if self._pages is not None and all(map(operator.is_, leaves, self._leaves)):
            return
        self._leaves = leaves
        self._params = placed(self.config, self.mesh, own_form(self.config, self.mesh, params))
        self._schedule.empty_cache()
        if self._pages is None:
            with jax.set_mesh(self.mesh):
                self._pages = self._new_pages()
            slots = self._schedule.slots_per_shard * self._schedule.shards
            self._slots = jax.device_put(empty_slots(slots), self._whole)

    def close(self) -> None:
        """Frees the cache's memory; what is not finished is dropped."""
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
        temperature = s.temperature if temperature is None else temperature
        self._schedule.submit(request_id, prompt, key, samples, temperature, limit)

    @property
    def busy(self) -> bool:
        """Whether requests are waiting or being decoded."""
        return self._schedule.busy or bool(self._in_flight)

    def step(self) -> list[tuple[int, Completion]]:
        """One turn of the loop; returns (request id, completion) of what finished."""
        schedule = self._schedule
        with jax.set_mesh(self.mesh):
            for call in schedule.plan_prefill():
                self._prefill_call(call)
            schedule.fill_slots()
            done = self._make_room()
            if schedule.placed:
                self._dispatch()
        while len(self._in_flight) > (self.settings.dispatch_ahead and bool(schedule.placed)):
            done += self._harvest()
        return done

    def progress(self) -> dict[int, list[int]]:
        """The tokens so far of the requests that are being decoded, by request id."""
        return {row.request.id: list(row.request.tokens) for row in self._schedule.placed.values()}

    def cancel(self) -> None:
        """Drops all requests."""
        self._in_flight.clear()
        self._schedule.cancel()

    def sample(
        self,
        params: Params,
        prompts: Sequence[np.ndarray],
        samples: int,
        key: jax.Array,
        share: range | None = None,
        before_chunk: Callable[[], None] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Samples `samples` completions of each prompt; yields `(request id, Completion)` as they
        finish. Sample j of prompt i has request id `i * samples + j`. When the caller leaves early,
        or at an exception, what has not finished is dropped.

        Args:
          prompts: [P] int32 tokens each, as in `submit`.
          key: of `policy.random_keys`, of all the call's requests.
          share: the indices of the prompts to sample; None: all.
          before_chunk: called before each turn of the loop; what it raises ends the call.

        Raises:
          CipoError: a prompt out of range.
          RuntimeError: requests of an earlier call are left.
        """
        self.open(params)
        data = key_data(key)
        try:
            for i in range(len(prompts)) if share is None else share:
                self.submit(i * samples, prompts[i], data, samples)
            while self.busy:
                if before_chunk is not None:
                    before_chunk()
                yield from self.step()
        finally:
            self.cancel()

    def _prefill_call(self, call: PrefillCall) -> None:
        """Prefills a stretch of every listed prompt."""
        width = table_width(self.settings)
        arrays = prefill_arrays(call.stretches, call.rows, call.width, width)
        tokens, start, *_ = arrays
        assert self._pages is not None
        context = 0  # kernels read what is there: one program, whatever that is
        if not read_by_kernels(self._pages):
            context = context_pages(self.settings, int(start.max()))
        placed = (jax.device_put(x, self._by_row) for x in arrays)
        self._pages = self._prefill(context, self._params, self._pages, *placed)
        self.stats.prefill_positions += tokens.size
        self._schedule.note_prefilled(call)

    def _make_room(self) -> list[tuple[int, Completion]]:
        """Pages for the next chunk of every row. Where they run out, they are taken from prompts
        whose samples still wait, else from the youngest request. Returns what finished."""
        done: list[tuple[int, Completion]] = []
        while (shard := self._schedule.grow()) is not None:
            if self._schedule.drop_waiting_prompt(shard):
                continue
            if self._in_flight:  # a chunk under way may finish a request, and free its pages
                while self._in_flight:
                    done += self._harvest()
            else:
                self._schedule.evict(shard)
        return done

    def _dispatch(self) -> None:
        """Starts a decode chunk over the live rows."""
        schedule = self._schedule
        by_shard = schedule.rows_by_shard()
        local = row_bucket(schedule.slots_per_shard, max(map(len, by_shard)))
        width, page_size = table_width(self.settings), self.settings.page_size
        sizes: Any = {"slots": schedule.slots_per_shard, "width": width, "page_size": page_size}
        plan = chunk_plan(by_shard, local, schedule.fresh, schedule.copies, **sizes)
        plan = jax.device_put(plan, plan_shardings(self._whole, self._by_row))
        self._pages, self._slots, result = self._decode(
            self._params, self._pages, self._slots, plan
        )
        snapshot = [row for rows in by_shard for row in [*rows, *[None] * (local - len(rows))]]
        schedule.note_dispatched()
        for leaf in jax.tree.leaves(result):
            leaf.copy_to_host_async()
        self._in_flight.append((snapshot, result))

    def _harvest(self) -> list[tuple[int, Completion]]:
        """Waits for the oldest chunk and takes its tokens; returns the completions it finished."""
        snapshot, result = self._in_flight.popleft()
        result = jax.device_get(result)
        steps, done = 0, []
        for i, row in enumerate(snapshot):
            if row is None or row.gone:
                continue
            row.in_flight -= 1
            request, before = row.request, len(row.request.tokens)
            new = int(result.sampled[i]) - before
            request.tokens += result.tokens[:new, i].tolist()
            request.logprobs += result.logprobs[:new, i].tolist()
            steps = max(steps, new)
            self.stats.sampled_tokens += new
            finished = bool(new) and request.tokens[-1] in self.settings.choice.stop_ids
            stops, decode_text = self.settings.stop_strings, self._decode_text
            if stops and decode_text is not None:
                known = max(before, self.settings.choice.min_new_tokens)
                end = stop_text_end(request.tokens, known, stops, decode_text)
                if end is not None:
                    del request.tokens[end:], request.logprobs[end:]
                    finished = True
            if finished or not result.live[i]:
                self._schedule.vacate(row.slot)
                done.append((request.id, request.completion(finished)))
        self.stats.decode_steps += steps
        self.stats.row_steps += steps * len(snapshot)
        return done
