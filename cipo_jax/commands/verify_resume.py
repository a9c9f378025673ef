"""`--mode=verify_resume`: does this config, on this machine, continue exactly where it was stopped?

The run is done twice under --workdir: in whole/ without interruption; in stopped/ it is killed
(SIGKILL) and asked to end (SIGTERM) at random moments, and started again each time. Then metrics,
attempts, the last checkpoint's parameters and optimiser state, and the controller must be equal to
the bit; times, speeds and compilations are left out. A long run is made short by
`--config.num_steps=4`, with `--config.checkpoint.every=1`.

Decided here: when runs are interrupted and what must be equal.
"""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from cipo_jax.config.command_line import Invocation
from cipo_jax.config.resolve import read_values
from cipo_jax.run.hosts.preemption import EXIT_CODE
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.run.records.checkpoint import Checkpoints, checkpoint_root
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.records.terminal import shortened
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.run.watch.speed import MEASURED
from cipo_jax.types import CipoError

_AT_WORK = "saving "  # the start of the line that a run prints before it begins to work
_MOST_SHOWN = 10


def command(invocation: Invocation) -> None:
    """The mode."""
    workdir = invocation.required("workdir", "does its runs there; name a new directory")
    with Heartbeat(invocation.config.log.heartbeat_seconds) as heartbeat:
        verify_resume(invocation.config_arguments, Path(workdir), heartbeat=heartbeat)


def verify_resume(
    arguments: Sequence[str],
    workdir: Path,
    interruptions: int = 2,
    heartbeat: Heartbeat | None = None,
) -> None:
    """Runs the command of `arguments` (without --mode and --workdir) twice, compares, reports.

    Args:
      heartbeat: says how far the runs are; None: nothing does.

    Raises:
      CipoError: a run fails, or the two are not equal; the message says in what.
    """
    command = [sys.executable, "-m", "cipo_jax.main", *arguments]
    whole, stopped = workdir / "whole", workdir / "stopped"
    for directory in (whole, stopped):
        if directory.exists():
            raise CipoError(f"--workdir: {directory} exists; choose another, or remove it")
    heartbeat = heartbeat or Heartbeat()
    heartbeat.begin("verify_resume", "comparing")
    print("1. without interruption", flush=True)
    seconds = run_until(command, whole, None, 0.0, heartbeat)[1]
    done, rng = 0, random.Random(0)
    while done < interruptions:
        by = (signal.SIGKILL, signal.SIGTERM)[done % 2]
        after = rng.uniform(0, seconds)
        print(f"2. {by.name} {after:.1f} s after it has begun to work", flush=True)
        if run_until(command, stopped, by, after, heartbeat)[0] == 0:
            print("   it was done before that", flush=True)
            break
        done += 1
    print("3. to the end", flush=True)
    run_until(command, stopped, None, 0.0, heartbeat)
    found = differences(whole, stopped)
    if found:
        shown = "\n".join(f"  {line}" for line in found[:_MOST_SHOWN])
        raise CipoError(f"{len(found)} differences between {whole} and {stopped}:\n{shown}")
    print(f"equal to the bit after {done} interruptions: metrics, attempts, state")


def run_until(
    command: Sequence[str],
    workdir: Path,
    by: signal.Signals | None,
    after: float,
    heartbeat: Heartbeat | None = None,
) -> tuple[int, float]:
    """Runs `command` in `workdir`; sends `by`, unless None, `after` seconds of work.

    Returns:
      The exit status, and for how many seconds it worked.

    Raises:
      CipoError: it ended in another way than done, killed, or preempted.
    """
    process = subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    output: list[str] = []
    timer, began = None, time.monotonic()
    with (heartbeat or Heartbeat()).waiting(lambda: shortened("".join(output[-1:]).strip(), 100)):
        for line in process.stdout:
            output.append(line)
            if line.startswith(_AT_WORK):
                began = time.monotonic()
                if by is not None:
                    timer = threading.Timer(after, process.send_signal, [by])
                    timer.start()
        status = process.wait()
    if timer is not None:
        timer.cancel()
    if status not in (0, -signal.SIGKILL, EXIT_CODE) or (by is None and status):
        raise CipoError(f"the run in {workdir} ended with {status}:\n{''.join(output[-30:])}")
    return status, time.monotonic() - began


def differences(one: Path, other: Path) -> list[str]:
    """What is not equal in two run directories, a line each; nothing if they are the same run."""
    found = []
    for name, ours, theirs in (
        ("metrics.jsonl", _metrics(one), _metrics(other)),
        ("attempts", _attempts(one), _attempts(other)),
        ("checkpoint", _last_checkpoint(one), _last_checkpoint(other)),
    ):
        for key in sorted(ours.keys() | theirs.keys(), key=str):
            a, b = ours.get(key), theirs.get(key)
            if a != b:
                found.append(f"{name}: {key}: {_brief(a)} in {one.name}, {_brief(b)} in {other}")
    return found


def _metrics(workdir: Path) -> dict[Any, Any]:
    """Every number by (phase, step, name), as text: NaN is equal to NaN."""
    lines = read_metrics(workdir)
    numbers = {
        (line["phase"], line["step"], name): repr(value)
        for line in lines
        for name, value in line.items()
        if not name.startswith(MEASURED)
    }
    return numbers | {"lines": [(line["phase"], line["step"]) for line in lines]}


def _attempts(workdir: Path) -> dict[Any, Any]:
    return {(r["phase"], r["step"], r["index"]): r for r in read_attempts(workdir)}


def _last_checkpoint(workdir: Path) -> dict[Any, Any]:
    """Bytes of every array, and the host state, of the newest RL checkpoint."""
    directory = read_values(workdir / "config.json")["checkpoint.directory"]
    root = checkpoint_root(workdir.absolute(), directory) / "checkpoints"
    with Checkpoints(root, keep=1, read_only=True) as saved:
        step = saved.latest_step()
    content: dict[Any, Any] = {"step": step}
    if step is None:
        return content
    place = root / f"step_{step}"
    for item in ("params", "opt_state"):
        for path, leaf in jax.tree_util.tree_flatten_with_path(_arrays(place / item))[0]:
            content[f"{item}{jax.tree_util.keystr(path)}"] = leaf.tobytes()
    content["host"] = json.loads((place / "host" / "metadata").read_text())
    return content


def _arrays(directory: epath.Path) -> Any:
    """What is saved there as NumPy arrays, whatever devices it was saved from."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(directory).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        args = ocp.args.PyTreeRestore(restore_args=as_numpy)
        return checkpointer.restore(directory, args=args)


def _brief(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else shortened(repr(value), 60)
