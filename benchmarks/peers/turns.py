"""Contenders that take turns: each is a process that gets ready, then works once on each request.

Both sides are here: `take_turns` for the benchmark, `Turns` for the contender. A peer has its own
environment, so this file needs the standard library alone, and Linux for memory. For a turn, the
benchmark writes a line to the contender's standard input, and the contender answers with a line of
json. Its other output goes to its standard error, which is shown if it fails. A waiting contender
takes no CPU time, so the numbers of one round come from neighbouring minutes.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Measured = dict[str, float]


class Turns:
    """The contender's side.

    Its standard output is the benchmark's from here on: what is printed goes to standard error.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._idle = 0

    def begin(self) -> None:
        """Waits for the turn. Ends the process (`SystemExit`) once there are no more."""
        self._idle = self._idle or memory("VmRSS")
        if not sys.stdin.readline():
            raise SystemExit
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def end(self, **more: float) -> None:
        """Answers with what the turn took.

        "seconds" and "cpu_seconds" (of all threads of this process) since `begin`; "peak_bytes",
        the most this process has had in memory so far, and "idle_bytes", what it had before the
        first turn; and `more`.
        """
        measured = {
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
            "peak_bytes": memory("VmHWM"),
            "idle_bytes": self._idle,
            **more,
        }
        print(json.dumps(measured), file=self._answers, flush=True)

    def serve(self, work: Callable[[], Mapping[str, float] | None]) -> None:
        """Takes turns until there are no more; `work` returns more fields of the answer."""
        while True:
            self.begin()
            self.end(**(work() or {}))


class Contender:
    """The benchmark's side: a process that runs `Turns`.

    Args:
      environment: variables to add to this process's own.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **(environment or {})},
            text=True,
        )

    def turn(self) -> Measured:
        """Has the contender work once.

        Raises:
          RuntimeError: it ended instead; the message has the end of its standard error.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            status = self._process.wait()
            self._errors.seek(0)
            said = self._errors.read()[-4000:]
            command = " ".join(map(str, self._process.args))  # type: ignore[arg-type]
            raise RuntimeError(f"{command} ended with status {status}:\n{said}")
        return json.loads(answer)

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def take_turns(
    commands: Mapping[str, Sequence[str]], repeats: int, warmups: int = 1
) -> dict[str, list[Measured]]:
    """Starts a contender per command and has them work in turn, `repeats` times.

    Args:
      warmups: turns of each before that, which compile and are not measured. They are taken one
        contender after the other.
    """
    measured: dict[str, list[Measured]] = {name: [] for name in commands}
    with contextlib.ExitStack() as stack:
        contenders = {}
        for name, command in commands.items():
            contenders[name] = stack.enter_context(Contender(command))
            for _ in range(warmups):
                contenders[name].turn()
        for _ in range(repeats):
            for name, contender in contenders.items():
                measured[name].append(contender.turn())
    return measured


def spread(values: Sequence[float]) -> Measured:
    """{"median", "min", "max"}."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def spread_text(found: Measured, form: str = ".2f") -> str:
    """As "1.20 (1.10 to 1.40)"."""
    return f"{found['median']:{form}} ({found['min']:{form}} to {found['max']:{form}})"


def memory(field: str) -> int:
    """Bytes of this process: "VmRSS", in memory now; "VmHWM", the most so far. Unlike the usage
    that `getrusage` tells, the latter does not begin with what the parent had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10
    raise ValueError(f"/proc/self/status has no {field}")


def write_json(file: str | None, results: Any) -> None:
    """Writes `results` if a file is named."""
    if file:
        Path(file).write_text(json.dumps(results, indent=1) + "\n")
