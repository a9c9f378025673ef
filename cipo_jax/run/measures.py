"""The metrics of a run: what each is, computed from attempts, anchors and verdicts.

Not decided here: what is measured on the device (losses, entropy, gradient norms come in as
scalars), when anything is written, or how hosts are combined.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cipo_jax.rl.anchors import Selection
from cipo_jax.types import STREAMS, Attempt, Outcome, Prompt


def reduce_attempts(
    attempts: Sequence[Attempt],
    group_size: int,
    prefix: str,
    rewards: np.ndarray | None = None,
) -> dict[str, float]:
    """What one stream of attempts says of the policy. Names start with `prefix`/.

    Args:
      attempts: [n * group_size], group-major: attempts[i * group_size + j] is the j-th of the
        i-th prompt.
      group_size: attempts per prompt.
      prefix: the stream's name, such as "base".
      rewards: [n, group_size], what the attempts earned; None: 1 if correct, else 0.

    Returns:
      Shares are of all attempts unless said otherwise, in [0, 1]; lengths in completion tokens,
      stop token included. Nothing for no attempts.
        reward/mean: mean reward, before any shaping or penalty.
        pass_rate: share of correct attempts.
        outcome/{correct,wrong,no_answer,timeout,error}: share of each outcome; they sum to 1.
        length/mean, length/p95: mean, and 95th percentile with linear interpolation.
        truncated: share that ran into the token limit.
        group/{all_right,all_wrong,mixed}: share of the n groups whose attempts are all correct,
          all not correct, or neither; with rewards of 1 and 0 only mixed groups give a
          group-relative gradient.

    Raises:
      ValueError: the number of attempts is not a multiple of `group_size`.
    """
    if len(attempts) % group_size:
        raise ValueError(f"{len(attempts)} attempts are not whole groups of {group_size}")
    if not attempts:
        return {}
    correct = np.array([a.correct for a in attempts])
    lengths = np.array([len(a.completion.tokens) for a in attempts])
    outcomes = [a.verdict.outcome for a in attempts]
    rights = correct.reshape(-1, group_size).sum(axis=1)
    all_right = float(np.mean(rights == group_size))
    all_wrong = float(np.mean(rights == 0))
    metrics = {
        "reward/mean": float(correct.mean() if rewards is None else rewards.mean()),
        "pass_rate": float(correct.mean()),
        **{f"outcome/{o.value}": outcomes.count(o) / len(outcomes) for o in Outcome},
        "length/mean": float(lengths.mean()),
        "length/p95": float(np.percentile(lengths, 95)),
        "truncated": float(np.mean([not a.completion.finished for a in attempts])),
        "group/all_right": all_right,
        "group/all_wrong": all_wrong,
        "group/mixed": float(np.mean((rights > 0) & (rights < group_size))),
    }
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def pass_rate_histogram(correct: np.ndarray) -> dict[str, float]:
    """pass_rate/{k}_of_G, for k from 0 to G: share of the groups ([N, G] bool) with k right."""
    groups, G = correct.shape
    counts = np.bincount(correct.sum(axis=1), minlength=G + 1)
    return {f"pass_rate/{k}_of_{G}": float(n / groups) for k, n in enumerate(counts)}


def transition(correction: Attempt) -> str:
    """Whether the quoted attempt, then the correction, was right: "r2r", "r2w", "w2r" or "w2w".

    Right means `Outcome.CORRECT`; every other outcome is wrong.

    Raises:
      ValueError: the attempt is not a correction.
    """
    if correction.prompt.anchor is None:
        raise ValueError(f"attempt at problem {correction.problem.id!r} has no anchor")
    return "wr"[correction.prompt.anchor.correct] + "2" + "wr"[correction.correct]


def transitions(corrections: Sequence[Attempt]) -> dict[str, float]:
    """How corrections changed the attempts they quote.

    With r2w the number of corrections that are wrong where the quoted attempt was right, and so
    on, and n = r2r + r2w + w2r + w2w:
        transition/{r2r,r2w,w2r,w2w}: share of n; they sum to 1.
        transition/{r2r,r2w,w2r,w2w}_count: the numbers themselves.
        correction/fix_rate: w2r / (w2r + w2w); absent if no quoted attempt was wrong.
        correction/break_rate: r2w / (r2r + r2w); absent if no quoted attempt was right.
        correction/retention: r2r / (r2r + r2w) = 1 - break_rate; absent likewise.
        correction/copy_rate: share of n whose text is the quoted attempt's, outer space aside.
        correction/answer_changed_frac: share of n whose extracted answer is another string than
          the quoted attempt's; no answer is equal to no answer only.

    Returns:
      The above; nothing for no corrections.

    Raises:
      ValueError: an attempt has no anchor.
    """
    if not corrections:
        return {}
    kinds = [transition(c) for c in corrections]
    n = len(kinds)
    count = {kind: kinds.count(kind) for kind in ("r2r", "r2w", "w2r", "w2w")}
    pairs = [(c.prompt.anchor, c) for c in corrections if c.prompt.anchor is not None]
    copied = sum(a.text.strip() == c.text.strip() for a, c in pairs)
    changed = sum(a.verdict.extracted != c.verdict.extracted for a, c in pairs)
    metrics = {f"transition/{kind}": number / n for kind, number in count.items()}
    metrics |= {f"transition/{kind}_count": float(number) for kind, number in count.items()}
    metrics |= {"correction/copy_rate": copied / n, "correction/answer_changed_frac": changed / n}
    if wrong := count["w2r"] + count["w2w"]:
        metrics["correction/fix_rate"] = count["w2r"] / wrong
    if right := count["r2r"] + count["r2w"]:
        metrics["correction/retention"] = count["r2r"] / right
        metrics["correction/break_rate"] = count["r2w"] / right
    return metrics


def anchor_metrics(anchors: Selection, prompts: Sequence[Prompt]) -> dict[str, float]:
    """What was put back; nothing without anchors.

    anchor/count; anchor/realised_success_share: share of right ones; anchor/fallback_frac: share
    from problems outside the difficulty band; anchor/trimmed_frac: share of prompts whose quoted
    attempt was cut.
    """
    if not len(anchors):
        return {}
    return {
        "anchor/count": float(len(anchors)),
        "anchor/realised_success_share": float(anchors.right.mean()),
        "anchor/fallback_frac": float(1 - anchors.in_band.mean()),
        "anchor/trimmed_frac": float(np.mean([p.trimmed for p in prompts])),
    }


def of_streams_in_use(device_metrics: Mapping[str, Any]) -> dict[str, float]:
    """The train step's metrics as floats, without those of a stream that had no tokens."""
    empty = [s for s in STREAMS if device_metrics[f"{s}/tokens"] == 0]
    return {
        name: float(value)
        for name, value in device_metrics.items()
        if not any(name.startswith(f"{s}/") or name == f"loss/{s}" for s in empty)
    }
