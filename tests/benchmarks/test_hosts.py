"""benchmarks/hosts.py at a small size."""

import sys
from typing import Any

import numpy as np
import pytest
from places import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import hosts  # noqa: E402

from cipo_jax.run.hosts.exchange import encode  # noqa: E402

SMALL: dict[str, Any] = {
    "rollout.problems_per_step": 16,
    "data.max_prompt_tokens": 256,
    "data.max_attempt_tokens": 4096,
    "data.max_completion_tokens": 128,
}


def test_what_grows_with_hosts() -> None:
    few, many = (hosts.simulate_hosts(n, *hosts.SLICES[n], SMALL) for n in (4, 64))
    # The same attempts, in more payloads; each received by all, padded to a power of two.
    assert few["payload MB"] < many["payload MB"] < many["received MB"]
    assert few["payload MB"] < few["received MB"] < many["received MB"]
    assert (few["store entries/s"], many["store entries/s"]) == (2 * 7, 2 * 127)
    assert (few["everyone"], many["everyone"]) == (2 * 16, 2 * 64**2)
    assert many["files"] - few["files"] == 60 * 2 * 3
    assert many["in turn"] == pytest.approx(32 * many["asking"], rel=0.01)
    for found in (few, many):
        assert 0 <= found["math shared"] <= found["math"]
        assert found["math"] <= found["programs"]


def test_more_hosts_sample_no_slower() -> None:
    """As they did when groups that stay together had too few slots on their shard."""
    few, many = (hosts.simulate_hosts(n, *hosts.SLICES[n], SMALL)["sampling"] for n in (16, 64))
    assert many <= few
    crowded = hosts.simulate_hosts(64, *hosts.SLICES[64], SMALL | {"sampling.slots": 256})
    assert crowded["sampling"] > 1.5 * many


def test_payloads_are_counted_as_they_are_encoded() -> None:
    lengths = np.array([[3, 5], [1, 100]])
    of_each = [len(encode([hosts.judged(n) for n in group])) for group in lengths]
    assert hosts.gathered_bytes(lengths, 1) == (len(hosts.payload(lengths.reshape(-1))), 0)
    sent, received = hosts.gathered_bytes(lengths, 2)
    assert sent == sum(of_each) and received == 2 * 4096 and 2048 < max(of_each) <= 4096
    # Half of the hosts have nothing to send, and send that they have nothing.
    assert hosts.gathered_bytes(lengths, 4)[0] == sum(of_each) + 2 * len(encode([]))


@pytest.mark.slow
def test_processes_send_and_write_what_is_simulated() -> None:
    found = hosts.run_processes(2, 16)
    assert found["files"] == 31 and found["received MB"] > found["payload MB"]
