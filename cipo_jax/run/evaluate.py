"""How good a policy is: on its own attempts, and on what it makes of attempts on a second look.

The same functions serve training (`config.data.eval`) and the benchmarks of `commands/evaluate.py`.
Metrics are shares in [0, 1] unless a function says otherwise; each is an `Estimate` with its
uncertainty over problems. The formulas are in `statistics.py`.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from cipo_jax.policy.model import Params
from cipo_jax.run.rollout import MakeAttempts
from cipo_jax.run.statistics import Estimate, estimate, majority_at_k, pass_at_k
from cipo_jax.types import Attempt, Outcome, Prompt

# Pairs of answers -> whether the two of a pair are equal.
SameAnswers = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
WRONG = "incorrect"  # the verdict of a critique that is counted as a find
EVAL_KEY = 2  # folded into the run's key: equal problems give equal attempts, in training or not


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
    given: Sequence[Attempt] = (),
    same_answers: SameAnswers | None = None,
) -> tuple[dict[str, Estimate], list[Attempt]]:
    """Evaluates `params` on the problems of `prompts`.

    Each problem gets `samples` attempts, of which the first `corrected_attempts` are then corrected
    once each. The same key gives the same attempts.

    Args:
      pass_at: the k of pass@k and maj@k.
      given: attempts that others made, corrected once each as well.
      same_answers: with it, maj@k is computed where problems have answers. Wrong answers that are
        written differently then count as one.

    Returns:
      metrics:
        "pass@k"; "maj@k"; "length/mean" (completion tokens); "no_answer";
        those of `evaluate_corrections`, and of `given` the same as "given/w2r" and so on.
      all attempts: prompt-major, then the corrections, those of `given` last.
    """
    attempts = attempt(params, prompts, samples, key, "evaluate")
    groups = [attempts[i : i + samples] for i in range(0, len(attempts), samples)]
    correct = np.array([[a.correct for a in group] for group in groups])
    metrics = {f"pass@{k}": estimate(pass_at_k(correct, k)) for k in pass_at}
    if same_answers and all(p.problem.answer is not None for p in prompts):
        votes = [count_votes(group, same_answers) for group in groups]
        for k in pass_at:
            metrics[f"maj@{k}"] = estimate(np.array([majority_at_k(*v, k) for v in votes]))
    metrics |= _of_completions(groups)
    own = [a for group in groups for a in group[:corrected_attempts]]
    for number, (anchors, prefix) in enumerate(((own, "correction/"), (given, "given/")), 1):
        if anchors:
            of_pass = jax.random.fold_in(key, number)
            corrected, corrections = evaluate_corrections(
                attempt, params, anchors, correction_prompt, samples=1, key=of_pass
            )
            metrics |= {prefix + k.removeprefix("correction/"): e for k, e in corrected.items()}
            attempts = attempts + corrections
    return metrics, attempts


def evaluate_corrections(
    attempt: MakeAttempts,
    params: Params,
    anchors: Sequence[Attempt],
    correction_prompt: Callable[[Attempt], Prompt],
    samples: int,
    key: jax.Array,
    groups: Sequence[str] | None = None,
) -> tuple[dict[str, Estimate], list[Attempt]]:
    """Samples `samples` corrections of each anchor, the policy's own attempt or another's.

    Args:
      groups: which anchors belong together, for the uncertainty; None: those of one problem.

    Returns:
      metrics:
        "correction/accuracy_before", "correction/accuracy_after";
        "correction/w2r": share of wrong anchors corrected; "correction/r2r", "correction/r2w":
        shares of right ones kept and spoilt. Absent where there was none.
      the corrections, anchor-major.
    """
    prompts = [correction_prompt(anchor) for anchor in anchors]
    corrections = attempt(params, prompts, samples, key, "evaluate corrections")
    names = groups or [anchor.problem.id for anchor in anchors]
    before = np.array([anchor.correct for anchor in anchors])
    after = np.array([c.correct for c in corrections]).reshape(len(anchors), samples).mean(axis=1)
    ones = np.ones(len(anchors))
    shares = {
        "accuracy_before": (before, ones),
        "accuracy_after": (after, ones),
        "r2r": (before * after, before),
        "r2w": (before * (1 - after), before),
        "w2r": (~before * after, ~before),
    }
    return {
        f"correction/{name}": estimate(_grouped(above, names), _grouped(below, names))
        for name, (above, below) in shares.items()
        if below.any()
    }, corrections


def evaluate_critiques(
    attempt: MakeAttempts,
    params: Params,
    prompts: Sequence[Prompt],
    samples: int,
    key: jax.Array,
    groups: Sequence[str],
) -> tuple[dict[str, Estimate], list[Attempt]]:
    """Asks whether given attempts are right; the problems' answers are "correct" or "incorrect".

    Returns:
      metrics:
        "critique/accuracy";
        "critique/f1": of finding wrong attempts (CriticBench, arXiv 2402.14809, section 3); an
        unreadable verdict counts as the opposite of the label;
        "length/mean" (completion tokens), "no_answer".
      all attempts, prompt-major.
    """
    attempts = attempt(params, prompts, samples, key, "evaluate critiques")
    answers = [attempts[i : i + samples] for i in range(0, len(attempts), samples)]
    correct = np.array([[a.correct for a in group] for group in answers]).mean(axis=1)
    wrong = np.array([p.problem.answer == WRONG for p in prompts])
    found, missed, alarms = wrong * correct, wrong * (1 - correct), ~wrong * (1 - correct)
    ones = _grouped(np.ones(len(groups)), groups)
    metrics = {"critique/accuracy": estimate(_grouped(correct, groups), ones)}
    whole = 2 * found + missed + alarms
    if whole.any():
        metrics["critique/f1"] = estimate(_grouped(2 * found, groups), _grouped(whole, groups))
    return metrics | _of_completions(answers), attempts


def plain_values(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """The values by name, and "pass@k_stderr"; what training logs."""
    values = {name: metric.value for name, metric in metrics.items()}
    return values | {f"{k}_stderr": m.stderr for k, m in metrics.items() if k.startswith("pass@")}


def count_votes(group: Sequence[Attempt], same_answers: SameAnswers) -> tuple[int, list[int], int]:
    """(right, sizes of the classes of wrong answers, abstained): the votes on one problem. All
    right attempts agree with the reference, so with each other."""
    right = sum(a.correct for a in group)
    answers = [a.verdict.extracted for a in group if not a.correct]
    given = [answer for answer in answers if answer is not None]
    distinct = list(dict.fromkeys(given))
    leader = {answer: answer for answer in distinct}
    pairs = [(a, b) for i, a in enumerate(distinct) for b in distinct[i + 1 :]]
    for (a, b), same in zip(pairs, same_answers(pairs), strict=True):
        if same:
            old, new = leader[b], leader[a]
            leader = {k: new if v == old else v for k, v in leader.items()}
    classes = [leader[answer] for answer in given]
    sizes = [classes.count(name) for name in dict.fromkeys(classes)]
    return right, sizes, len(answers) - len(given)


def _of_completions(groups: Sequence[Sequence[Attempt]]) -> dict[str, Estimate]:
    lengths = [np.mean([len(a.completion.tokens) for a in group]) for group in groups]
    silent = [np.mean([a.verdict.outcome is Outcome.NO_ANSWER for a in group]) for group in groups]
    return {"length/mean": estimate(np.array(lengths)), "no_answer": estimate(np.array(silent))}


def _grouped(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """[groups] sums of `values` over those of one name."""
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.bincount([index[name] for name in names], weights=values, minlength=len(index))
