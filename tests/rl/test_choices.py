"""The config offers the words that this room implements."""

import typing
from collections.abc import Iterable

import pytest

from cipo_jax.config.keys import Algorithm, Optimizer
from cipo_jax.config.ranges import rules
from cipo_jax.rl.advantages import NORMS
from cipo_jax.rl.aggregate import AGGREGATIONS
from cipo_jax.rl.losses import KL_ESTIMATORS
from cipo_jax.rl.optimizer import OPTIMIZERS, SCHEDULES


@pytest.mark.parametrize(
    ("section", "key", "implemented"),
    [
        # Base rewards are not shaped.
        (Algorithm, "advantage_norm", set(NORMS) - {"group_unshaped_std"}),
        (Algorithm, "correction_advantage_norm", NORMS),
        (Algorithm, "aggregation", AGGREGATIONS),
        (Algorithm, "kl_estimator", KL_ESTIMATORS),
        (Optimizer, "name", OPTIMIZERS),
        (Optimizer, "schedule", SCHEDULES),
    ],
)
def test_choices_of_the_config_are_implemented(
    section: type, key: str, implemented: Iterable[str]
) -> None:
    (rule,) = rules(typing.get_type_hints(section, include_extras=True)[key])
    assert set(rule.words) == set(implemented)
