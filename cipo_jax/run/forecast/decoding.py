"""A rollout on paper: the engine's own schedule, with a clock where the engine has a device.

`simulate` takes the turns of `sampling/engine.Engine.step` on `sampling/schedule.Schedule`: slots,
pages, prefill and evictions are those that the engine would have for completions of these lengths.
What a call takes is counted by `Shard`: the larger of the bytes it reads and the FLOPs it computes,
each at the stated part of the chip's peak.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cipo_jax.policy.config import ModelConfig
from cipo_jax.run.forecast.counts import count_parameters, layer_flops, step_bytes
from cipo_jax.run.watch.speed import forward_flops
from cipo_jax.sampling.requests import Row
from cipo_jax.sampling.schedule import PrefillCall, Schedule
from cipo_jax.sampling.settings import EngineSettings, EngineStats, row_bucket

_KEY = np.zeros(2, np.uint32)


@dataclasses.dataclass(frozen=True)
class Shard:
    """The chips that sample some of the rows together.

    Attributes:
      cached_as: dtype of keys and values.
      tensor: number of chips, over which weights and heads are split.
      bandwidth, flops: that a chip reaches, per second.
      exchange_seconds: latency of an exchange between the chips.
    """

    model: ModelConfig
    cached_as: str
    tensor: int
    bandwidth: float
    flops: float
    exchange_seconds: float = 0.0

    @functools.cached_property
    def weight_seconds(self) -> float:
        """To read all weights once."""
        return step_bytes(self.model, self.cached_as, 0) / (self.tensor * self.bandwidth)

    @functools.cached_property
    def layer_seconds(self) -> float:
        """To read the weights of the layers once: all but the head's."""
        head = self.model.vocab_size * self.model.d_model
        size = jnp.dtype(self.model.compute_dtype).itemsize
        return self.weight_seconds - head * size / (self.tensor * self.bandwidth)

    @functools.cached_property
    def token_seconds(self) -> float:
        """To read the keys and values of a token."""
        read = step_bytes(self.model, self.cached_as, 1) - step_bytes(self.model, self.cached_as, 0)
        # Heads that the chips cannot share out are on each of them.
        shared = self.tensor if self.model.num_kv_heads % self.tensor == 0 else 1
        return read / (shared * self.bandwidth)

    @functools.cached_property
    def row_seconds(self) -> float:
        """To compute a row of a decode step, its attention aside."""
        one = forward_flops(self.model, count_parameters(self.model), np.zeros(1))
        return one / (self.tensor * self.flops)

    @functools.cached_property
    def latency(self) -> float:
        """Of the exchanges of a decode step: two a layer, three for embedding, head and choice."""
        exchanges = 2 * self.model.num_layers + 3 if self.tensor > 1 else 0
        return exchanges * self.exchange_seconds

    def decode_seconds(self, steps: int, rows: int, reads: float) -> dict[str, float]:
        """Of `steps` decode steps of `rows` rows, by what bounds them.

        Args:
          reads: tokens whose keys and values are read, summed over the steps.
        """
        memory = {"weights": steps * self.weight_seconds, "cache": reads * self.token_seconds}
        compute = steps * rows * self.row_seconds
        bound = memory if sum(memory.values()) >= compute else {"products": compute}
        return bound | {"latency": steps * self.latency}

    def prefill_seconds(self, rows: int, width: int, start: int) -> float:
        """Of a call with `rows` rows of `width` tokens, `start` before them. It makes no logits."""
        seen = start + np.arange(1, width + 1)
        computed = rows * layer_flops(self.model, seen) / (self.tensor * self.flops)
        return max(self.layer_seconds, computed)


class Rollout(NamedTuple):
    """What a host's sampling takes.

    Attributes:
      seconds: until the last completion.
      parts: seconds by what bounds them: weights, cache, products, latency, prefill, host.
      finished: [n] when each completion is read from the device.
      stats: as the engine counts them.
    """

    seconds: float
    parts: dict[str, float]
    finished: np.ndarray
    stats: EngineStats


