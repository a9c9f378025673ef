"""The ledger of compilations, its limit, and the cache that outlives a process."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring
from places import TESTS

from cipo_jax.commands.verify_resume import differences, run_until
from cipo_jax.config.keys import Log
from cipo_jax.run.watch.compiles import Compilation, Ledger, open_compilation_cache
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError


def program(name: str, factor: float = 2.0):
    """A function that is not compiled yet, whatever other tests have compiled."""

    def function(x: jax.Array) -> jax.Array:
        return x * factor

    function.__name__ = name
    return jax.jit(function)


def shape(*sizes: int) -> np.ndarray:
    return np.zeros(sizes, np.float32)


def test_every_compilation_is_noted(tmp_path: Path) -> None:
    double, file = program("double", 2.125), tmp_path / "compiles.jsonl"
    double(shape(2))  # before: not noted
    with Ledger(file, Log(), Heartbeat()) as ledger:
        double(shape(3))
        double(shape(3))
        ledger.step = 7
        double(shape(3, 4))
        measures = ledger.measures()
        assert ledger.measures() == {"compile/count": 0, "compile/cached": 0, "time/compile": 0}
    double(shape(5))  # after: likewise
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["program"], first["step"]) == ("jit(double)", 0)
    assert (second["program"], second["step"]) == ("jit(double)", 7)
    assert first.keys() == {"step", "program", "seconds", "cached"}
    assert measures["compile/count"] + measures["compile/cached"] == 2
    assert measures["time/compile"] == pytest.approx(first["seconds"] + second["seconds"])
    assert first["seconds"] > 0


LATE = """
import jax
import numpy as np

from cipo_jax.config.keys import Log
from cipo_jax.run.watch.compiles import Ledger
from cipo_jax.run.watch.heartbeat import Heartbeat


def step(x):
    return 2 * x


step = jax.jit(step)
with Ledger(None, Log(max_compiles_after_warmup=0, compile_warmup_steps=2), Heartbeat()) as ledger:
    for ledger.step, rows in enumerate((3, 4, 5, 5, 3), start=1):
        step(np.zeros(rows, np.float32))
        ledger.check(start=0)
