"""Attempts sent between hosts: completions and verdicts as bytes.

What all hosts know anyway (prompts, problems) is not sent. Nothing is pickled.
"""

import io
import json
from collections.abc import Sequence

import numpy as np

from cipo_jax.run.hosts.preemption import Preempted
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.types import Completion, Outcome, Verdict

# A completion, its text, its verdict.
Judged = tuple[Completion, str, Verdict]
_ABANDONED = b"abandoned"


def exchange(hosts: Hosts, own: Sequence[Judged] | None) -> list[Judged]:
    """The attempts of all hosts, in the order of hosts. Called by all hosts.

    Args:
      own: this host's; None if it was asked to end before it had them.

    Raises:
      Preempted: on all hosts, if any was asked to end.
    """
    if hosts.count == 1 and own is not None:
        return list(own)
    gathered = hosts.gather(_ABANDONED if own is None else encode(own))
    if _ABANDONED in gathered:
        hosts.notice.give()
        raise Preempted
    return [judged for payload in gathered for judged in decode(payload)]


def encode(judged: Sequence[Judged]) -> bytes:
    records = [(bool(c.finished), text, vars(v)) for c, text, v in judged]
    nothing = [np.zeros(0)]  # so that there is something to join
    file = io.BytesIO()
    np.savez(
        file,
        records=np.frombuffer(json.dumps(records).encode(), np.uint8),
        lengths=np.array([len(c.tokens) for c, _, _ in judged], np.int64),
        tokens=np.concatenate([c.tokens for c, _, _ in judged] or nothing).astype(np.int32),
        logprobs=np.concatenate([c.logprobs for c, _, _ in judged] or nothing).astype(np.float32),
    )
    return file.getvalue()


def decode(payload: bytes) -> list[Judged]:
    """The inverse of `encode`, to the bit."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
        records = json.loads(arrays["records"].tobytes())
        ends = np.cumsum(arrays["lengths"])[:-1]
        pieces = [np.split(arrays[name], ends) for name in ("tokens", "logprobs")]
    judged = []
    # Not strict: of no completions, `np.split` makes one empty piece.
    for (finished, text, verdict), tokens, logprobs in zip(records, *pieces, strict=False):
        verdict["outcome"] = Outcome(verdict["outcome"])
        judged.append((Completion(tokens, logprobs, finished), text, Verdict(**verdict)))
    return judged
