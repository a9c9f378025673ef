"""What the run knows of each problem's difficulty, and a curriculum made from it.

The memory is a running pass rate per problem. The curriculum prefers problems whose outcome is
uncertain: a group's expected squared advantage is proportional to p (1 - p), so a problem that is
always or never solved teaches nothing. (Ours; the idea is that of learnability-based curricula.)
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

FLOOR = 0.02  # the weight of always-right and never-right problems, so that they are tried again
UNSEEN = 0.25  # the weight of a pass rate of one half: an unknown problem is worth trying


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """Running pass rate of one problem and the number of groups it was seen in."""

    pass_rate: float
    count: int


Memory = Mapping[str, Difficulty]


def remember(
    memory: Memory, ids: Sequence[str], pass_rates: np.ndarray, decay: float
) -> dict[str, Difficulty]:
    """The memory after one step's groups, with `pass_rates` [N] of the problems `ids`; `decay`, in
    [0, 1], is the weight of the past in the running mean: with 1 the first group's stays."""
    updated = dict(memory)
    for problem, rate in zip(ids, pass_rates.tolist(), strict=True):
        old = updated.get(problem)
        mean = decay * old.pass_rate + (1 - decay) * rate if old else rate
        updated[problem] = Difficulty(mean, old.count + 1 if old else 1)
    return updated


def choose_learnable(
    memory: Memory, ids: Sequence[str], count: int, rng: np.random.Generator
) -> list[int]:
    """Ascending indices of `count` of the candidates `ids`, drawn without replacement in proportion
    to p (1 - p)."""
    known = [memory.get(problem) for problem in ids]
    weights = [max(FLOOR, d.pass_rate * (1 - d.pass_rate)) if d else UNSEEN for d in known]
    # Gumbel top-k: a draw without replacement in one go.
    keys = np.log(weights) + rng.gumbel(size=len(weights))
    return sorted(np.argsort(-keys)[:count].tolist())
