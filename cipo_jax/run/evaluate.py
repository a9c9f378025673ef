"""How good a policy is: on its own attempts, and on what it makes of attempts on a second look.

The same functions serve training (`config.data.eval`) and the benchmarks of `commands/evaluate.py`.
Metrics are shares in [0, 1] unless a function says otherwise; each is an `Estimate` with its
uncertainty over problems. The formulas are in `statistics.py`.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from cipo_jax.data.tasks.generated import TrueLines
from cipo_jax.policy.model import Params
from cipo_jax.rl.rewards import correct_array, pass_rates, verified_array
from cipo_jax.run.rollout import MakeAttempts
from cipo_jax.run.statistics import (
    Estimate,
    between,
    estimate,
    gain_estimate,
    majority_at_k,
    pass_at_k,
    share_estimate,
)
from cipo_jax.types import Attempt, Outcome, Prompt

CorrectionPrompt = Callable[[Attempt], Prompt]
# Pairs of answers -> whether the two of a pair are equal.
SameAnswers = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
Votes = tuple[int, list[int], int]  # right, sizes of the classes of wrong answers, abstained
WRONG = "incorrect"  # the verdict of a critique that is counted as a find
EVAL_KEY = 2  # folded into the run's key: equal problems give equal attempts, in training or not


def evaluate(
    attempt: MakeAttempts,
    params: Params,
    prompts: Sequence[Prompt],
    correction_prompt: CorrectionPrompt,
    *,
    samples: int,
    pass_at: Sequence[int],
    corrected_attempts: int,
    key: jax.Array,
    given: Sequence[Attempt] = (),
    correction_rounds: int = 1,
    same_answers: SameAnswers | None = None,
    true_lines: TrueLines | None = None,
) -> tuple[dict[str, Estimate], list[Attempt]]:
    """Evaluates `params` on the problems of `prompts`.

    Each problem gets `samples` attempts, of which the first `corrected_attempts` are then corrected
    once each; further rounds correct what the last one gave. The same key gives the same attempts.

    Attempts without a verdict (`Attempt.judged`) count in "error", in lengths and in "lines_true"
    alone. A metric for which too few verdicts are left is absent.

    Args:
      pass_at: the k of pass@k and maj@k.
      given: attempts that others made, corrected once each, whatever the rounds.
      correction_rounds: of own attempts, at least 1.
      same_answers: with it, maj@k is computed where problems have answers. Wrong answers that are
        written differently then count as one.
      true_lines: of the task, where its lines can be checked.

    Returns:
      metrics:
        "pass@k"; "maj@k"; "length/mean" (completion tokens); "no_answer"; "error";
        "lines_true": of the lines of all attempts that can be checked, the true ones;
        those of `evaluate_corrections`, and of `given` the same as "given/w2r" and so on;
        those of `against_another_attempt`, and with several rounds of `measure_rounds`.
      all attempts: prompt-major, then the corrections, round by round, those of `given` last.
    """
    attempts = attempt(params, prompts, samples, key, "evaluate")
    groups = [attempts[i : i + samples] for i in range(0, len(attempts), samples)]
    correct, judged = correct_array(attempts, samples), verified_array(attempts, samples)
    shares = {f"pass@{k}": pass_at_k(correct, k, judged) for k in pass_at}
    votes = None
    if same_answers and all(p.problem.answer is not None for p in prompts):
        votes = [count_votes(group, same_answers) for group in groups]
        shares |= {f"maj@{k}": _majorities(votes, k) for k in pass_at}
    known = {name: values[~np.isnan(values)] for name, values in shares.items()}
    metrics = {name: share_estimate(values) for name, values in known.items() if len(values)}
    metrics |= _of_completions(groups)
    if true_lines is not None:
        metrics |= _of_lines(groups, true_lines)
    # An attempt that may be right or wrong can be neither kept nor corrected.
    chains = [[a] for group in groups for a in group[:corrected_attempts] if a.judged]
    for number, (anchors, prefix) in enumerate(
        (([a for a, *_ in chains], "correction/"), (given, "given/")), 1
    ):
        if not anchors:
            continue
        of_pass = jax.random.fold_in(key, number)
        corrected, corrections = evaluate_corrections(
            attempt, params, anchors, correction_prompt, samples=1, key=of_pass
        )
        metrics |= {prefix + k.removeprefix("correction/"): e for k, e in corrected.items()}
        attempts = attempts + corrections
        if prefix == "correction/":
            chains = [[*c, after] for c, after in zip(chains, corrections, strict=True)]
            metrics |= against_another_attempt(chains, groups)
            for i in range(2, correction_rounds + 1):
                # 1 and 2 are those of the passes above.
                of_round, what = jax.random.fold_in(key, i + 1), f"evaluate corrections, round {i}"
                going_on = [c for c in chains if len(c) == i and c[-1].judged]
                asked = [correction_prompt(c[-1]) for c in going_on]
                further = attempt(params, asked, 1, of_round, what) if asked else []
                for chain, after in zip(going_on, further, strict=True):
                    chain.append(after)
                attempts = attempts + further
            if correction_rounds > 1:
                metrics |= measure_rounds(chains, groups, correction_rounds, votes)
    return metrics, attempts


def evaluate_corrections(
    attempt: MakeAttempts,
    params: Params,
    anchors: Sequence[Attempt],
    correction_prompt: CorrectionPrompt,
    samples: int,
    key: jax.Array,
    groups: Sequence[str] | None = None,
) -> tuple[dict[str, Estimate], list[Attempt]]:
    """Samples `samples` corrections of each anchor, the policy's own attempt or another's. Anchors
    of which no correction has a verdict are left out, as are the corrections that have none.

    Args:
      anchors: with verdicts.
      groups: which anchors belong together, for the uncertainty; None: those of one problem.

    Returns:
      metrics:
        "correction/accuracy_before", "correction/accuracy_after";
        "correction/w2r": share of wrong anchors corrected; "correction/r2r", "correction/r2w":
        shares of right ones kept and spoilt; absent where there was none;
        "correction/error": share of corrections without a verdict.
      the corrections, anchor-major.
    """
    prompts = [correction_prompt(anchor) for anchor in anchors]
    corrections = attempt(params, prompts, samples, key, "evaluate corrections")
    names = list(groups or [anchor.problem.id for anchor in anchors])
    after, known = _rates(corrections, samples)
    before = np.array([anchor.correct for anchor in anchors]) & known
    ones = known.astype(float)
    shares = {
        "accuracy_before": (before, ones),
        "accuracy_after": (after, ones),
        "r2r": (before * after, before),
        "r2w": (before * (1 - after), before),
        "w2r": (~before * after, ~before & known),
        "error": (_unjudged(corrections, samples), np.ones(len(anchors))),
    }
    return {
        f"correction/{name}": share_estimate(_grouped(above, names), _grouped(below, names))
        for name, (above, below) in shares.items()
        if below.any()
    }, corrections


def against_another_attempt(
    chains: Sequence[Sequence[Attempt]], groups: Sequence[Sequence[Attempt]]
) -> dict[str, Estimate]:
    """Whether a correction of a wrong attempt is better than another attempt. Where it is not,
    nothing in an attempt helps the policy, and there is little that corrections could teach.

    Args:
      chains: an attempt with a verdict, its correction, and so on.
      groups: all attempts at each problem.

    Returns:
      "correction/resampled_w2r": of wrong attempts, the share of right ones among the others at the
        same problem.
      "correction/w2r_gain": of the same attempts, the share corrected ("w2r") minus that.
      Both are absent if no wrong attempt has another attempt and a correction with verdicts.
    """
    others = {
        group[0].problem.id: (sum(a.correct for a in group), sum(a.judged for a in group) - 1)
        for group in groups
    }
    return against_other_attempts([(chain[0], chain[1]) for chain in chains], others)


def against_other_attempts(
    pairs: Sequence[tuple[Attempt, Attempt]], others: Mapping[str, tuple[int, int]]
) -> dict[str, Estimate]:
    """As `against_another_attempt`.

    Args:
      pairs: an attempt with a verdict, and its correction.
      others: {problem id: (right ones, all with a verdict)} of the other attempts.
    """
    names, fixed, resampled = [], [], []
    for anchor, after in pairs:
        right, count = others[anchor.problem.id]
        if not anchor.correct and after.judged and count:
            names.append(anchor.problem.id)
            fixed.append(float(after.correct))
            resampled.append(right / count)
    if not names:
        return {}
    values = (np.array(fixed), np.array(resampled), np.ones(len(names)))
    by_correction, by_attempt, counts = (_grouped(of, names) for of in values)
    return {
        "correction/resampled_w2r": share_estimate(by_attempt, counts),
        "correction/w2r_gain": gain_estimate(by_correction, by_attempt, counts),
    }


def measure_rounds(
    chains: Sequence[Sequence[Attempt]],
    groups: Sequence[Sequence[Attempt]],
    rounds: int,
    votes: Sequence[Votes] | None = None,
) -> dict[str, Estimate]:
    """Attempts corrected again and again, beside as many tokens spent on independent attempts.

    A chain of r rounds takes the tokens of its attempt and of r corrections. As many tokens buy n
    attempts at the same problems; n is no whole number, and pass@n is linear between whole ones.

    Args:
      chains: an attempt with a verdict, its correction, that one's, and so on. One that has come to
        a correction without a verdict ends there, and counts in the rounds before.
      groups: all attempts at each problem.
      votes: of each problem, as `count_votes` gives them.

    Returns: for r = 1, ..., `rounds`, as "correction/round_r/...":
      "accuracy": of chains, those that are right after r rounds; "solved": that were right at any
        time up to then, as a verifier would find out;
      "attempts": n; "pass": pass@n of the chains' problems, the share that n attempts solve;
      "solved_gain": "solved" minus "pass", paired by problem;
      "vote": with `votes`, maj@n, what n attempts are right in without a verifier.
      The last three are absent where no problem has n attempts with a verdict.
    """
    place = {group[0].problem.id: i for i, group in enumerate(groups)}
    samples = len(groups[0]) if groups else 0
    flat = [a for group in groups for a in group]
    correct, judged = correct_array(flat, samples), verified_array(flat, samples)
    length = np.array([np.mean([len(a.completion.tokens) for a in group]) for group in groups])
    metrics: dict[str, Estimate] = {}
    for r in range(1, rounds + 1):
        known = [chain[: r + 1] for chain in chains if len(chain) > r and chain[r].judged]
        if not known:
            break
        at = np.array([place[chain[0].problem.id] for chain in known])
        names = [chain[0].problem.id for chain in known]

        def over(values: Sequence[float] | np.ndarray, names: list[str] = names) -> np.ndarray:
            return _grouped(np.asarray(values, float), names)

        count = over(np.ones(len(known)))
        solved = np.array([any(a.correct for a in chain) for chain in known], float)
        tokens = [sum(len(a.completion.tokens) for a in chain) for chain in known]
        attempts = estimate(over(tokens), over(length[at]))
        found = {
            "accuracy": share_estimate(over([chain[-1].correct for chain in known]), count),
            "solved": share_estimate(over(solved), count),
            "attempts": attempts,
        }
        # [chains], of each one's problem.
        passed = between(lambda k: pass_at_k(correct, k, judged), attempts.value, samples)[at]
        has = ~np.isnan(passed)
        if has.any():
            passed, of = over(np.where(has, passed, 0.0)), over(has)
            found["pass"] = share_estimate(passed, of)
            found["solved_gain"] = gain_estimate(over(np.where(has, solved, 0.0)), passed, of)
        if votes is not None and has.any():
            voted = between(lambda k: _majorities(votes, k), attempts.value, samples)[at]
            found["vote"] = share_estimate(over(np.where(has, voted, 0.0)), over(has))
        metrics |= {f"correction/round_{r}/{name}": value for name, value in found.items()}
    return metrics


def _majorities(votes: Sequence[Votes], k: int) -> np.ndarray:
    """[N] maj@k of each problem; NaN where fewer than k attempts have a verdict."""

    def majority(right: int, wrong: Sequence[int], silent: int) -> float:
        known = right + sum(wrong) + silent
        return majority_at_k(right, wrong, silent, k) if known >= k else np.nan

    return np.array([majority(*vote) for vote in votes])


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
        "length/mean" (completion tokens), "no_answer", "error".
        Attempts that the verifier has not judged are left out of the first three.
      all attempts, prompt-major.
    """
    attempts = attempt(params, prompts, samples, key, "evaluate critiques")
    answers = [attempts[i : i + samples] for i in range(0, len(attempts), samples)]
    correct, known = _rates(attempts, samples)
    wrong = np.array([p.problem.answer == WRONG for p in prompts])
    found, missed, alarms = wrong * correct, wrong * (1 - correct), ~wrong * (1 - correct)
    metrics, counted = {}, _grouped(known, groups)
    if known.any():
        metrics["critique/accuracy"] = share_estimate(_grouped(correct, groups), counted)
    whole = (2 * found + missed + alarms) * known
    if whole.any():
        above, below = _grouped(2 * found, groups), _grouped(whole, groups)
        metrics["critique/f1"] = share_estimate(above, below)
    return metrics | _of_completions(answers), attempts


