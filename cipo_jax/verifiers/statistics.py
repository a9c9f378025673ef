"""What a pool knows of the items it has judged: counts, times, the slowest.

This file decides how latencies are summarised. It takes no lock: `pool.py` holds one at each call.
"""

import collections
import heapq
from collections.abc import Sequence

from cipo_jax.types import Outcome, Verdict

_RECENT = 10_000  # latencies kept for the percentiles
_TYPICAL_OF = 64  # items whose median is the typical time
_SLOWEST = 10


class Statistics:
    """Of the verdicts so far."""

    def __init__(self) -> None:
        names = ("verified", "timeouts", "errors", "restarts", "recycled")
        self.counts = dict.fromkeys(names, 0)  # see `VerifierPool.stats`
        self.typical_seconds = 0.0  # the median of the last 64 items counted together; 0 before
        self._busy_seconds = 0.0
        self._recent: collections.deque[float] = collections.deque(maxlen=_RECENT)
        self._last: list[float] = []
        self._slowest: list[tuple[float, str]] = []  # a heap

    def add(self, problem_id: str, verdict: Verdict, lost_worker: bool) -> None:
        """Counts one verdict; `lost_worker`: its worker has ended and must be replaced."""
        self.counts["verified"] += 1
        self.counts["timeouts"] += verdict.outcome is Outcome.TIMEOUT
        self.counts["errors"] += verdict.outcome is Outcome.ERROR
        self.counts["restarts"] += lost_worker
        self._busy_seconds += verdict.seconds
        self._recent.append(verdict.seconds)
        self._last.append(verdict.seconds)
        if len(self._last) == _TYPICAL_OF:
            self.typical_seconds = _quantile(sorted(self._last), 0.5)
            self._last.clear()
        heapq.heappush(self._slowest, (verdict.seconds, problem_id))
        if len(self._slowest) > _SLOWEST:
            heapq.heappop(self._slowest)

    def summary(self) -> dict[str, float]:
        """The counts, `busy_seconds` and the percentiles of the latency."""
        recent = sorted(self._recent)
        return {
            **{name: float(count) for name, count in self.counts.items()},
            "busy_seconds": self._busy_seconds,
            "latency_p50_seconds": _quantile(recent, 0.50),
            "latency_p99_seconds": _quantile(recent, 0.99),
        }

    def slowest(self) -> list[tuple[str, float]]:
        """The slowest items as (problem id, seconds), slowest first."""
        return [(problem_id, seconds) for seconds, problem_id in sorted(self._slowest)[::-1]]


def _quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile by nearest rank; 0 if there are none."""
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else 0.0
