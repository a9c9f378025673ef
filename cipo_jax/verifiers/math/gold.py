"""Can a reference answer be read as mathematics, or only be compared as text?

A verifier for the pool (`kind="cipo_jax.verifiers.math.gold:read_gold"`), so that an answer on
which a parser hangs costs a worker and not the run. It decides nothing about right and wrong
completions.
"""

import logging
import re

from cipo_jax.types import Outcome, Problem, Verdict
from cipo_jax.verifiers.math.answer import verify_math
from cipo_jax.verifiers.math.quantity import read_quantity
from cipo_jax.verifiers.math.spelling import normalise

_WORDS = re.compile(r"[A-Za-z][A-Za-z .,'\-]*|\(?[A-J]\)?|[0-9]{1,2}:[0-9]{2}.*")


def read_gold(problem: Problem, text: str) -> Verdict:
    """CORRECT if `problem.answer` can be read, as number, words or expression; WRONG if only the
    same characters would verify; NO_ANSWER if not even those do, in a box. `text` is not used."""
    answer = problem.answer or ""
    itself = verify_math(f"\\boxed{{{answer}}}", answer)
    if not itself.correct:
        return Verdict(Outcome.NO_ANSWER, itself.extracted, f"does not verify: {itself.detail}")
    if read_quantity(normalise(answer)) or _WORDS.fullmatch(normalise(answer)):
        return Verdict(Outcome.CORRECT, answer)

    import math_verify  # half a second, and only hard answers need it

    # It warns that its own time limit is off; the pool's is on.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    parsed = math_verify.parse(f"${answer}$", fallback_mode="no_fallback", parsing_timeout=None)
    if parsed:
        return Verdict(Outcome.CORRECT, answer)
    return Verdict(Outcome.WRONG, answer, "not an expression: compared as text only")
