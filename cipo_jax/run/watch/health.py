"""Rules that watch a run's metrics: which values are bad, and for how long before it is reported.

A rule fires when its metric has been on the wrong side of its limit for `patience` steps in a row.
What happens then (a warning, an extra checkpoint, the end of the run) is the caller's.
"""

import dataclasses
from collections.abc import Mapping

from cipo_jax.config.keys import Health


@dataclasses.dataclass(frozen=True)
class Rule:
    """One limit: `metric` must not stay below (above) `limit`."""

    name: str
    metric: str
    limit: float
    below: bool  # True: the metric is bad below the limit, False: above it


@dataclasses.dataclass(frozen=True)
class Firing:
    """A rule that fired: recorded in metrics.jsonl and shown on screen."""

    rule: Rule
    value: float
    steps: int

    def __str__(self) -> str:
        side = "below" if self.rule.below else "above"
        return (
            f"{self.rule.name}: {self.rule.metric} = {self.value:.4g} has been {side} "
            f"{self.rule.limit:g} for {self.steps} steps"
        )


def health_rules(config: Health) -> tuple[Rule, ...]:
    """The rules that are switched on."""
    rules = (
        Rule("retention_floor", "correction/retention", config.retention_floor, below=True),
        Rule("break_rate_ceiling", "correction/break_rate", config.break_rate_ceiling, below=False),
        Rule("entropy_floor", "base/entropy", config.entropy_floor, below=True),
        Rule("truncation_ceiling", "base/truncated", config.truncation_ceiling, below=False),
        Rule("mismatch_ceiling", "base/sampler_gap", config.mismatch_ceiling, below=False),
        Rule("no_answer_ceiling", "base/outcome/no_answer", config.no_answer_ceiling, below=False),
        Rule("gradient_floor", "grad_norm", config.gradient_floor, below=True),
    )
    return tuple(rule for rule in rules if rule.limit >= 0)


def check_health(
    rules: tuple[Rule, ...], streaks: Mapping[str, int], scalars: Mapping[str, float], patience: int
) -> tuple[dict[str, int], list[Firing]]:
    """Applies the rules to one step's metrics.

    Args:
      streaks: {rule name: steps in a row it has been broken}, from the step before.
      scalars: the step's metrics; a rule whose metric is absent keeps its streak.
      patience: a rule fires at the first step its streak reaches this, and every `patience` steps
        after.

    Returns:
      the new streaks; what fired now.
    """
    updated, firings = dict(streaks), []
    for rule in rules:
        if (value := scalars.get(rule.metric)) is None:
            continue
        # Written so that NaN counts as bad.
        healthy = value >= rule.limit if rule.below else value <= rule.limit
        streak = 0 if healthy else streaks.get(rule.name, 0) + 1
        updated[rule.name] = streak
        if streak and streak % patience == 0:
            firings.append(Firing(rule, value, streak))
    return updated, firings