def plain_values(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """The values by name, and the standard errors of pass@k, of true lines, and of what corrections
    made of attempts, as "pass@k_stderr" and so on; what training logs."""
    values = {name: metric.value for name, metric in metrics.items()}
    uncertain = ("pass@", "correction/", "given/", "first_wrong/", "lines_true")
    return values | {f"{k}_stderr": m.stderr for k, m in metrics.items() if k.startswith(uncertain)}


def count_votes(group: Sequence[Attempt], same_answers: SameAnswers) -> Votes:
    """(right, sizes of the classes of wrong answers, abstained): the votes on one problem, of the
    attempts with a verdict. All right ones agree with the reference, so with each other."""
    right = sum(a.correct for a in group)
    answers = [a.verdict.extracted for a in group if a.judged and not a.correct]
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
    errors = [np.mean([not a.judged for a in group]) for group in groups]
    metrics = {"length/mean": estimate(np.array(lengths))}
    metrics["error"] = share_estimate(np.array(errors))
    outcomes = [[a.verdict.outcome for a in group if a.judged] for group in groups]
    silent = [np.mean([o is Outcome.NO_ANSWER for o in known]) for known in outcomes if known]
    return metrics | ({"no_answer": share_estimate(np.array(silent))} if silent else {})


def _of_lines(groups: Sequence[Sequence[Attempt]], true_lines: TrueLines) -> dict[str, Estimate]:
    """ "lines_true", unless there is no line."""
    found = [[t for a in group for t in true_lines(a.problem, a.text)] for group in groups]
    counts = np.array([[sum(of), len(of)] for of in found], float)
    return {"lines_true": share_estimate(*counts.T)} if counts[:, 1].any() else {}


def _rates(attempts: Sequence[Attempt], samples: int) -> tuple[np.ndarray, np.ndarray]:
    """([N] share of right ones among those with a verdict, 0 where there is none; [N] bool, whether
    there is one) of N groups of `samples` attempts."""
    rates = pass_rates(correct_array(attempts, samples), verified_array(attempts, samples))
    return np.nan_to_num(rates), ~np.isnan(rates)


def _unjudged(attempts: Sequence[Attempt], samples: int) -> np.ndarray:
    """[N] share of attempts without a verdict."""
    return 1 - verified_array(attempts, samples).mean(axis=1)


def _grouped(values: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """[groups] sums of `values` over those of one name."""
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.bincount([index[name] for name in names], weights=values, minlength=len(index))
