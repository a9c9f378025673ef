"""What corrections made of the attempts they quote: transitions, copies, and who moves the policy.

Names and meanings of the metrics are in `measures.METRICS`. A class is what the quoted attempt (the
anchor) was: right or wrong.
"""

from collections.abc import Sequence

import numpy as np

from cipo_jax.config.keys import Verifier
from cipo_jax.data.prompts import said
from cipo_jax.rl.limits import class_weights
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.rl.rewards import is_known
from cipo_jax.types import Attempt

CLASSES = ("wrong", "right")  # in the order of False, True


def transition(correction: Attempt) -> str:
    """Whether the quoted attempt, then the correction, was correct: "r2r", "r2w", "w2r" or "w2w".

    Raises:
      ValueError: the attempt is not a correction.
    """
    return "wr"[_quoted(correction).correct] + "2" + "wr"[correction.correct]


def repeats(correction: Attempt) -> bool:
    """Whether its text is that of the attempt it quotes, thoughts and outer space aside.

    Raises:
      ValueError: the attempt is not a correction.
    """
    return said(_quoted(correction)).strip() == said(correction).strip()


def transitions(
    corrections: Sequence[Attempt],
    verifier: Verifier = Verifier(),  # noqa: B008
) -> dict[str, float]:
    """How corrections changed the attempts they quote; nothing for no corrections.

    `correction/fix_rate` and what is of wrong quoted attempts is absent if none was wrong;
    `correction/retention`, `correction/break_rate` and what is of right ones, if none was right;
    `correction/same_answer/...` also if none of the class had an answer. Corrections whose verdict
    says nothing are left out.

    Raises:
      ValueError: an attempt has no anchor.
    """
    corrections = [c for c in corrections if is_known(c.verdict, verifier)]
    if not corrections:
        return {}
    kinds = [transition(c) for c in corrections]
    n = len(kinds)
    count = {kind: kinds.count(kind) for kind in ("r2r", "r2w", "w2r", "w2w")}
    pairs = [(_quoted(c), c) for c in corrections]
    copied = [repeats(c) for c in corrections]
    changed = [a.verdict.extracted != c.verdict.extracted for a, c in pairs]
    metrics = {f"transition/{kind}": number / n for kind, number in count.items()}
    metrics |= {f"transition/{kind}_count": float(number) for kind, number in count.items()}
    metrics["correction/copy_rate"] = sum(copied) / n
    metrics["correction/answer_changed_frac"] = sum(changed) / n
    if wrong := count["w2r"] + count["w2w"]:
        metrics["correction/fix_rate"] = count["w2r"] / wrong
    if right := count["r2r"] + count["r2w"]:
        metrics["correction/retention"] = count["r2r"] / right
        metrics["correction/break_rate"] = count["r2w"] / right
    of = np.array([CLASSES[a.correct] for a, _ in pairs])
    answered = np.array([a.verdict.extracted is not None for a, _ in pairs])
    for name in CLASSES:
        if (of == name).any():
            metrics[f"correction/copy_rate/{name}"] = float(np.array(copied)[of == name].mean())
        if (counted := (of == name) & answered).any():
            same = ~np.array(changed)[counted]
            metrics[f"correction/same_answer/{name}"] = float(same.mean())
    return metrics


def wrong_solved(
    corrections: Sequence[Attempt], group_sizes: Sequence[int], verifier: Verifier
) -> dict[str, float]:
    """`correction/wrong_solved`, of groups of these sizes, of one anchor each, one after the other.
    A group without a verdict that says something is left out; nothing is said without any."""
    ends = np.cumsum(group_sizes)
    groups = [corrections[end - size : end] for end, size in zip(ends, group_sizes, strict=True)]
    solved = [
        any(c.correct for c in group)
        for group in groups
        if not _quoted(group[0]).correct and any(is_known(c.verdict, verifier) for c in group)
    ]
    return {"correction/wrong_solved": sum(solved) / len(solved)} if solved else {}


def gradient_weight(
    sequences: Sequence[TrainSequence], anchor_right: np.ndarray, aggregation: str
) -> dict[str, float]:
    """`correction/right_weight`, the share of right anchors in the weights of `class_weights`;
    nothing if no correction has an advantage.

    It costs nothing: advantages and lengths are known on the host before the update. How much of
    the gradients of single tokens cancels within a class is not known here;
    `log.gradient_stats_every` measures gradients.

    Args:
      sequences, anchor_right, aggregation: as in `class_weights`.
    """
    wrong, right = class_weights(sequences, anchor_right, aggregation)
    return {"correction/right_weight": right / (wrong + right)} if wrong + right else {}


def _quoted(correction: Attempt) -> Attempt:
    if correction.prompt.anchor is None:
        raise ValueError(f"attempt at problem {correction.problem.id!r} has no anchor")
    return correction.prompt.anchor
