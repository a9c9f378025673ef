"""What the run knows of each problem's difficulty, and a curriculum made from it.

The memory is a running pass rate per problem. The curriculum prefers problems whose outcome is
uncertain: a group's expected squared advantage is proportional to p (1 - p), so a problem that is
always or never solved teaches nothing. (Ours; the idea is that of learnability-based curricula.)

Not decided here: where the memory is kept and written, which problems are candidates.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

# Always-right and never-right problems keep this weight, so that they are looked at again.
FLOOR = 0.02
UNSEEN = 0.25  # the weight of a pass rate of one half: what is not known is worth a look


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """Running pass rate of one problem and the number of groups it was seen in."""

    pass_rate: float
    count: int


Memory = Mapping[str, Difficulty]


def remember(
    memory: Memory, ids: Sequence[str], pass_rates: np.ndarray, decay: float
) -> dict[str, Difficulty]:
    """The memory after one step's groups.

    Args:
      ids: [N] problem ids.
      pass_rates: [N], of their groups.
      decay: weight of the past in the running mean, in [0, 1); the first group counts in full.
    """
    updated = dict(memory)
    for problem, rate in zip(ids, pass_rates.tolist(), strict=True):
        old = updated.get(problem)
        if old is None:
            updated[problem] = Difficulty(rate, 1)
        else:
            mean = decay * old.pass_rate + (1 - decay) * rate
            updated[problem] = Difficulty(mean, old.count + 1)
    return updated


def choose_learnable(
    memory: Memory, ids: Sequence[str], count: int, rng: np.random.Generator
) -> list[int]:
    """Indices of `count` of the candidates, drawn without replacement in proportion to p (1 - p).

    Args:
      ids: candidate problem ids, at least `count`.
      rng: the same state gives the same choice.

    Returns:
      indices into `ids`, ascending.
    """
    known = [memory.get(problem) for problem in ids]
    weights = np.array(
        [UNSEEN if d is None else max(FLOOR, d.pass_rate * (1 - d.pass_rate)) for d in known]
    )
    # Gumbel top-k: a draw without replacement in one go.
    keys = np.log(weights) + rng.gumbel(size=len(weights))
    return sorted(np.argsort(-keys)[:count].tolist())
