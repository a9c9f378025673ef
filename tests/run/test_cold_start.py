"""When the cold start has taught enough."""

from typing import Any

import pytest

from cipo_jax.config.keys import ColdStart, Config, Data
from cipo_jax.run.cold_start import is_enough, open_material
from cipo_jax.types import CipoError


@pytest.mark.parametrize(
    ("wanted", "found", "enough"),
    [
        ((0.5, 0.0), (0.5, 0.0), True),
        ((0.5, 0.0), (0.4, 1.0), False),
        ((0.5, 0.95), (0.5, 0.94), False),
        ((0.5, 0.95), (0.4, 0.95), False),
        ((0.5, 0.95), (0.5, 0.95), True),
        ((0.0, 0.95), (0.0, 0.95), True),
    ],
)
def test_both_shares_have_to_be_reached(wanted, found, enough) -> None:
    keys = dict(zip(("stop_at_pass_rate", "stop_at_lines_true"), wanted, strict=True))
    assert is_enough(ColdStart(**keys), *found) is enough


@pytest.mark.parametrize("source", ["programs", "guess=0.5,arithmetic=0.5"])
def test_lines_that_nobody_can_check_are_not_waited_for(source: str) -> None:
    config = Config(data=Data(train=source), cold_start=ColdStart(stop_at_lines_true=0.95))
    prompts: Any = None  # it would fail
    with pytest.raises(CipoError, match=r"stop_at_lines_true: got 0.95, wanted 0 with .*train="):
        open_material(config, prompts)
