"""A machine without isolation runs no programs unless it is told to."""

import pytest

from cipo_jax.types import CipoError, Problem
from cipo_jax.verifiers.code.tests import verify_code
from cipo_jax.verifiers.sandbox import layers as sandbox_module
from cipo_jax.verifiers.sandbox.layers import describe, open_sandbox

STDIN = {"type": "stdin", "cases": [{"input": f"{n}\n", "output": f"{n + 1}\n"} for n in range(4)]}


def test_without_isolation_code_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox_module, "LAYERS", ("bubblewrap", "namespaces"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(
        sandbox_module, "_find_leak", lambda box: "unshare: Operation not permitted"
    )
    with pytest.raises(CipoError) as refused:
        open_sandbox()
    for part in ("bwrap is not installed", "Operation not permitted", "apt-get install bubblewrap"):
        assert part in str(refused.value)
    assert "allow_unsandboxed_code" in str(refused.value)
    with open_sandbox(allow_unsandboxed_code=True) as last_resort:
        assert describe(last_resort).startswith("NO ISOLATION")
        # A harmless program: the limits and the judging are the same.
        assert verify_code(
            Problem("p", "?", tests=STDIN), "print(int(input()) + 1)", sandbox=last_resort
        ).correct
