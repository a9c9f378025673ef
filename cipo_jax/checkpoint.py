"""Checkpoints: what is saved, how it is restored, and which runs may continue one another.

A checkpoint holds the parameters, the optimiser state, and a small json of host state (the replay
controller). Together with the config that is everything: data order and sampling keys are
functions of (seed, step). orbax writes it in the background and atomically; a checkpoint that was
not finished is not seen.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from cipo_jax.config import Config, flatten
from cipo_jax.rl.train_step import Params, TrainState
from cipo_jax.types import CipoError

# Keys that may differ when a run is continued: they change neither the parameters' shapes nor what
# the steps already done have computed.
MAY_CHANGE_ON_RESUME = (
    "num_steps",
    "mesh.",
    "eval.",
    "checkpoint.",
    "log.",
    "verifier.workers",
    "sampling.slots",
    "sampling.chunk",
)


class Checkpoints:
    """The checkpoints of one phase of a run, in one directory."""

    def __init__(self, directory: Path, keep: int, read_only: bool = False):
        """`read_only` leaves the directory as it is, even one that a run is writing to."""
        self.directory = directory
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, step_prefix="step", cleanup_tmp_directories=True
        )
        if read_only:
            options = ocp.CheckpointManagerOptions(
                step_prefix="step", read_only=True, create=False, save_interval_steps=0
            )
        self._manager = ocp.CheckpointManager(
            directory.absolute(), options=options, item_names=("params", "opt_state", "host")
        )

    def latest_step(self) -> int | None:
        """The newest finished checkpoint's step; None if there is none."""
        return self._manager.latest_step()

    def save_params(self, params: Params) -> None:
        """Saves parameters alone, as step 0, for `restore_params`."""
        self._manager.save(0, args=ocp.args.Composite(params=ocp.args.StandardSave(params)))

    def save(self, step: int, state: TrainState, host: Mapping[str, Any]) -> None:
        """Starts saving the state after `step` updates; the arrays may be donated afterwards."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                opt_state=ocp.args.StandardSave(state.opt_state),
                host=ocp.args.JsonSave(dict(host)),
            ),
        )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint, with the shapes, dtypes and shardings of the abstract `like`."""
        step = self._require_step()
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(like.params),
                opt_state=ocp.args.StandardRestore(like.opt_state),
                host=ocp.args.JsonRestore(),
            ),
        )
        counter = jax.device_put(jnp.asarray(step, jnp.int32), like.step.sharding)
        state = TrainState(step=counter, params=restored.params, opt_state=restored.opt_state)
        return state, dict(restored.host)

    def all_steps(self) -> list[int]:
        """The steps of all finished checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def restore_params(self, like: Params, step: int | None = None) -> Params:
        """Only the parameters of a checkpoint, by default the newest."""
        step = self._require_step() if step is None else step
        args = ocp.args.Composite(params=ocp.args.StandardRestore(like))
        return self._manager.restore(step, args=args).params

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_step(self) -> int:
        step = self.latest_step()
        if step is None:
            raise CipoError(f"{self.directory}: holds no finished checkpoint")
        return step


def claim_workdir(
    workdir: Path,
    config: Config,
    values: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Makes `workdir` the run directory of `config`, or checks that it already is.

    Args:
      values: the output of `config.provenance`, written as config.json.
      data: {"data.train": {source: {"problems", "fingerprint"}}, ...}, written as data.json; None
        neither checks nor writes it.

    Raises:
      CipoError: `workdir` belongs to a run that `config` cannot continue, with the keys that
        differ, or the data have changed since, with the sources. Nothing is changed then.
    """
    file = workdir / "config.json"
    if file.exists():
        differences = config_differences(file, config)
        if differences:
            raise CipoError(
                f"--workdir={workdir} holds a run with another config:\n"
                + "\n".join(
                    f"  config.{key}: {old!r} there, {new!r} now"
                    for key, (old, new) in differences.items()
                )
                + "\nChoose another --workdir, or restore those values to continue that run."
            )
    if data is not None:
        _check_data(workdir / "data.json", data)
    workdir.mkdir(parents=True, exist_ok=True)
    _replace(file, values)
    if data is not None:
        _replace(workdir / "data.json", data)


def _check_data(file: Path, data: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises `CipoError` if `file` says that the run has begun with other problems."""
    if not file.exists():
        return
    try:
        saved = json.loads(file.read_text())
        changes = [
            f"  config.{key}: {name}: {_described(saved[key].get(name))} then, "
            f"{_described(now)} now"
            for key, sources in data.items()
            for name, now in sources.items()
            if saved[key].get(name) != now
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise CipoError(
            f"{file}: is not a run's data.json ({e!r}); choose another --workdir"
        ) from e
    if changes:
        raise CipoError(
            f"--workdir={file.parent} holds a run that began with other data:\n"
            + "\n".join(changes)
            + "\nRestore the data to continue that run, or go on from its parameters in another "
            f"--workdir by --config.init_from={file.parent}"
        )


def _described(source: Mapping[str, Any] | None) -> str:
    if source is None:
        return "nothing"
    count = "no end of" if source["problems"] is None else source["problems"]
    return f"{count} problems (fingerprint {source['fingerprint']})"


def _replace(file: Path, content: object) -> None:
    """Writes json so that the file is never half written."""
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(file)


def config_differences(
    file: Path, config: Config, only: str = ""
) -> dict[str, tuple[object, object]]:
    """{key: (value in `file`, value in `config`)} of keys that must agree to share parameters and
    history; `only` restricts the comparison to keys with that prefix."""
    try:
        saved = {key: entry["value"] for key, entry in json.loads(file.read_text()).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise CipoError(f"{file}: is not a run's config ({e}); remove it or choose another") from e
    current = {k: list(v) if isinstance(v, tuple) else v for k, v in flatten(config).items()}
    return {
        key: (saved.get(key), value)
        for key, value in current.items()
        if key.startswith(only)
        and not key.startswith(MAY_CHANGE_ON_RESUME)
        and saved.get(key) != value
    }
