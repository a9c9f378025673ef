"""What the verifier section of the config means: the pool that judges, and what a verdict earns.

Rewards are used by the policy gradient alone. Whether an attempt is right is its verdict's outcome:
pass rates, anchors, transitions and retention go by that.
"""

from collections.abc import Sequence

import numpy as np

from cipo_jax.config.keys import Verifier
from cipo_jax.types import Attempt, CipoError, Outcome, Verdict
from cipo_jax.verifiers.pool import VerifierPool


def open_pool(verifier: Verifier, kind: str = "", wait: bool = True) -> VerifierPool:
    """Starts the pool of the `verifier` section; a `kind` replaces the section's own.

    Args:
      wait: as in `VerifierPool`.

    Raises:
      CipoError: as `VerifierPool`.
    """
    return VerifierPool(
        kind or verifier.kind,
        verifier.workers,
        verifier.timeout_seconds,
        stand_ins=verifier.stand_ins,
        recycle_after=verifier.recycle_after,
        memory_limit_bytes=verifier.memory_limit_mb << 20,
        extraction=verifier.extraction,
        allow_unsandboxed_code=verifier.allow_unsandboxed_code,
        partial_credit=verifier.partial_credit,
        wait=wait,
    )


def reward_of(verdict: Verdict, verifier: Verifier) -> float:
    """What a verdict earns: by its outcome; with partial credit, one with a score goes that share
    of the way from there to what CORRECT earns."""
    earned = {
        Outcome.CORRECT: verifier.reward_correct,
        Outcome.WRONG: verifier.reward_wrong,
        Outcome.NO_ANSWER: verifier.reward_no_answer,
        Outcome.TIMEOUT: verifier.reward_timeout,
        Outcome.ERROR: verifier.reward_error,
    }[verdict.outcome]
    if verifier.partial_credit and verdict.score is not None:
        return earned + verdict.score * (verifier.reward_correct - earned)
    return earned


def reward_array(attempts: Sequence[Attempt], group_size: int, verifier: Verifier) -> np.ndarray:
    """[N, G] float64, the reward of each attempt ([N * G], group-major)."""
    rewards = [reward_of(a.verdict, verifier) for a in attempts]
    return np.array(rewards, np.float64).reshape(-1, group_size)


def verifier_works(attempts: Sequence[Attempt]) -> bool:
    """Whether any attempt was judged; False if there are none.

    Raises:
      CipoError: there are some, and the verifier has failed on each: nothing can be learnt so.
    """
    if any(a.verdict.outcome is not Outcome.ERROR for a in attempts):
        return True
    if not attempts:
        return False
    first = attempts[0]
    raise CipoError(
        f"config.verifier.kind: the verifier has failed on all {len(attempts)} completions it was "
        f"given, on the first (of problem {first.problem.id!r}) with {first.verdict.detail!r}. "
        "Mend it, and try it on a file of answers by --mode=verify --input=answers.jsonl"
    )
