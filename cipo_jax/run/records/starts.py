"""starts.jsonl, a line for each start of a run: when, by which command, of which version, on what.

Decides what is said of a start. A line is added when a run begins or goes on; none is ever changed.

Fields of a line:
    time          UTC, such as "2026-01-31 18:05"
    command       as it can be typed again
    versions      {library: version}
    devices       such as "8 x NVIDIA H100 80GB HBM3", and on how many hosts, if several
    machine       processor and number of cores of the first host
    parameters    of the policy
"""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cipo_jax import __version__
from cipo_jax.run.records.files import write_text
from cipo_jax.types import CipoError

if TYPE_CHECKING:  # the report reads this file, and needs no JAX
    from jax.sharding import Mesh

STARTS_FILE = "starts.jsonl"
_FIELDS = ("time", "command", "versions", "devices", "machine", "parameters")
_LIBRARIES = ("jax", "jaxlib", "numpy")


def this_start(mesh: "Mesh", parameters: int) -> dict[str, Any]:
    """What is said of the start of this process."""
    devices = list(mesh.devices.flat)
    hosts = len({device.process_index for device in devices})
    where = f" on {hosts} hosts" if hosts > 1 else ""
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "command": written_command(sys.argv),
        "versions": {"cipo_jax": __version__, **versions},
        "devices": f"{len(devices)} x {devices[0].device_kind}{where}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "parameters": parameters,
    }


def written_command(argv: Sequence[str]) -> str:
    """A process's arguments as one types them: without the place of this package."""
    program, *arguments = argv
    path = Path(program)
    in_module = path.suffix == ".py" and path.parent.name == "cipo_jax"
    first = ["python", "-m", f"cipo_jax.{path.stem}"] if in_module else [path.name]
    return shlex.join([*first, *arguments])


def add_start(workdir: Path, start: dict[str, Any]) -> None:
    """Adds a line to the file of `workdir`."""
    file = workdir / STARTS_FILE
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    write_text(file, before + json.dumps(start) + "\n")


def read_starts(workdir: Path) -> list[dict[str, Any]]:
    """The starts, in order; none of a run that was begun by a version without this file.

    Raises:
      CipoError: the file is damaged; the message names file and line.
    """
    file, starts = workdir / STARTS_FILE, []
    if not file.exists():
        return []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            start = json.loads(line)
            starts.append({name: start[name] for name in _FIELDS})
        except (ValueError, KeyError, TypeError) as error:
            raise CipoError(
                f"{file}, line {number}: not what a start writes ({error!r}); remove the line"
            ) from error
    return starts
