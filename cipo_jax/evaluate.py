"""How good a policy is: pass@k on its own attempts, and what it makes of them on a second look."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from cipo_jax.attempts import MakeAttempts
from cipo_jax.policy.model import Params
from cipo_jax.types import Attempt, Outcome, Prompt


def pass_at_k(correct: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of each problem: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, eq. 1).

    Args:
      correct: [N, n] bool, n >= k samples of N problems.

    Returns:
      [N] float64.
    """
    n = correct.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} with {n} samples a problem, wanted 1 <= k <= samples")
    wrong = n - correct.sum(axis=1)
    # C(n - c, k) / C(n, k) as a product, which cannot overflow.
    draws = np.arange(k)
    return 1.0 - np.prod(np.maximum(wrong[:, None] - draws, 0) / (n - draws), axis=1)


def evaluate(
    attempt: MakeAttempts,
    params: Params,
    prompts: Sequence[Prompt],
    correction_prompt: Callable[[Attempt], Prompt],
    *,
    samples: int,
    pass_at: Sequence[int],
    corrected_attempts: int,
    key: jax.Array,
) -> tuple[dict[str, float], list[Attempt]]:
    """Evaluates `params` on the problems of `prompts`.

    Each problem gets `samples` attempts; the first `corrected_attempts` of them are then given
    back for correction, once each. The same key gives the same attempts.

    Returns:
      metrics, all in [0, 1] but lengths (tokens):
        "pass@k" and its standard error over problems "pass@k_stderr", "length/mean", "no_answer";
        "correction/accuracy_before", "correction/accuracy_after": of the attempts given back;
        "correction/w2r": share of wrong attempts corrected, "correction/r2r": share of right ones
        kept; absent where there was none.
      all attempts: prompt-major, then the corrections.
    """
    attempts = attempt(params, prompts, samples, key, "evaluate")
    correct = np.array([a.correct for a in attempts]).reshape(len(prompts), samples)
    metrics: dict[str, float] = {}
    for k in pass_at:
        per_problem = pass_at_k(correct, k)
        metrics[f"pass@{k}"] = float(per_problem.mean())
        metrics[f"pass@{k}_stderr"] = float(per_problem.std() / np.sqrt(len(per_problem)))
    metrics["length/mean"] = float(np.mean([len(a.completion.tokens) for a in attempts]))
    metrics["no_answer"] = float(
        np.mean([a.verdict.outcome is Outcome.NO_ANSWER for a in attempts])
    )
    if not corrected_attempts:
        return metrics, attempts

    anchors = [
        attempts[i * samples + j] for i in range(len(prompts)) for j in range(corrected_attempts)
    ]
    corrections = attempt(
        params,
        [correction_prompt(a) for a in anchors],
        1,
        jax.random.fold_in(key, 1),
        "evaluate corrections",
    )
    before = np.array([a.correct for a in anchors])
    after = np.array([c.correct for c in corrections])
    metrics["correction/accuracy_before"] = float(before.mean())
    metrics["correction/accuracy_after"] = float(after.mean())
    if before.any():
        metrics["correction/r2r"] = float(after[before].mean())
    if not before.all():
        metrics["correction/w2r"] = float(after[~before].mean())
    return metrics, attempts + corrections
