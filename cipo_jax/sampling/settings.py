"""The engine's sizes, the static shapes that follow from them, and its counters.

Not decided here: which sizes a run has (`run/sizes`, `run/parts.open_engine`).
"""

import dataclasses

from jax.sharding import Mesh

from cipo_jax.sampling.choose import Choice
from cipo_jax.types import CipoError


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """The engine's sizes, and how tokens are chosen.

    Attributes:
      max_prompt_tokens: the longest prompt.
      max_new_tokens: the most tokens of a completion, stop token included.
      temperature: default of requests, see `choose.choose_tokens`.
      choice: which tokens may be drawn.
      stop_strings: texts that end a completion; its tokens then end with the one that completes
        the text.
      slots: requests decoded together, rounded up to a multiple of the row shards.
      chunk: decode steps between two checks of what has finished.
      page_size: tokens of a page of the cache.
      cache_tokens: tokens that the cache holds, over all row shards; 0: every slot at full length.
      cache_dtype: of keys and values in the cache; "": see `cache_dtype`.
      prefill_widths: prompts are prefilled in stretches, padded to one of these; the largest is
        the longest stretch. (): see `prefill_widths`.
      prefill_tokens: padded tokens of one prefill call; bounds what delays the next decode chunk.
      dispatch_ahead: read a chunk's results only after the next one has been dispatched, so that
        the device never waits for the host. A finished request then keeps its slot a chunk longer.
    """

    max_prompt_tokens: int
    max_new_tokens: int
    choice: Choice
    temperature: float = 1.0
    stop_strings: tuple[str, ...] = ()
    slots: int = 256
    chunk: int = 16
    page_size: int = 32
    cache_tokens: int = 0
    cache_dtype: str = ""
    prefill_widths: tuple[int, ...] = ()
    prefill_tokens: int = 4096
    dispatch_ahead: bool = False

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"slots: got {self.slots}, wanted at least 1; run/sizes derives them")


@dataclasses.dataclass
class EngineStats:
    """Counts of an engine.

    Attributes:
      prompt_tokens: of prompts that became ready; `reused_tokens` of them were found in the cache.
      prefill_positions: positions computed by prefill, padding included.
      decode_steps: steps of the decode loop.
      row_steps: rows computed in those steps.
      sampled_tokens: tokens drawn; divided by `row_steps`, the share of useful work.
      evictions: requests taken out of a full cache, to be computed again.
      peak_pages: most pages held at once, over all row shards.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    prefill_positions: int = 0
    decode_steps: int = 0
    row_steps: int = 0
    sampled_tokens: int = 0
    evictions: int = 0
    peak_pages: int = 0


def cache_dtype(settings: EngineSettings, compute_dtype: str, mesh: Mesh) -> str:
    """The settings' dtype of keys and values, or the default."""
    platform = mesh.devices.flat[0].platform
    return settings.cache_dtype or default_cache_dtype(compute_dtype, platform)


def default_cache_dtype(compute_dtype: str, platform: str) -> str:
    """The dtype of keys and values in the cache, where the settings leave it open: float32 on CPU,
    where XLA would convert a whole bfloat16 cache and back at every write."""
    return "float32" if platform == "cpu" else compute_dtype


def table_width(settings: EngineSettings) -> int:
    """Pages of the longest prompt with the longest completion."""
    return -(-(settings.max_prompt_tokens + settings.max_new_tokens) // settings.page_size)


def pages_per_shard(settings: EngineSettings, shards: int) -> int:
    """Pages of each row shard.

    Raises:
      CipoError: fewer than one request can need.
    """
    s, width = settings, table_width(settings)
    if not s.cache_tokens:
        return -(-s.slots // shards) * (width + 1) + 1
    pages = s.cache_tokens // (s.page_size * shards)
    if pages < width + 1:
        raise CipoError(
            f"config.sampling.cache_tokens: got {s.cache_tokens}, wanted 0 (room for all slots) or "
            f"at least {(width + 1) * s.page_size * shards}: the longest prompt and completion, "
            f"and a page, on each of {shards} row shards"
        )
    return pages


def prefill_widths(settings: EngineSettings) -> tuple[int, ...]:
    """Ascending widths of prefill: the declared ones, or powers of two from 16 to the first that
    holds the longest prompt, or 512 if that is less. The largest holds a page, since a stretch
    begins a page, or all that is ever prefilled.

    Raises:
      CipoError: the largest declared width does not.
    """
    s = settings
    # With fewer pages than all slots may need, a request is evicted and prefilled with its tokens.
    longest = s.max_prompt_tokens + (s.max_new_tokens if s.cache_tokens else 0)
    needed = min(longest, s.page_size)
    if s.prefill_widths:
        if max(s.prefill_widths) < needed:
            raise CipoError(
                f"config.sampling.prefill_widths: got {s.prefill_widths}, wanted a largest width "
                f"of at least {needed}: a page (sampling.page_size = {s.page_size}), or the "
                f"longest prompt, with sampling.cache_tokens and its completion ({longest})"
            )
        return tuple(sorted(s.prefill_widths))
    widths = [16]
    while widths[-1] < max(needed, min(s.max_prompt_tokens, 512)):
        widths.append(2 * widths[-1])
    return tuple(widths)


def prefill_budget(settings: EngineSettings, shards: int) -> int:
    """Padded tokens of a prefill call on a row shard."""
    return max(settings.prefill_tokens // shards, prefill_widths(settings)[0])


def prefill_rows(settings: EngineSettings, shards: int, width: int, wanted: int = 0) -> int:
    """Rows of a row shard's prefill program of a width, where `wanted` stretches are left; the most
    by default. A quarter, a 16th, ... of that where few are left, since all rows are computed. If
    more than a quarter of the rows would be empty, the next smaller number: the rest is left to
    another call."""
    s = settings
    most = max(1, min(-(-s.slots // shards), prefill_budget(s, shards) // width))
    rows, wanted = most, min(wanted or most, most)
    while rows > wanted:
        fewer = -(-rows // 4)
        if fewer < wanted and 4 * wanted >= 3 * rows:
            break
        rows = fewer
    return rows


def context_pages(settings: EngineSettings, start: int) -> int:
    """Pages that a prefill program reads for rows with up to `start` tokens before its stretches: a
    power of two, so that few programs serve all lengths."""
    pages = -(-start // settings.page_size)
    return min(1 << (pages - 1).bit_length(), table_width(settings)) if pages else 0


def row_bucket(most: int, wanted: int) -> int:
    """Rows of a decode program for `wanted`: the smallest of `most`, its half, its quarter, ...
    that holds them. Programs of 8 rows or fewer are not made smaller."""
    rows = most
    while rows > 8 and -(-rows // 2) >= wanted:
        rows = -(-rows // 2)
    return rows
