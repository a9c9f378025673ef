"""Overrides with which a run that does not fit into its devices would fit.

Tried from what changes training least: derived sizes, recomputation, rows split by tokens over
devices (not on GPUs, whose kernels take whole rows), bfloat16 moments, bfloat16 weights, Adafactor;
then the same with less of an attempt quoted, then with shorter completions;
then smaller models of `policy/published.py`. What cannot fit by its state and gradients, or by the
temporaries of what has been compiled, is passed over; what is proposed has been compiled.

Decides what is tried and in which order. What a plan is made of is decided in `memory_plan`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.resolve import changed_config
from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.policy import sharding
from cipo_jax.policy.published import SHAPES
from cipo_jax.run.memory_plan import (
    SPARE,
    Plan,
    Program,
    Say,
    Shapes,
    compile_update,
    least_bytes,
    make_plan,
    open_shapes,
)
from cipo_jax.run.parts import open_tokenizer
from cipo_jax.sampling.settings import pages_per_shard, table_width

SIZES = ("batch.row_tokens", "batch.microbatch_rows", "sampling.slots", "sampling.cache_tokens")
TOKEN_SHARDS = (2, 4)  # tried of the devices on the fsdp axis
SHORTEST = 512  # tokens of an attempt or a completion that is still of use
MARGIN = 0.95  # of the memory that is left, for the cache
LARGEST_PART = 0.9  # of the parameters, of a model that counts as smaller


@dataclasses.dataclass(frozen=True)
class Proposal:
    """Overrides of a config, and the plan with them."""

    overrides: dict[str, Any]
    plan: Plan


def as_flags(overrides: Mapping[str, Any]) -> str:
    """Overrides as they are written on the command line."""
    return " ".join(f"--config.{key}={value}" for key, value in overrides.items())


def propose(config: Config, devices: list[Any], device_bytes: int, say: Say) -> Proposal | None:
    """The first candidate that fits into `device_bytes`, with `SPARE` to spare; None: none does.

    Args:
      config: with its open sizes still open.
      say: told what is tried.
    """
    room = int((1 - SPARE) * device_bytes)
    search = _Search(config, devices, room, say, open_tokenizer(config))
    parameters = search.parameters()
    found = search.first_that_fits()
    for source, shape in SHAPES.items():
        if found:
            break
        smaller = dataclasses.replace(search, source=source, shape=shape)
        if smaller.parameters() < LARGEST_PART * parameters:
            say(f"trying       a smaller model: {source}")
            found = smaller.first_that_fits()
    return found


def candidates(config: Config, fsdp: int = 1) -> Iterator[dict[str, Any]]:
    """Overrides to try, from what changes training least. Sizes that are set are open in all.

    Args:
      fsdp: how many devices of that axis may go to context.
    """
    given = flatten(config)
    sizes: dict[str, Any] = {key: 0 for key in SIZES if given[key]}
    for lengths in _lengths(config):
        for memory in _memory(config, fsdp):
            yield sizes | memory | lengths


def _memory(config: Config, fsdp: int) -> Iterator[dict[str, Any]]:
    """What changes bytes for each parameter, what is computed again, and what of a row is on a
    device."""
    changes: dict[str, Any] = {}
    yield changes
    if config.model.remat != "full":
        yield (changes := {"model.remat": "full"})
    before = changes
    for shards in TOKEN_SHARDS:
        if config.mesh.context == 1 and fsdp % shards == 0:
            own = {} if config.mesh.fsdp == -1 else {"mesh.fsdp": fsdp // shards}
            yield (changes := before | {"mesh.context": shards} | own)
    o = config.optimizer
    if config.model.param_dtype == "float32":
        if o.b1 and o.mu_dtype != "bfloat16":
            yield changes | {"optimizer.mu_dtype": "bfloat16"}
        yield (changes := changes | {"model.param_dtype": "bfloat16"})
    if o.name != "adafactor":
        yield (changes := changes | {"optimizer.name": "adafactor"})
    if o.b1:
        yield changes | {"optimizer.b1": 0.0}


def _lengths(config: Config) -> Iterator[dict[str, int]]:
    """Less of an attempt quoted, down to a quarter; then shorter completions."""
    attempt, completion = config.data.max_attempt_tokens, config.data.max_completion_tokens
    quoted: dict[str, int] = {}
    yield quoted
    if config.num_corrections:
        for part in (2, 4):
            if attempt // part >= SHORTEST:
                yield (quoted := {"data.max_attempt_tokens": attempt // part})
    for part in (2, 4, 8):
        if completion // part >= SHORTEST:
            yield quoted | {"data.max_completion_tokens": completion // part}


def _without_lengths(overrides: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in overrides.items() if not key.startswith("data.")}


@dataclasses.dataclass(frozen=True)
class _Search:
    """Among the candidates of a model: the config's, or that of `source` with its `shape`."""

    config: Config
    devices: list[Any]
    device_bytes: int
    say: Say
    tokenizer: Tokenizer
    source: str = ""
    shape: Mapping[str, Any] | None = None

    def parameters(self) -> int:
        return self.open({}).update().sizes.parameters

    def open(self, overrides: dict[str, Any]) -> Shapes:
        changed = changed_config(self.config, overrides)
        return open_shapes(changed, self.devices, self.shape, self.tokenizer)

    def first_that_fits(self) -> Proposal | None:
        named = {"model.source": self.source} if self.source else {}
        per_token = 0.0  # bytes of temporaries for each token of a microbatch, once they are known
        hopeless: list[dict[str, Any]] = []  # whatever the lengths
        refused: list[tuple[dict[str, Any], int]] = []  # with their temporaries
        mesh = self.open({}).policy.mesh
        on_gpu = mesh.devices.flat[0].platform == "gpu"
        for overrides in candidates(self.config, 1 if on_gpu else mesh.shape["fsdp"]):
            if _without_lengths(overrides) in hopeless:
                continue
            for shapes, wanted in self.with_fewer_rows(overrides):
                batch = shapes.config.batch
                tokens, least = batch.microbatch_rows * batch.row_tokens, least_bytes(shapes)
                if least > self.device_bytes:
                    hopeless.append(_without_lengths(overrides))
                    break
                if least + per_token * tokens > self.device_bytes:
                    continue
                self.say(f"trying       {as_flags(named | wanted) or 'as it is'}")
                program = compile_update(shapes, self.say)
                needed = program.argument_bytes + program.temporary_bytes
                if needed > self.device_bytes:
                    per_token = max(per_token, (needed - least) / tokens)
                    # If the temporaries stay, what is largest does not follow the lengths.
                    tried = _without_lengths(overrides), program.temporary_bytes
                    if tried in refused:
                        hopeless.append(tried[0])
                        break
                    refused.append(tried)
                elif plan := self.with_sampling(shapes, wanted, program):
                    return Proposal(named | wanted, plan)
        return None

    def with_fewer_rows(self, overrides: dict[str, Any]) -> Iterator[tuple[Shapes, dict[str, Any]]]:
        """With the rows that a microbatch is given, and with as few as there can be."""
        shapes = self.open(overrides)
        yield shapes, dict(overrides)
        fewest = sharding.row_count(shapes.policy.mesh)
        if shapes.config.batch.microbatch_rows > fewest:
            wanted = overrides | {"batch.microbatch_rows": fewest}
            yield self.open(wanted), wanted

    def with_sampling(
        self, shapes: Shapes, wanted: dict[str, Any], program: Program
    ) -> Plan | None:
        """The whole plan, if sampling fits as well; with a smaller cache, which `wanted` is then
        told."""
        plan = make_plan(shapes, self.say, program)
        if plan.sampling_bytes <= self.device_bytes:
            return plan
        _, mesh, settings = shapes.sampler
        shards = sharding.row_count(mesh)
        room = MARGIN * (self.device_bytes - plan.sampling_bytes + plan.cache_bytes)
        pages = int(pages_per_shard(settings, shards) * room / plan.cache_bytes)
        if pages <= table_width(settings):  # not even a sequence of full length
            return None
        tokens = pages * settings.page_size * shards
        wanted |= {"sampling.slots": 0, "sampling.cache_tokens": tokens}
        self.say(f"trying       {as_flags(wanted)}")
        plan = make_plan(self.open(wanted), self.say, program)
        return plan if plan.sampling_bytes <= self.device_bytes else None
