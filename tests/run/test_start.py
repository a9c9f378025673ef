"""What is refused before a run begins."""

import contextlib
from typing import Any

import pytest

from cipo_jax.config import default_config
from cipo_jax.config.resolve import changed_config, resolve
from cipo_jax.run.start import check_start
from cipo_jax.types import CipoError


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("eval/pass@1", True),
        ("eval/pass@8_stderr", True),
        ("eval/pass@4", False),
        ("eval/correction/accuracy_after", True),
        ("eval/correction/round_1/solved", True),
        ("eval/given/w2r", False),
        ("eval/length/mean", True),
        ("base/pass_rate", True),
        ("learning_rate", True),
        ("pass_rate", False),  # of the cold start
        ("health/entropy_floor", False),
    ],
)
def test_the_best_checkpoints_are_chosen_by_what_is_measured(name: str, measured: bool) -> None:
    """Else none would ever be kept for its score."""
    config = changed_config(resolve(default_config()), {"checkpoint.best_metric": name})
    refused = pytest.raises(CipoError, match=r"best_metric: got .* or checkpoint.keep_best=0")
    with contextlib.nullcontext() if measured else refused:
        check_start(config)
    check_start(changed_config(config, {"checkpoint.keep_best": 0}))


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"eval.pass_at": (2,)}, "eval/pass@1"),
        ({"eval.corrected_attempts": 0}, "eval/correction/w2r"),
    ],
)
def test_what_is_measured_follows_the_evaluations(changed: dict[str, Any], name: str) -> None:
    config = changed_config(resolve(default_config()), changed | {"checkpoint.best_metric": name})
    with pytest.raises(CipoError, match=name):
        check_start(config)
    check_start(changed_config(config, {"eval.pass_at": (1, 2), "eval.corrected_attempts": 1}))
