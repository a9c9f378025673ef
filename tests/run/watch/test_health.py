import math

import pytest

from cipo_jax.config.keys import Health
from cipo_jax.run.watch.health import Rule, check_health, health_rules

FLOOR = Rule("floor", "m", 0.5, below=True)
CEILING = Rule("ceiling", "m", 0.5, below=False)


def run(rule: Rule, values: list[float | None], patience: int) -> list[int]:
    """The (0-based) steps at which the rule fires."""
    streaks: dict[str, int] = {}
    fired = []
    for step, value in enumerate(values):
        scalars = {} if value is None else {"m": value}
        streaks, firings = check_health((rule,), streaks, scalars, patience)
        fired += [step] * len(firings)
    return fired


def test_a_rule_fires_after_patience_steps_in_a_row_and_again_after_as_many() -> None:
    assert run(FLOOR, [0.4] * 7, patience=3) == [2, 5]
    assert run(CEILING, [0.6] * 7, patience=3) == [2, 5]


def test_a_healthy_step_ends_the_streak() -> None:
    assert run(FLOOR, [0.4, 0.4, 0.5, 0.4, 0.4, 0.4], patience=3) == [5]


def test_an_absent_metric_neither_breaks_nor_heals() -> None:
    assert run(FLOOR, [0.4, None, 0.4], patience=2) == [2]


@pytest.mark.parametrize("rule", [FLOOR, CEILING])
def test_nan_is_ill(rule: Rule) -> None:
    assert run(rule, [math.nan], patience=1) == [0]


def test_a_limit_of_minus_one_switches_its_rule_off() -> None:
    names = [r.name for r in health_rules(Health(entropy_floor=-1.0, break_rate_ceiling=0.5))]
    assert "entropy_floor" not in names
    assert "break_rate_ceiling" in names


def test_the_message_names_metric_value_and_limit() -> None:
    _, [firing] = check_health((FLOOR,), {}, {"m": 0.25}, patience=1)
    assert str(firing) == "floor: m = 0.25 has been below 0.5 for 1 steps"


def test_a_run_that_learns_nothing_from_its_first_step_on_is_reported_at_patience() -> None:
    config = Health()
    streaks: dict[str, int] = {}
    fired: list[tuple[int, str]] = []
    scalars = {"grad_norm": 0.0, "base/outcome/no_answer": 0.9, "base/entropy": 0.001}
    for step in range(1, 6):
        streaks, firings = check_health(health_rules(config), streaks, scalars, config.patience)
        fired += [(step, firing.rule.name) for firing in firings]
    names = ["entropy_floor", "gradient_floor", "no_answer_ceiling"]
    assert sorted(fired) == [(config.patience, name) for name in names]
