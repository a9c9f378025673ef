"""How the rest of the program uses a verifier pool.

This file opens one by the `verifier` section of the config, has many completions judged in order,
and reports a verifier that fails on all of them. How one completion is judged is decided in
`pool.py` and `worker.py`; what a verdict earns, in `rl/rewards.py`.
"""

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from cipo_jax.config.keys import Verifier
from cipo_jax.types import Attempt, CipoError, Problem, Verdict
from cipo_jax.verifiers.pool import VerifierPool

Item = TypeVar("Item")

_IN_FLIGHT = 1_000  # items that the pool has at a time; enough to keep any pool busy


def open_pool(verifier: Verifier, kind: str = "", wait: bool = True) -> VerifierPool:
    """Starts the pool of the `verifier` section; `kind`, if given, replaces the section's.

    Raises:
      CipoError: as `VerifierPool`.
    """
    return VerifierPool(
        kind or verifier.kind,
        verifier.workers or default_workers(),
        verifier.timeout_seconds,
        stand_ins=verifier.stand_ins,
        recycle_after=verifier.recycle_after,
        memory_limit_bytes=verifier.memory_limit_mb << 20,
        extraction=verifier.extraction,
        allow_unsandboxed_code=verifier.allow_unsandboxed_code,
        partial_credit=verifier.partial_credit,
        wait=wait,
    )


def suite_kind(verifier: Verifier) -> str:
    """The kind that judges benchmarks, which mix questions with answers and with tests."""
    return "auto" if verifier.kind in ("math", "code") else verifier.kind


def default_workers() -> int:
    """Workers of a host where the config leaves it open: the other cores are left to the sampler
    and to what workers start."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(32, max(2, cores // 2))


def verdicts(
    pool: VerifierPool, items: Iterable[Item], completion: Callable[[Item], tuple[Problem, str]]
) -> Iterator[tuple[Item, Verdict]]:
    """Each item with the verdict on its completion, in the order of `items`, which are taken as
    verdicts are asked for, at most 1,000 ahead. `completion` gives an item's problem and text.

    Raises:
      CipoError: as `VerifierPool.submit` and its futures.
    """
    waiting: collections.deque = collections.deque()
    for item in items:
        waiting.append((item, pool.submit(*completion(item))))
        if len(waiting) >= _IN_FLIGHT:
            done, future = waiting.popleft()
            yield done, future.result()
    for done, future in waiting:
        yield done, future.result()


def verifier_works(attempts: Sequence[Attempt]) -> bool:
    """Whether any attempt was judged; False if there are none.

    Raises:
      CipoError: there are some, and the verifier has failed on all of them.
    """
    if any(a.judged for a in attempts):
        return True
    if not attempts:
        return False
    first = attempts[0]
    raise CipoError(
        f"config.verifier.kind: the verifier has failed on all {len(attempts)} completions it was "
        f"given, on the first (of problem {first.problem.id!r}) with {first.verdict.detail!r}. "
        "Fix it, and try it on a file of answers by --mode=verify --input=answers.jsonl"
    )
