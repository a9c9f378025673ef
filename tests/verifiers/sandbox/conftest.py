"""The layers of this machine: `sandbox` is each in turn, `any_sandbox` also resource limits alone,
`best` the one that a run would use."""

from collections.abc import Iterator

import pytest
from sandboxes import LAYERS, open_or_skip

from cipo_jax.verifiers.sandbox.launch import RLIMITS
from cipo_jax.verifiers.sandbox.layers import Sandbox

_EACH = (None, *(pytest.param(layer, marks=pytest.mark.slow) for layer in LAYERS))


@pytest.fixture(params=_EACH, ids=lambda layer: layer or "best")
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return open_or_skip(request.param)


@pytest.fixture(params=(*_EACH, RLIMITS), ids=lambda layer: layer or "best")
def any_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Each layer, and the last resort, in which only programs may be run that do no harm."""
    if request.param != RLIMITS:
        yield open_or_skip(request.param)
        return
    with Sandbox(RLIMITS) as last_resort:
        yield last_resort


@pytest.fixture
def best() -> Sandbox:
    return open_or_skip()
