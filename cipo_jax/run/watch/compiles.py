"""What XLA compiles during a run: a cache that outlives the process, a ledger, and a limit.

A program is compiled for each set of shapes it meets. The sampler's programs come in a number of
sizes, so the first steps compile; later ones should not. Decided here: where compiled programs are
kept, and what counts as too many of them. Why one was compiled is not: that is JAX's to explain.
"""

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax import monitoring
from jax.experimental.compilation_cache import compilation_cache

from cipo_jax.config.keys import Log
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError

LEDGER_FILE = "compiles.jsonl"
_COMPILATION = "/jax/core/compile/backend_compile_duration"  # also sent, as a scalar, at its begin
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_EXPLAIN = "jax_explain_cache_misses"


def check_compilation_cache(directory: str) -> None:
    """JAX itself warns of a place that it cannot use, and compiles all at each start.

    Raises:
      CipoError: `config.log.compilation_cache` is a file.
    """
    if Path(directory).is_file():
        raise CipoError(
            f"config.log.compilation_cache: got {directory!r}, a file; wanted a directory for "
            "compiled programs, 'auto' for one in the run directory, or '' for none"
        )


@contextlib.contextmanager
def open_compilation_cache(directory: str, workdir: Path) -> Iterator[None]:
    """Keeps compiled programs on disk for the next start. A cache that JAX has been given already,
    such as by its environment variable, stays.

    Args:
      directory: "auto": `workdir`/.compiled; "": none.

    Raises:
      CipoError: as `check_compilation_cache`.
    """
    check_compilation_cache(directory)
    if not directory or jax.config.values["jax_compilation_cache_dir"]:
        yield
        return
    place = (workdir / ".compiled").absolute() if directory == "auto" else directory
    shortest = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_compilation_cache_dir", str(place))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # JAX's own limit is a second, which leaves out nearly everything of a small model.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", shortest)
        compilation_cache.reset_cache()  # JAX opens it once, and would stay in this directory


@dataclasses.dataclass(frozen=True)
class Compilation:
    """A line of the ledger.

    Attributes:
      step: the step under way, as printed; 0 before the first.
      seconds: to compile it, or to read it from the cache.
      cached: it was in the cache.
    """

    step: int
    program: str
    seconds: float
    cached: bool


class Ledger:
    """Notes what this process compiles while it is open; a context manager. If there is a limit,
    JAX explains on stderr what it traces after the warm-up.

    Args:
      file: gets a line of json for each compilation; None: no file.
      log: how many there may be after how many steps, and what happens if there are more.
      heartbeat: told what is being compiled.

    Attributes:
      step: the step under way; whoever goes through the steps sets it.
    """

    def __init__(self, file: Path | None, log: Log, heartbeat: Heartbeat) -> None:
        self.step = 0
        self._file, self._heartbeat = file, heartbeat
        self._most, self._warmup = log.max_compiles_after_warmup, log.compile_warmup_steps
        self._stops = log.on_recompile == "stop"
        self._unmeasured: list[Compilation] = []
        self._unchecked: list[Compilation] = []
        self._late = 0
        self._of_thread: Any = threading.local()
        self._listening = contextlib.ExitStack()

    def measures(self) -> dict[str, float]:
        """Since this was last asked: "compile/count", programs compiled; "compile/cached", those
        read from the cache instead; "time/compile", seconds of both."""
        compiled, self._unmeasured = self._unmeasured, []
        cached = sum(c.cached for c in compiled)
        return {
            "compile/count": float(len(compiled) - cached),
            "compile/cached": float(cached),
            "time/compile": sum(c.seconds for c in compiled),
        }

    def check(self, start: int) -> None:
        """Reports what was compiled after the warm-up; called after each step.

        Args:
          start: the steps that were done when this process began.

        Raises:
          CipoError: they are more than allowed, and that ends the run.
        """
        warm, compiled = start + self._warmup, self._unchecked
        self._unchecked = []
        if self.step >= warm:
            self._let_jax_explain()
        for late in (c for c in compiled if c.step > warm and not c.cached):
            self._late += 1
            if not 0 <= self._most < self._late:
                continue
            message = (
                f"step {late.step}: {late.program} was compiled; {self._late} since the warm-up, "
                f"{self._most} allowed. JAX's explanation, if it has one, is above, on stderr"
            )
            if self._stops:
                raise CipoError(
                    f"{message}. Raise config.log.max_compiles_after_warmup or "
                    "config.log.compile_warmup_steps, or set config.log.on_recompile='warn'"
                )
            print(f"compile  {message}", flush=True)

    def __enter__(self) -> "Ledger":
        undo = self._listening.callback
        monitoring.register_scalar_listener(self._begins)
        undo(monitoring.unregister_scalar_listener, self._begins)
        monitoring.register_event_listener(self._happens)
        undo(monitoring.unregister_event_listener, self._happens)
        monitoring.register_event_duration_secs_listener(self._ends)
        undo(monitoring.unregister_event_duration_listener, self._ends)
        undo(jax.config.update, _EXPLAIN, jax.config.values[_EXPLAIN])
        if self._warmup == 0:
            self._let_jax_explain()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _let_jax_explain(self) -> None:
        # For all threads; jax.explain_cache_misses is for the one that calls it. JAX looks at each
        # miss, and the value is no part of what programs are cached by.
        if self._most >= 0:
            jax.config.update(_EXPLAIN, True)

    # JAX calls these, in the thread that compiles.

    def _begins(self, event: str, value: float | int, **about: str | int) -> None:
        if event == _COMPILATION:
            name = f"{about['fun_name']}"
            self._of_thread.cached = False
            self._of_thread.waiting = contextlib.ExitStack()
            self._of_thread.waiting.enter_context(
                self._heartbeat.waiting(lambda: f"compiling {name}")
            )

    def _happens(self, event: str, **_: str | int) -> None:
        if event == _CACHE_HIT:
            self._of_thread.cached = True

    def _ends(self, event: str, duration_secs: float, **about: str | int) -> None:
        if event != _COMPILATION or not hasattr(self._of_thread, "waiting"):
            return  # or it had begun before this ledger did
        self._of_thread.waiting.close()
        name, cached = f"{about['fun_name']}", self._of_thread.cached
        compiled = Compilation(self.step, name, duration_secs, cached)
        self._unmeasured.append(compiled)
        self._unchecked.append(compiled)
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(compiled)) + "\n")
