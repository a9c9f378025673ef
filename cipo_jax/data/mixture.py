"""Several sources as one: read, joined or mixed with weights, and identified by fingerprints.

Without weights the problems of all sources are one list. With weights, each thousand problems in a
row holds the sources in exactly those proportions (to a thousandth), in random order. Either way a
batch is a pure function of (seed, step). How a list is shuffled is decided in `datasets.py`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from cipo_jax.data.datasets import (
    Columns,
    ListedProblems,
    Placed,
    ProblemSource,
    fingerprint,
    fingerprint_generated,
    load_problems,
)
from cipo_jax.data.sources import parse_sources
from cipo_jax.data.tasks.embedded import GENERATED
from cipo_jax.data.tasks.generated import GeneratedProblems
from cipo_jax.types import CipoError, Problem

_BLOCK = 1000  # problems in which the weights hold exactly
_ORDER_STREAM = 7  # keeps the order of a block apart from the sources' own draws


@dataclasses.dataclass(frozen=True)
class Part:
    """A source of a mixture and what is in it."""

    name: str
    weight: float | None  # relative to the others'; None joins it with the others as a whole
    placed: tuple[Placed, ...] | None  # its problems; None for an embedded task, which is unlimited


@dataclasses.dataclass(frozen=True)
class TaskSplit:
    """Which problems of an embedded task are meant: a split, and numbers of operations."""

    split: str
    min_operations: int = 2
    max_operations: int = 5


def load_parts(text: str, columns: Columns, key: str) -> list[Part]:
    """Reads all sources that `text` lists. Of several, each problem's id begins with its source.

    Args:
      text: as `sources.py` says.
      key: of the config, for messages.

    Raises:
      CipoError: anything wrong with the text or a source.
    """
    parts = []
    sources = parse_sources(text, key)
    for name, weight in sources:
        if name in GENERATED:
            parts.append(Part(name, weight, None))
            continue
        try:
            placed = load_problems(name, columns)
        except CipoError as error:
            raise CipoError(f"config.{key}: {error}") from error
        if len(sources) > 1:
            placed = [
                Placed(where, dataclasses.replace(p, id=f"{name}/{p.id}")) for where, p in placed
            ]
        parts.append(Part(name, weight, tuple(placed)))
    return parts


def open_mixture(parts: Sequence[Part], seed: int, task_split: TaskSplit) -> ProblemSource:
    """The problems of the parts as one source; `task_split` is that of all embedded tasks.

    Raises:
      CipoError: a part without problems, or with a weight too small to have an effect.
    """
    if any(part.weight is not None for part in parts):
        opened = [
            open_mixture([dataclasses.replace(p, weight=None)], seed, task_split) for p in parts
        ]
        return Mixture(opened, _apportion(parts), seed)
    if parts[0].placed is None:
        task = GENERATED[parts[0].name]
        return GeneratedProblems(task, seed, *dataclasses.astuple(task_split))
    return ListedProblems([p.problem for part in parts for p in part.placed or ()], seed)


def fingerprints(parts: Sequence[Part], task_split: TaskSplit) -> dict[str, dict[str, object]]:
    """{source: {"problems": their number, None if unlimited, "fingerprint": of the content}}."""
    found: dict[str, dict[str, object]] = {}
    for part in parts:
        if part.placed is None:
            count, digits = None, fingerprint_generated(part.name, *dataclasses.astuple(task_split))
        else:
            count, digits = len(part.placed), fingerprint(at.problem for at in part.placed)
        found[part.name] = {"problems": count, "fingerprint": digits}
    return found


class Mixture:
    """Sources in fixed proportions: each gives its count of every block's problems."""

    def __init__(self, sources: Sequence[ProblemSource], counts: Sequence[int], seed: int) -> None:
        self._sources, self._counts, self._seed = sources, counts, seed
        # A batch begins where the last one ended: in the same block or the next.
        self._block = functools.lru_cache(maxsize=2)(self._make_block)

    def batch(self, step: int, size: int) -> list[Problem]:
        """`size` problems: a pure function of (seed, step, size)."""
        length = sum(self._counts)
        return [self._block(p // length)[p % length] for p in range(step * size, (step + 1) * size)]

    @property
    def different(self) -> int | None:
        counts = [source.different for source in self._sources]
        return None if None in counts else sum(count for count in counts if count is not None)

    def offer(self, step: int, drawn: int) -> Iterator[Problem]:
        del step
        length = sum(self._counts)
        for position in itertools.count(drawn):
            yield self._block(position // length)[position % length]

    def first(self, n: int) -> list[Problem]:
        """The first problems of each source in proportion, `n` in all; 0 means all problems.

        Raises:
          CipoError: a source has too few.
        """
        shares = _largest_remainders(self._counts, n)
        return [
            problem
            for source, share in zip(self._sources, shares, strict=True)
            if share or not n
            for problem in source.first(share)
        ]

    def _make_block(self, block: int) -> list[Problem]:
        drawn = [
            problem
            for source, count in zip(self._sources, self._counts, strict=True)
            for problem in _share(source, block, count)
        ]
        order = np.random.default_rng([self._seed, block, _ORDER_STREAM]).permutation(len(drawn))
        return [drawn[i] for i in order]


def _share(source: ProblemSource, block: int, count: int) -> list[Problem]:
    """The `count` problems that a source gives to a block. A generator that finds fewer different
    ones repeats them.

    Raises:
      CipoError: it finds none.
    """
    found = list(itertools.islice(source.offer(block, block * count), count))
    return list(itertools.islice(itertools.cycle(found or source.batch(block, count)), count))


def _apportion(parts: Sequence[Part]) -> list[int]:
    """How many of a block's problems each part gives."""
    counts = _largest_remainders([part.weight or 0.0 for part in parts], _BLOCK)
    for part, count in zip(parts, counts, strict=True):
        if not count:
            raise CipoError(
                f"data: {part.name} has weight {part.weight}, less than a thousandth of all; "
                "wanted more, or the source left out"
            )
    return counts


def _largest_remainders(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to `weights` that add up to `total`."""
    exact = np.array(weights, np.float64) / sum(weights) * total
    counts = np.floor(exact + 1e-9).astype(int)
    by_remainder = np.argsort(counts - exact, kind="stable")
    counts[by_remainder[: total - counts.sum()]] += 1
    return [int(count) for count in counts]
