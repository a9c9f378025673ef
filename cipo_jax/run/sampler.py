"""Sampling on this host: its share of the prompts, on its own devices; it can be interrupted.

On one host that is all prompts, on the training mesh's devices. On several, each has an engine on a
mesh of its own, to which the parameters are gathered when sampling with them begins. Request ids
are those of a single host, so a completion does not depend on the number of hosts.
"""

import operator
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from cipo_jax.policy.host_copy import copy_to_hosts
from cipo_jax.policy.model import Params
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.sampling.engine import Engine
from cipo_jax.sampling.settings import EngineStats
from cipo_jax.sampling.weights import own_form, shardings
from cipo_jax.types import Completion


class HostSampler:
    """Samples this host's share.

    Args:
      every: with several hosts, all devices with an axis "host", see `policy/host_copy`; the
        engine's mesh is then this host's part of it.
    """

    def __init__(self, engine: Engine, hosts: Hosts, every: jax.sharding.Mesh | None) -> None:
        self.engine, self._hosts, self._every = engine, hosts, every
        self._leaves: list[jax.Array] = []
        self._copy: Params = {}

    def sample(
        self, params: Params, prompts: Sequence[np.ndarray], samples: int, key: jax.Array
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (request id, completion) of this host's prompts as they finish; sample j of prompt
        i has request id `i * samples + j`. Called by all hosts with all prompts.

        Raises:
          Preempted, HostFailure: as `Hosts.poll`; what was being sampled is dropped.
        """
        # The hosts do this together: nothing that may end one of them may come before it.
        within_reach = self._within_reach(params)
        share = self._hosts.share(len(prompts))
        yield from self.engine.sample(
            within_reach, prompts, samples, key, share, before_chunk=self._hosts.poll
        )

    def close(self) -> dict[str, float]:
        """Ends a phase of sampling: frees the memory of cache and copy. Returns what sampling took
        since it was last closed; see `measures.METRICS`. Shares of nothing are left out."""
        self.engine.close()
        self._leaves, self._copy = [], {}
        s, self.engine.stats = self.engine.stats, EngineStats()
        measures = {
            "sampler/evictions": float(s.evictions),
            "sampler/cache_used": s.peak_pages / self.engine.num_pages,
        }
        if s.row_steps:
            measures["sampler/useful_rows"] = s.sampled_tokens / s.row_steps
        if s.prompt_tokens:
            measures["sampler/reused_prompt"] = s.reused_tokens / s.prompt_tokens
        return measures

    def _within_reach(self, params: Params) -> Params:
        if self._every is None:
            return params
        leaves = jax.tree.leaves(params)
        if not self._leaves or not all(map(operator.is_, leaves, self._leaves)):
            config, mesh = self.engine.config, self.engine.mesh
            cast = own_form(config, mesh, params)  # with half the bytes to send
            self._copy = copy_to_hosts(cast, shardings(config, mesh), self._every)
            self._leaves = leaves
        return self._copy