def simulate(
    settings: EngineSettings,
    shards: int,
    shard: Shard,
    prompts: Sequence[int],
    lengths: np.ndarray,
    turn_seconds: float = 0.0,
) -> Rollout:
    """Samples completions of given lengths on one host.

    Args:
      settings: of the host's engine.
      shards: row shards of its mesh, which work in step.
      prompts: tokens of each prompt. No two have anything in common.
      lengths: [prompts, samples] tokens of each completion, stop token included.
      turn_seconds: of the host for each turn. With `dispatch_ahead` the device works meanwhile.
    """
    run = _Run(settings, shards, shard, lengths, turn_seconds)
    samples = lengths.shape[1]
    for i, tokens in enumerate(prompts):
        prompt = np.full(tokens, i, np.int32)
        run.schedule.submit(i * samples, prompt, _KEY, samples, 1.0, settings.max_new_tokens)
    while run.schedule.busy or run.in_flight:
        run.turn()
    return Rollout(run.clock, dict(run.parts), run.finished, run.schedule.stats)


class _Chunk(NamedTuple):
    """A decode chunk under way.

    Attributes:
      new: for each row, the tokens that it gets.
      rows: of the program, empty ones included.
      ends: when the device has done it.
    """

    new: list[tuple[Row, int]]
    rows: int
    ends: float


class _Run:
    """The state of `simulate`."""

    def __init__(
        self,
        settings: EngineSettings,
        shards: int,
        shard: Shard,
        lengths: np.ndarray,
        turn_seconds: float,
    ) -> None:
        self.schedule = Schedule(settings, shards)
        self.in_flight: collections.deque[_Chunk] = collections.deque()
        self.clock, self.parts = 0.0, collections.defaultdict[str, float](float)
        self.finished = np.zeros(lengths.size)
        self._settings, self._shard, self._turn_seconds = settings, shard, turn_seconds
        self._lengths = lengths.reshape(-1).tolist()
        self._sampled = [0] * lengths.size  # by the device, so far

    def turn(self) -> None:
        """As `Engine.step`."""
        schedule, began = self.schedule, self.clock
        for call in schedule.plan_prefill():
            self._prefill(call)
        schedule.fill_slots()
        while (lacking := schedule.grow()) is not None:
            if schedule.drop_waiting_prompt(lacking):
                continue
            if self.in_flight:
                while self.in_flight:
                    self._harvest()
            else:
                schedule.evict(lacking)
        if schedule.placed:
            self._dispatch()
            worked = self.clock - began if self._settings.dispatch_ahead else 0.0
            self._take("host", max(0.0, self._turn_seconds - worked))
        while len(self.in_flight) > (self._settings.dispatch_ahead and bool(schedule.placed)):
            self._harvest()

    def _take(self, what: str, seconds: float) -> None:
        self.clock += seconds
        self.parts[what] += seconds

    def _prefill(self, call: PrefillCall) -> None:
        start = max(prompt.filled for shard in call.stretches for prompt, _ in shard)
        self._take("prefill", self._shard.prefill_seconds(call.rows, call.width, start))
        self.schedule.stats.prefill_positions += call.rows * call.width * self.schedule.shards
        self.schedule.note_prefilled(call)

    def _dispatch(self) -> None:
        schedule, steps = self.schedule, 0
        new: list[tuple[Row, int]] = []
        reads: list[float] = []
        by_shard = schedule.rows_by_shard()
        for rows in by_shard:
            read = 0.0
            for row in rows:
                request = row.request
                had = self._sampled[request.id]
                more = min(self._settings.chunk, self._lengths[request.id] - had)
                self._sampled[request.id] += more
                # The first step reads the prompt and what it has, its last token fed included.
                read += more * (len(request.prompt_tokens) + had) + more * (more - 1) / 2
                steps = max(steps, more)
                new.append((row, more))
            reads.append(read)
        local = row_bucket(schedule.slots_per_shard, max(map(len, by_shard)))
        for what, seconds in self._shard.decode_seconds(steps, local, max(reads)).items():
            self._take(what, seconds)
        schedule.note_dispatched()
        self.in_flight.append(_Chunk(new, local * schedule.shards, self.clock))

    def _harvest(self) -> None:
        chunk, steps = self.in_flight.popleft(), 0
        for row, more in chunk.new:
            if row.gone:
                continue
            row.in_flight -= 1
            request = row.request
            request.tokens += [request.id] * more
            steps = max(steps, more)
            self.schedule.stats.sampled_tokens += more
            if len(request.tokens) == self._lengths[request.id]:
                self.schedule.vacate(row.slot)
                self.finished[request.id] = chunk.ends
        self.schedule.stats.decode_steps += steps
        self.schedule.stats.row_steps += steps * chunk.rows
