"""The layers of this machine: `sandbox` is each in turn, `best` the one that a run would use."""

import pytest
from sandboxes import LAYERS, open_or_skip

from cipo_jax.verifiers.sandbox.layers import Sandbox


@pytest.fixture(
    params=[None, *(pytest.param(layer, marks=pytest.mark.slow) for layer in LAYERS)],
    ids=lambda layer: layer or "best",
)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return open_or_skip(request.param)


@pytest.fixture
def best() -> Sandbox:
    return open_or_skip()
