"""Records of a study's runs that no run has made, for tests of what a report makes of few cases."""

from collections.abc import Sequence
from typing import Any

from cipo_jax.commands.study.measures import _SUMS, _TRAINING

TASK = "arithmetic"


def make_record(
    method: str, seed: int, right: Sequence[int], samples: Sequence[int], **sums: Sequence[float]
) -> dict[str, Any]:
    """Of problem i `right[i]` of `samples[i]` attempts with a verdict are right; `sums` are further
    ones of its problems, 0 if not given."""
    problems = {name: [0] * len(right) for name in _SUMS}
    problems |= {"right": [*right], "samples": [*samples], "operations": [1] * len(right)}
    problems |= {"tokens": [10 * n for n in samples], "surprise": [5 * n for n in samples]}
    return {
        "task": TASK,
        "method": method,
        "seed": seed,
        "steps": 6,
        "sampled_tokens": 1000,
        "trained_tokens": 900,
        "group_size": 8,
        "max_sampled_tokens": 0,
        "seconds": 1.0,
        "command": "python",
        "curve": {"step": [6], "tokens": [1000], "entropy": [None], "pass@1": [0.5]},
        "training": {name: [] for name in ("step", *_TRAINING)},
        "problems": problems | {name: [*of] for name, of in sums.items()},
    }