"""


def test_jax_explains_on_stderr_what_is_compiled_after_the_warm_up(tmp_path: Path) -> None:
    """In a process of its own, as pytest takes what is logged; what is cached is not late."""
    (tmp_path / "late.py").write_text(LATE)
    done = subprocess.run(
        [sys.executable, tmp_path / "late.py"],
        env=os.environ | {"PYTHONPATH": str(TESTS.parent), "JAX_COMPILATION_CACHE_DIR": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        "compile  step 3: jit(step) was compiled; 1 since the warm-up, 0 allowed. JAX's "
        "explanation, if it has one, is above, on stderr\n"
    )
    assert done.stderr.count("TRACING CACHE MISS") == 1
    assert "for step defined at" in done.stderr
    assert "now f32[5] and before f32[" in done.stderr


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("most", "warmup", "explained"),
    [(0, 2, [False, False, True, True]), (0, 0, [True] * 4), (-1, 0, [False] * 4)],
)
def test_jax_is_asked_to_explain_after_the_warm_up_if_there_is_a_limit(
    most: int, warmup: int, explained: list[bool], before: bool
) -> None:
    def explains() -> bool:
        return jax.config.values["jax_explain_cache_misses"]

    log = Log(max_compiles_after_warmup=most, compile_warmup_steps=warmup)
    jax.config.update("jax_explain_cache_misses", before)
    try:
        with Ledger(None, log, Heartbeat()) as ledger:
            seen = [explains()]
            for ledger.step in (5, 6, 7):
                ledger.check(start=4)
                seen.append(explains())
        assert seen == [e or before for e in explained]
        assert explains() == before
    finally:
        jax.config.update("jax_explain_cache_misses", False)


def test_the_heartbeat_says_what_is_being_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    beat = Heartbeat()

    def look(event: str, **_: object) -> None:
        said.extend(wait() for wait in beat._waits)

    with Ledger(None, Log(), beat):
        monitoring.register_event_listener(look)  # heard while compiling
        try:
            program("slow", 5.125)(shape(2))
        finally:
            monitoring.unregister_event_listener(look)
        assert set(said) == {"compiling jit(slow)"}
        assert not beat._waits


def ledger_with(log: Log, *compiled: tuple[int, bool]) -> Ledger:
    """A ledger with compilations at these steps, from the cache or not."""
    ledger = Ledger(None, log, Heartbeat())
    for step, cached in compiled:
        ledger._unchecked.append(Compilation(step, "jit(f)", 1.5, cached))
    return ledger


def test_too_many_after_the_warm_up_are_reported(capsys: pytest.CaptureFixture) -> None:
    log = Log(max_compiles_after_warmup=1, compile_warmup_steps=2)
    # Four steps were done before this process: its warm-up ends with step 6.
    ledger = ledger_with(log, (5, False), (6, False), (7, True), (7, False))
    ledger.check(start=4)
    assert capsys.readouterr().out == ""
    ledger._unchecked.append(Compilation(9, "jit(f)", 1.5, cached=False))
    ledger.check(start=4)
    assert capsys.readouterr().out == (
        "compile  step 9: jit(f) was compiled; 2 since the warm-up, 1 allowed. JAX's explanation, "
        "if it has one, is above, on stderr\n"
    )
    ledger.check(start=4)  # each is said once
    assert capsys.readouterr().out == ""


def test_they_can_end_the_run() -> None:
    log = Log(max_compiles_after_warmup=0, on_recompile="stop")
    with pytest.raises(CipoError, match=r"step 3: jit\(f\) was.*max_compiles_after_warm"):
        ledger_with(log, (3, False)).check(start=0)
    ledger_with(log, (2, False), (3, True)).check(start=0)
    anything = dataclasses.replace(log, max_compiles_after_warmup=-1)
    ledger_with(anything, (3, False)).check(start=0)


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch):
    """As in a process whose environment names no cache."""
    before = jax.config.values["jax_compilation_cache_dir"]
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    yield
    jax.experimental.compilation_cache.compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", before)


def compiled_in(workdir: Path, directory: str, factor: float) -> bool:
    """Compiles a program; whether it was in the cache."""
    with open_compilation_cache(directory, workdir), Ledger(None, Log(), Heartbeat()) as ledger:
        np.testing.assert_array_equal(program("kept", factor)(shape(2) + 1), shape(2) + factor)
        return ledger.measures()["compile/cached"] == 1


def test_the_cache_is_in_the_run_directory(no_cache: None, tmp_path: Path) -> None:
    assert not compiled_in(tmp_path / "a", "auto", 6.125)
    assert any("kept" in file.name for file in (tmp_path / "a" / ".compiled").iterdir())
    assert compiled_in(tmp_path / "a", "auto", 6.125)
    # One process may do several runs; each has its own.
    assert not compiled_in(tmp_path / "b", "auto", 6.125)
    assert any("kept" in file.name for file in (tmp_path / "b" / ".compiled").iterdir())
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_or_elsewhere_or_nowhere(no_cache: None, tmp_path: Path) -> None:
    assert not compiled_in(tmp_path / "a", "", 7.125)
    assert not compiled_in(tmp_path / "a", "", 7.125)
    assert not (tmp_path / "a").exists()
    assert not compiled_in(tmp_path / "a", str(tmp_path / "shared"), 7.125)
    assert compiled_in(tmp_path / "b", str(tmp_path / "shared"), 7.125)


def test_the_environment_takes_precedence(tmp_path: Path) -> None:
    place = jax.config.values["jax_compilation_cache_dir"]
    assert place  # the tests' own
    with open_compilation_cache("auto", tmp_path):
        assert jax.config.values["jax_compilation_cache_dir"] == place
        assert jnp.sum(program("elsewhere", 8.125)(shape(2))) == 0
    assert jax.config.values["jax_compilation_cache_dir"] == place
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The smallest run, in processes of one device whose environment names no cache."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("count=8", "count=1"))
    config = f"--config={TESTS / 'tiny_run.py'}"
    return [sys.executable, "-m", "cipo_jax.main", config]


@pytest.mark.slow
@pytest.mark.long
def test_a_run_from_the_cache_is_the_same_run(command: list[str], tmp_path: Path) -> None:
    """Killed and continued with the programs of its cache, as the whole one that compiled all."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    _, seconds = run_until(command, whole, None, 0.0)
    run_until(command, stopped, signal.SIGKILL, 0.8 * seconds)
    before = len((stopped / "compiles.jsonl").read_text().splitlines())
    run_until(command, stopped, None, 0.0)
    assert differences(whole, stopped) == []
    continued = (stopped / "compiles.jsonl").read_text().splitlines()[before:]
    assert sum(json.loads(line)["cached"] for line in continued) >= len(continued) / 2 > 0


@pytest.mark.slow
def test_a_run_ends_at_a_late_compilation(command: list[str], tmp_path: Path) -> None:
    """With everything else that watches a run."""
    options = {
        "max_compiles_after_warmup": 0,
        "compile_warmup_steps": 0,
        "on_recompile": "stop",
        "compilation_cache": "",
        "heartbeat_seconds": 0.1,
        "profile_steps": "(1,1)",
    }
    ended = subprocess.run(
        [*command, f"--workdir={tmp_path}"] + [f"--config.log.{k}={v}" for k, v in options.items()],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "error: step 1: jit(" in ended.stderr and "max_compiles_after_warmup" in ended.stderr
    assert "s: compiling jit(" in ended.stdout
    assert not (tmp_path / ".compiled").exists()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
