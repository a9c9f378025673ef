"""What follows from a config alone, and what importing it costs."""

import subprocess
import sys

import pytest

from cipo_jax.config.keys import Batch, Config, Correction, Rollout


@pytest.mark.parametrize(
    ("fraction", "weight", "anchors"),
    [(1.0, 1.0, 12), (0.5, 0.25, 6), (0.3, 1.0, 4), (1.5, 1.0, 18), (1.0, 0.0, 0)],
)
def test_the_counts_of_a_step(fraction: float, weight: float, anchors: int) -> None:
    config = Config(
        rollout=Rollout(problems_per_step=12, group_size=4),
        correction=Correction(replay_fraction=fraction, weight=weight, group_size=3),
        batch=Batch(minibatches=2, epochs=3),
    )
    assert config.num_attempts == 48
    assert config.num_anchors == anchors and config.num_corrections == 3 * anchors
    assert config.num_updates == 6
    assert config.anchor_counts == (anchors, 0)


def test_some_anchors_of_a_step_may_be_corrections_of_the_others() -> None:
    rollout = Rollout(problems_per_step=12)
    for share, counts in ((0.25, (9, 3)), (0.5, (6, 6)), (0.3, (8, 4))):
        config = Config(rollout=rollout, correction=Correction(from_corrections=share))
        assert config.anchor_counts == counts and config.num_corrections == 12 * 8


def test_a_config_file_needs_no_jax() -> None:
    program = (
        "import sys\n"
        "from cipo_jax.config import default_config, load_file\n"
        "print(sorted({'jax', 'flax', 'tensorflow'} & set(sys.modules)), default_config().seed)\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[] 0"
