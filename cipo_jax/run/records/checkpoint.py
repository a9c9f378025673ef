"""Checkpoints: what is saved, what is kept, and how it is restored.

A checkpoint holds the parameters, the optimiser state, a small json of host state (the replay
controller), and for the reader which config and library versions it comes from. Together with the
config that is everything: data order and sampling keys are functions of (seed, step). orbax writes
it in the background and atomically, every host its own shards; a checkpoint that was not finished
is not seen. It can be restored onto another mesh and another number of hosts.

The newest are kept, and those best by a metric. A checkpoint that cannot be read is set aside under
another name, and the one before it is used; nothing that was finished is deleted for an error.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from cipo_jax import __version__
from cipo_jax.config.keys import Config, flatten
from cipo_jax.rl.train_step import Params, TrainState
from cipo_jax.run.records.directory import MAY_CHANGE_ON_RESUME
from cipo_jax.types import CipoError

# Those whose version may change what a continued run computes.
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# How an incomplete checkpoint shows itself; running out of memory is a RuntimeError.
_DAMAGE = (OSError, ValueError, KeyError, TypeError)


class Checkpoints:
    """The checkpoints of one phase of a run, in one directory.

    Args:
      directory: local, or anything else that epath knows, such as gs://.
      keep: how many of the newest are kept.
      keep_best: how many of the best by `score` are kept besides.
      read_only: leave the directory as it is, even one that a run is writing to.
      origin: of the run, see `origin`; saved with each, compared when one is restored.

    Raises:
      CipoError: the directory cannot be made or written to.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        keep: int,
        read_only: bool = False,
        keep_best: int = 0,
        origin: Mapping[str, Any] | None = None,
    ):
        self.directory = epath.Path(directory)
        if "://" not in str(directory):
            self.directory = epath.Path(Path(directory).absolute())
        self._kept, self._origin = keep + keep_best, origin
        if read_only:
            options = ocp.CheckpointManagerOptions(
                step_prefix="step", read_only=True, create=False, save_interval_steps=0
            )
        else:
            _require_writable(self.directory)
            best = policies.BestN(get_metric_fn=_score, n=keep_best)
            options = ocp.CheckpointManagerOptions(
                step_prefix="step",
                cleanup_tmp_directories=True,
                best_fn=_score,
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            )
        with _no_warning_of_read_only():
            self._manager = ocp.CheckpointManager(
                self.directory,
                options=options,
                item_names=("params", "opt_state", "host", "origin"),
            )

    def latest_step(self) -> int | None:
        """The newest finished checkpoint's step; None if there is none."""
        return self._manager.latest_step()

    def save_params(self, params: Params) -> None:
        """Saves parameters alone, as step 0, for `restore_params`; does nothing if they are."""
        if self.latest_step() is None:
            with self._explained(0):
                self._manager.save(0, args=ocp.args.Composite(params=ocp.args.StandardSave(params)))

    def save(
        self, step: int, state: TrainState, host: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Starts saving the state after `step` updates; the arrays may be donated afterwards. Does
        nothing if it is the newest there is.

        Args:
          score: what the best are chosen by; without one (None or not finite) it is not among them.

        Raises:
          CipoError: this one, or the one before it, could not be written.
        """
        if step == self.latest_step():
            return
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            opt_state=ocp.args.StandardSave(state.opt_state),
            host=ocp.args.JsonSave(dict(host)),
            origin=ocp.args.JsonSave(dict(self._origin or {})),
        )
        metrics = {} if score is None or not math.isfinite(score) else {"score": score}
        with self._explained(step):
            self._manager.save(step, args=args, metrics=metrics)

    def check(self) -> None:
        """Raises `CipoError` if the writing in the background has failed."""
        with self._explained(None):
            self._manager.check_for_errors()

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint that can be read, with the shapes, dtypes and shardings of the
        abstract `like`. Newer ones that cannot are renamed, with a message.

        Raises:
          CipoError: none can be read, or it comes from another config.
        """
        while True:
            step = self._require_step()
            self._compare_origin(step)
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        params=ocp.args.StandardRestore(like.params),
                        opt_state=ocp.args.StandardRestore(like.opt_state),
                        host=ocp.args.JsonRestore(),
                    ),
                )
            except _DAMAGE as error:
                self._set_aside(step, error)
                continue
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

    def describe(self, like: TrainState) -> str:
        """One line: the bytes of a checkpoint, how many are kept, where, and the space there.

        Raises:
          CipoError: there is no room for one.
        """
        leaves = jax.tree.leaves((like.params, like.opt_state))
        size = sum(x.size * x.dtype.itemsize for x in leaves)
        # One more: the oldest goes when the newest is finished.
        line = f"{_mib(size)} each, {self._kept} kept, so up to {_mib((self._kept + 1) * size)}"
        if "://" in str(self.directory):
            return f"{line} in {self.directory}"
        free = shutil.disk_usage(self.directory).free
        if free < size:
            raise CipoError(
                f"{self.directory}: {_mib(free)} are free, a checkpoint takes {_mib(size)}; make "
                "room, or choose another place by config.checkpoint.directory"
            )
        return f"{line} in {self.directory} ({_mib(free)} free)"

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          CipoError: it could not be.
        """
        with self._explained(None):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except CipoError:
            if kind is None:  # what ended the run is the better message
                raise

    def _require_step(self) -> int:
        step = self.latest_step()
        if step is None:
            raise CipoError(f"{self.directory}: holds no finished checkpoint")
        return step

    def _compare_origin(self, step: int) -> None:
        """Raises if a checkpoint comes from another config; tells of other library versions."""
        file = self.directory / f"step_{step}" / "origin"
        if self._origin is None or not file.exists():
            return
        args = ocp.args.Composite(origin=ocp.args.JsonRestore())
        saved = self._manager.restore(step, args=args).origin
        if saved and saved["config_hash"] != self._origin["config_hash"]:
            raise CipoError(
                f"{self.directory}: step {step} was saved under another config (hash "
                f"{saved['config_hash']}, this one's is {self._origin['config_hash']}); choose "
                "another config.checkpoint.directory, or continue with the config of that run"
            )
        now = self._origin["versions"]
        changes = [
            f"{name} {old}, now {now.get(name)}"
            for name, old in (saved or {}).get("versions", {}).items()
            if now.get(name) != old
        ]
        if changes:
            print("saved with other versions, so not exact to the bit: " + "; ".join(changes))

    def _set_aside(self, step: int, error: Exception) -> None:
        """Renames a checkpoint so that it is not seen any more."""
        place = self.directory / f"step_{step}"
        aside = self.directory / f"unreadable-step_{step}"
        print(
            f"the checkpoint of step {step} cannot be read ({str(error)[:200]}); it is now "
            f"{aside}, and the one before it is used",
            flush=True,
        )
        if jax.process_index() == 0:
            place.rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("set_aside")
        self._manager.reload()

    @contextlib.contextmanager
    def _explained(self, step: int | None) -> Iterator[None]:
        """Says of an error in writing what it means for the run."""
        try:
            yield
        except _DAMAGE as error:
            finished = [s for s in self.all_steps() if s != step]
            left = f"step {finished[-1]}" if finished else "none"
            raise CipoError(
                f"{self.directory}: a checkpoint could not be written ({str(error)[:300]}). The "
                f"newest finished one is {left}; nothing was deleted. Make room or restore access, "
                "and start the same command again"
            ) from error


@contextlib.contextmanager
def _no_warning_of_read_only() -> Iterator[None]:
    """Within, orbax does not warn of a directory that is read only: that was asked for, and reads
    as if something were wrong. Its other warnings stay."""

    def others(record: logging.LogRecord) -> bool:
        return not f"{record.msg}".startswith("Given directory is read only=")

    logger = logging.getLogger("absl")  # orbax logs through absl
    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)


def _score(metrics: Mapping[str, float]) -> float:
    return metrics.get("score", -math.inf)


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _require_writable(directory: epath.Path) -> None:
    """Makes the directory, and a file in it that is removed again."""
    probe = directory / f"writable-{jax.process_index()}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise CipoError(
            f"{directory}: checkpoints cannot be written there ({error}); restore access, or "
            "choose another place by --workdir or config.checkpoint.directory"
        ) from error


def origin(config: Config) -> dict[str, Any]:
    """Where a checkpoint comes from: {"config_hash": hash of the keys that may not change,
    "versions": {library: version}}."""
    fixed = {k: v for k, v in flatten(config).items() if not k.startswith(MAY_CHANGE_ON_RESUME)}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"config_hash": digest[:16], "versions": {"cipo_jax": __version__, **versions}}


def checkpoint_root(workdir: Path, directory: str) -> epath.Path:
    """What holds the directories of checkpoints of the run in `workdir`: "checkpoints",
    "cold_start", "reference". `directory` is its config.checkpoint.directory."""
    return epath.Path(directory or workdir)
