"""The summary of what a pool has judged, by hand."""

from cipo_jax.types import Outcome, Verdict
from cipo_jax.verifiers.statistics import Statistics


def test_counts_times_and_the_slowest():
    statistics = Statistics()
    assert statistics.summary()["latency_p99_seconds"] == 0
    outcomes = [Outcome.TIMEOUT, Outcome.ERROR, *[Outcome.CORRECT] * 98]
    for i, outcome in enumerate(outcomes):
        verdict = Verdict(outcome, seconds=float(i))
        statistics.add(f"p{i}", verdict, lost_worker=outcome is Outcome.TIMEOUT)
    summary = statistics.summary()
    assert (summary["verified"], summary["timeouts"], summary["errors"]) == (100, 1, 1)
    assert (summary["restarts"], summary["recycled"]) == (1, 0)
    assert summary["busy_seconds"] == sum(range(100))
    assert (summary["latency_p50_seconds"], summary["latency_p99_seconds"]) == (50, 99)
    assert statistics.slowest() == [(f"p{i}", float(i)) for i in range(99, 89, -1)]


def test_what_is_typical_is_the_median_of_each_64_items():
    statistics = Statistics()
    for i in range(64):
        assert statistics.typical_seconds == 0
        statistics.add("p", Verdict(Outcome.CORRECT, seconds=float(i)), lost_worker=False)
    assert statistics.typical_seconds == 32
    statistics.add("p", Verdict(Outcome.CORRECT, seconds=1000.0), lost_worker=False)
    assert statistics.typical_seconds == 32
