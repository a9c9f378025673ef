"""Which run a directory of checkpoints belongs to, and whether it holds what the run needs.

run.json, in the run directory and in that of the checkpoints (which may be the same), has the run's
identity, drawn at its first start, and its config. A copy of a run directory is the same run. A run
that was begun by an earlier version gets an identity when it is continued.

Refused here, before anything is written: checkpoints of another run, and a start that would drop
steps which metrics or archive hold because the run's checkpoints are not where they are looked for.
"""

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import read_values
from cipo_jax.run.records.archive import ATTEMPTS_DIR
from cipo_jax.run.records.checkpoint import UNREADABLE, checkpoint_root
from cipo_jax.run.records.directory import claim_workdir, fixed_values, told, value_differences
from cipo_jax.run.records.files import write_json
from cipo_jax.run.records.manager import writing_into
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.records.origin import origin, other_config
from cipo_jax.types import CipoError

RUN_FILE = "run.json"
_OTHER_PHASES = ("cold_start", "reference")


def claim_run(
    workdir: Path,
    config: Config,
    values: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Mapping[str, Any]],
    writes: bool = True,
) -> bool:
    """`claim_workdir`, and the same for the directory of the run's checkpoints.

    Returns:
      Whether `workdir` held the run already.

    Raises:
      CipoError: as `claim_workdir`; the checkpoints there belong to another run, or those of this
        run are not there. Nothing is written then.
    """
    claim_workdir(workdir, config, values, data, writes=False)
    file = workdir / "config.json"
    before = read_values(file) if file.exists() else None
    if not writes:
        return before is not None
    root = checkpoint_root(workdir, config.checkpoint.directory)
    every = _longest_period(workdir, config, before or {})
    content = {
        "run": _identity(workdir, root, config, before, every),
        "config": fixed_values(config),
        "every": every,
    }
    with writing_into(root):
        root.mkdir(parents=True, exist_ok=True)
    claim_workdir(workdir, config, values, data)
    write_json(workdir / RUN_FILE, content)
    with writing_into(root):
        if "://" in f"{root}":  # objects of a bucket are written whole
            (root / RUN_FILE).write_text(json.dumps(content, indent=1) + "\n")
        elif root != epath.Path(workdir):
            write_json(Path(root) / RUN_FILE, content)
    return before is not None


def _identity(
    workdir: Path, root: epath.Path, config: Config, before: Mapping[str, Any] | None, every: int
) -> str:
    """The run's identity.

    Args:
      before: the values of the run's config.json; None: `workdir` holds no run.
      every: see `_longest_period`.

    Raises:
      CipoError: as `claim_run`.
    """
    here, there = _read(epath.Path(workdir)), _read(root)
    old = before or {}
    old_root = checkpoint_root(workdir, old.get("checkpoint.directory", "")) if before else root
    moved, steps = f"{old_root}" != f"{root}", _steps(root / "checkpoints")
    if there is None:
        if steps and (moved or before is None):
            _require_own(root, steps[-1], config)
        elif (moved or before is None) and any(_steps(root / p) for p in _OTHER_PHASES):
            raise _another(root, "(its cold start or its KL reference). ")
    elif before is None:
        # A run goes on with its checkpoints alone, as after a change of machines.
        if differences := value_differences(there["config"], fixed_values(config)):
            raise _another(root, f"with another config:{told(differences)}\n")
    elif moved if here is None else here["run"] != there["run"]:
        raise _another(root, f"than that in --workdir={workdir}. ")
    held = _held(workdir) if before else 0
    if missing := _missing(root, old_root, held, every):
        raise CipoError(
            f"--workdir={workdir}: {missing}; to begin again would drop what was done. The run has "
            f"saved into {old_root / 'checkpoints'}, and now looks in {root / 'checkpoints'}. To "
            f"continue it, set config.checkpoint.directory={old.get('checkpoint.directory', '')!r} "
            "as before, and put back what was there (checkpoints, cold_start, reference). To begin "
            "again, choose another --workdir. Nothing was changed"
        )
    known = here or there
    return uuid.uuid4().hex if known is None else str(known["run"])


def _missing(root: epath.Path, old_root: epath.Path, held: int, every: int) -> str | None:
    """What is missing in `root` to continue a run of which `held` steps are recorded; None if
    nothing is.

    Args:
      old_root: where it has saved so far.
      every: the most steps between two of its checkpoints.
    """
    directory = root / "checkpoints"
    steps, aside = _steps(directory), _steps(directory, UNREADABLE)
    newest = max(steps, default=0)
    elsewhere = max(_steps(old_root / "checkpoints"), default=0)
    if elsewhere > newest:
        return f"the newest checkpoint, of step {elsewhere}, is not where it is looked for"
    if not steps and any(aside):
        return (
            f"the checkpoints of steps {aside} have been set aside as damaged, and no other is left"
        )
    # A checkpoint has been finished when the next one is begun, so more than two periods are never
    # repeated. One that was set aside had been finished.
    gone = not directory.is_dir() and f"{root}" == f"{old_root}"
    if held > 0 if gone else held > max([newest, *aside]) + 2 * every:
        return f"{held} steps are recorded, but the newest checkpoint is that of step {newest}"
    return None


def _longest_period(workdir: Path, config: Config, before: Mapping[str, Any]) -> int:
    """The most steps that have been between two checkpoints of a run. What is recorded may stem
    from any of its starts."""
    here = _read(epath.Path(workdir)) or {"every": 0}
    key, now = "checkpoint.every", config.checkpoint.every
    return max(here["every"], int(before.get(key, Config().checkpoint.every if before else 0)), now)


def _require_own(root: epath.Path, step: int, config: Config) -> None:
    """Raises `CipoError` unless a checkpoint without identity was saved under this config."""
    file = root / "checkpoints" / f"step_{step}" / "origin" / "metadata"
    try:
        saved = json.loads(file.read_text())
        other = other_config(saved, origin(config)) if saved else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        other = None
    if other is None:
        raise _another(root, "or an earlier version's: its config cannot be compared. ")
    if other:
        raise _another(root, f"with another config{other}")


def _another(root: epath.Path, how: str) -> CipoError:
    return CipoError(
        f"config.checkpoint.directory: {root} holds the checkpoints of another run {how}Choose "
        "another directory. Nothing was changed"
    )


def _read(directory: epath.Path) -> dict[str, Any] | None:
    file = directory / RUN_FILE
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text())
        run, every = str(content["run"]), int(content["every"])
        return {"run": run, "config": dict(content["config"]), "every": every}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CipoError(
            f"{file}: cannot be read ({error!r}); restore it, or remove it if the checkpoints "
            "beside it are this run's"
        ) from error


def _steps(directory: epath.Path, prefix: str = "step_") -> list[int]:
    """The steps of the checkpoints in a directory, by the names of theirs."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    found = (re.fullmatch(rf"{prefix}(\d+)(\.\d+)?", name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def _held(workdir: Path) -> int:
    """The last step of which metrics or archive hold something, or 1 if only difficulty.jsonl is
    left of them."""
    lines = [record["step"] for record in read_metrics(workdir) if record["phase"] == "train"]
    files = [path.name for path in (workdir / ATTEMPTS_DIR).glob("train-*.jsonl.gz")]
    archived = [int(name[6:].split(".")[0]) for name in files if name[6:].split(".")[0].isdecimal()]
    known = 1 if (workdir / "difficulty.jsonl").exists() else 0
    return max([known, *lines, *archived])
