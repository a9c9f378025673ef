"""Judging by the verifier section of the config: the pool, and whether it works at all."""

from collections.abc import Sequence

from cipo_jax.config.keys import Verifier
from cipo_jax.types import Attempt, CipoError, Outcome
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
