"""The isolation layers of this machine, for the tests that need one of them or each."""

import functools
import re

import pytest

from cipo_jax.types import CipoError, Problem, Verdict
from cipo_jax.verifiers.code.tests import verify_code
from cipo_jax.verifiers.sandbox.layers import LAYERS, Sandbox, open_sandbox

__all__ = ["LAYERS", "judge", "open_or_skip"]


@functools.cache
def _open(layer: str | None) -> Sandbox | str:
    try:
        return open_sandbox(layer=layer)
    except CipoError as error:
        return str(error)


def open_or_skip(layer: str | None = None) -> Sandbox:
    """The layer called `layer`, or the best there is; skips the test if the machine has none. A
    layer that it has and that leaks is no reason to skip."""
    found = _open(layer)
    if isinstance(found, str):
        if re.search(r": it (sees|has|can|is root|reaches)", found):
            pytest.fail(found)
        pytest.skip(found)
    return found


def judge(tests: dict, program: str, question: str = "?", **options) -> Verdict:
    """The verdict on a program, in the best layer. Options: `meta` of the problem, and those of
    `verify_code`."""
    problem = Problem("p", question, tests=tests, meta=options.pop("meta", {}))
    return verify_code(problem, program, sandbox=open_or_skip(), **options)
