"""Checkpoints: what is saved, what is kept, and how it is restored.

A checkpoint holds the parameters, the optimiser state, a small json of host state (the replay
controller), and for the reader which config and library versions it comes from. Together with the
config that is everything: data order and sampling keys are functions of (seed, step). orbax writes
it in the background and atomically, every host its own shards; a checkpoint that was not finished
is not seen. It can be restored onto another mesh and another number of hosts.

The newest are kept, and those best by a score. Before one is restored, all hosts together compare
its files with its manifest, and agree on which it is: a damaged one is set aside under another
name, and the one before it is used. Nothing that was finished is deleted for an error, and an error
that is not of the files (memory, permissions, another model) sets nothing aside.
"""

import contextlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from cipo_jax.rl.train_step import Params, TrainState
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.records import manifest
from cipo_jax.run.records.manager import open_manager, require_fit, require_writable
from cipo_jax.run.records.origin import other_config, other_versions
from cipo_jax.run.records.scores import Preservation, write_score
from cipo_jax.types import CipoError

# How an error in writing shows itself; running out of memory is a RuntimeError.
_NOT_WRITTEN = (OSError, ValueError, KeyError, TypeError)
# Words of errors that say nothing of a checkpoint's files, in lower case.
_NOT_DAMAGE = ("out of memory", "resource_exhausted", "permission", "unavailable", "deadline")
UNREADABLE = "unreadable-step_"  # then the step: a damaged checkpoint that was set aside


class Checkpoints:
    """The checkpoints of one phase of a run, in one directory. On several hosts, all of them make
    the same calls.

    Args:
      directory: local, or anything else that epath knows, such as gs://.
      keep: how many of the newest are kept.
      keep_best: how many of the best by score are kept besides.
      read_only: leave the directory as it is, even one that a run is writing to.
      origin: of the run, see `origin.origin`; saved with each, compared when one is restored.
      config_agrees: the run's config.json has been compared with the config, so that a checkpoint
        that has only a hash of its config may be continued.

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
        config_agrees: bool = False,
    ):
        self.directory = epath.Path(directory)
        if "://" not in str(directory):
            self.directory = epath.Path(Path(directory).absolute())
        self._origin, self._config_agrees = origin, config_agrees
        self._read_only, self._hosts = read_only, Hosts()
        self._preservation = Preservation(keep, keep_best)
        self._intact: set[tuple[int, Sequence[str] | None]] = set()  # have been checked
        self._skipped: set[int] = set()  # damaged, in a directory that is left as it is
        self._writing: int | None = None
        if not read_only:
            require_writable(self.directory)
            self._preservation.read_scores(self.directory, self._hosts)
        self._manager = open_manager(
            self.directory, None if read_only else self._preservation, self._seal
        )

    def beside(self, name: str, keep: int, read_only: bool = False) -> "Checkpoints":
        """Those of another phase of the same run."""
        return Checkpoints(
            self.directory.parent / name,
            keep,
            read_only,
            origin=self._origin,
            config_agrees=self._config_agrees,
        )

    def all_steps(self) -> list[int]:
        """The steps of all finished checkpoints, oldest first."""
        return sorted(set(self._manager.all_steps()) - self._skipped)

    def latest_step(self) -> int | None:
        """The newest finished checkpoint's step; None if there is none."""
        return max(self.all_steps(), default=None)

    def newest_intact(self, items: Sequence[str] | None = None) -> int | None:
        """The newest checkpoint whose files are those that were written; None if there is none.
        Newer ones are set aside (renamed, unless the directory is read only), with a message.

        Args:
          items: the parts that matter, such as ("params",); None: all.

        Raises:
          CipoError: one cannot be read, for a reason that says nothing of its files.
        """
        while (step := self._hosts.first_says(self.latest_step())) is not None:
            damage = self.find_damage(step, items)
            if damage is None:
                break
            self._set_aside(step, damage)
        return step

    def find_damage(self, step: int, items: Sequence[str] | None = None) -> str | None:
        """What is wrong with the files of a checkpoint, on any host; None if nothing is.

        Raises:
          CipoError: as `newest_intact`.
        """
        if (step, items) in self._intact:
            return None
        self._manager.wait_until_finished()
        damage = manifest.find_damage_together(self._place(step), items, self._hosts)
        if damage is None:
            self._intact.add((step, items))
        return damage

    def save_params(self, params: Params) -> None:
        """Saves parameters alone, as step 0, for `restore_params`; they replace earlier ones."""
        with self._explained(0):
            if self.latest_step() is not None:
                self._manager.delete(0)
            self._begin_writing(0)
            self._manager.save(0, args=ocp.args.Composite(params=ocp.args.StandardSave(params)))

    def save(
        self, step: int, state: TrainState, host: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Starts saving the state after `step` updates; the arrays may be donated afterwards. If it
        is the newest there is, only its score is written.

        Args:
          score: what the best are chosen by; without one (None or not finite) it is not among them.

        Raises:
          CipoError: this one, or the one before it, could not be written.
        """
        score = score if score is not None and math.isfinite(score) else None
        with self._explained(step):
            if step == self.latest_step():
                if score not in (None, self._preservation.scores.get(step)):
                    self._manager.wait_until_finished()
                    self._preservation.scores[step] = score
                    if self._hosts.first:
                        write_score(self._place(step), score)
                return
            args = ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                opt_state=ocp.args.StandardSave(state.opt_state),
                host=ocp.args.JsonSave(dict(host)),
                origin=ocp.args.JsonSave(dict(self._origin or {})),
            )
            self._begin_writing(step)
            if score is not None:
                self._preservation.scores[step] = score
            self._manager.save(step, args=args)

    def improves(self, score: float | None) -> bool:
        """Whether a checkpoint with this score would be kept for it."""
        if score is None or not math.isfinite(score) or not self._preservation.keep_best:
            return False
        best = self._preservation.best(self.all_steps())
        return (
            len(best) < self._preservation.keep_best or score > self._preservation.scores[best[0]]
        )

    def check(self) -> None:
        """Raises `CipoError` if the writing in the background has failed."""
        with self._explained(None):
            self._manager.check_for_errors()

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint that is intact, with the shapes, dtypes and shardings of the
        abstract `like`. Newer ones are set aside.

        Raises:
          CipoError: there is none, it comes from another config, or it holds another model.
        """
        while True:
            step = self._require(self.newest_intact())
            try:
                self._compare_origin(step)
                require_fit(self._place(step), {"params": like.params, "opt_state": like.opt_state})
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        params=ocp.args.StandardRestore(like.params),
                        opt_state=ocp.args.StandardRestore(like.opt_state),
                        host=ocp.args.JsonRestore(),
                    ),
                )
            except Exception as error:
                if not self._is_damage(step, error):
                    raise
                self._set_aside(step, f"{error}")
                continue
            counter = jax.device_put(jnp.asarray(step, jnp.int32), like.step.sharding)
            state = TrainState(step=counter, params=restored.params, opt_state=restored.opt_state)
            return state, dict(restored.host)

    def restore_params(self, like: Params, step: int | None = None, intact: bool = False) -> Params:
        """The parameters of the checkpoint of `step`, or else of the newest that is intact.

        Args:
          intact: `find_damage` has found nothing at `step` already; all files would be read again.

        Raises:
          CipoError: there is none, it is damaged, or it holds another model.
        """
        items, asked = ("params",), step is not None
        while True:
            step = self._require(step if asked else self.newest_intact(items))
            if asked and not intact and (damage := self.find_damage(step, items)):
                raise self._damaged(step, damage)
            try:
                require_fit(self._place(step), {"params": like})
                args = ocp.args.Composite(params=ocp.args.StandardRestore(like))
                return self._manager.restore(step, args=args).params
            except Exception as error:
                if not self._is_damage(step, error):
                    raise
                if asked:
                    raise self._damaged(step, f"{error}") from error
                self._set_aside(step, f"{error}")

    def describe(self, like: TrainState) -> str:
        """One line: the bytes of a checkpoint, how many are kept, where, and the space there.

        Raises:
          CipoError: there is no room for one.
        """
        leaves = jax.tree.leaves((like.params, like.opt_state))
        size = sum(x.size * x.dtype.itemsize for x in leaves)
        # One more: the oldest goes when the newest is finished.
        kept = self._preservation.keep + self._preservation.keep_best
        line = f"{_mib(size)} each, {kept} kept, so up to {_mib((kept + 1) * size)}"
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

    def _place(self, step: int) -> epath.Path:
        return self.directory / f"step_{step}"

    def _require(self, step: int | None) -> int:
        if step in self.all_steps():
            assert step is not None
            return step
        aside = sorted(p.name for p in self.directory.glob(f"{UNREADABLE}*"))
        also = f"; set aside as damaged: {', '.join(aside)}" if aside else ""
        if step is None:
            raise CipoError(f"{self.directory}: holds no finished checkpoint{also}")
        raise CipoError(f"{self.directory}: holds no step {step}; kept: {self.all_steps()}{also}")

    def _damaged(self, step: int, damage: str) -> CipoError:
        others = [s for s in self.all_steps() if s != step]
        return CipoError(
            f"{self._place(step)}: the checkpoint is damaged ({damage[:200]}); restore its files, "
            f"or use another step: {others or 'there is none'}"
        )

    def _compare_origin(self, step: int) -> None:
        """Raises if a checkpoint comes from another config; tells of other library versions."""
        if self._origin is None or not (self._place(step) / "origin").exists():
            return
        args = ocp.args.Composite(origin=ocp.args.JsonRestore())
        saved = self._manager.restore(step, args=args).origin or {}
        other = other_config(saved, self._origin)
        if other is None and self._config_agrees:
            print(
                f"the checkpoint of step {step} is of an earlier version, which noted a hash of "
                "its config; it is another one now, but the run's config.json agrees, which decides"
            )
        elif other or other is None:
            hashes = f" (only its hash was noted: {saved.get('config_hash')}); "
            raise CipoError(
                f"{self.directory}: step {step} was saved under another config{other or hashes}"
                "choose another config.checkpoint.directory, or continue with the config of that "
                "run"
            )
        if changes := other_versions(saved, self._origin):
            print("saved with other versions, so not exact to the bit: " + "; ".join(changes))

    def _is_damage(self, step: int, error: Exception) -> bool:
        """Whether an error in restoring a checkpoint that passed its checks is one of its files. Of
        one without a manifest the arrays have not been checked. On several hosts the others cannot
        know of it, so that it ends the run."""
        if manifest.has_manifest(self._place(step)) or self._hosts.count > 1:
            return False
        words = f"{error}".lower()
        return not (
            isinstance(error, CipoError | MemoryError) or any(word in words for word in _NOT_DAMAGE)
        )

    def _set_aside(self, step: int, damage: str) -> None:
        """Renames a checkpoint so that it is not seen any more; in a directory that is left as it
        is, it is passed over."""
        message = f"the checkpoint of step {step} in {self.directory} is damaged ({damage[:200]}); "
        if self._read_only:
            self._skipped.add(step)
            print(f"{message}the one before it is used", flush=True)
            return
        taken = {p.name for p in self.directory.glob(f"{UNREADABLE}*")}
        names = [f"{UNREADABLE}{step}", *(f"{UNREADABLE}{step}.{i}" for i in range(1, 100))]
        aside = self.directory / next(name for name in names if name not in taken)
        self._hosts.gather(b"")  # all have seen which names are taken
        if self._hosts.first:
            self._place(step).rename(aside)
        self._hosts.gather(b"")
        print(f"{message}it is now {aside}, and the one before it is used", flush=True)
        self._forget(step)
        self._manager.reload()

    def _forget(self, step: int) -> None:
        self._preservation.forget(step)
        self._intact = {checked for checked in self._intact if checked[0] != step}

    def _begin_writing(self, step: int) -> None:
        """For `_seal`: orbax does not say which checkpoint it finishes."""
        self._manager.wait_until_finished()
        self._writing = step
        self._forget(step)

    def _seal(self) -> None:
        """Called by orbax in the background, on the first host, when everything has been written
        and the checkpoint does not yet count as finished."""
        step = self._writing
        assert step is not None
        places = [p for p in self.directory.iterdir() if p.name.split(".")[0] == f"step_{step}"]
        # Where directories can be renamed it has a temporary name, with a suffix.
        place = max(places, key=lambda p: len(p.name))
        if (score := self._preservation.scores.get(step)) is not None:
            write_score(place, score)
        manifest.write_manifest(place)

    @contextlib.contextmanager
    def _explained(self, step: int | None) -> Iterator[None]:
        """Says of an error in writing what it means for the run."""
        try:
            yield
        except _NOT_WRITTEN as error:
            finished = [s for s in self.all_steps() if s != step]
            left = f"step {finished[-1]}" if finished else "none"
            raise CipoError(
                f"{self.directory}: a checkpoint could not be written ({str(error)[:300]}). The "
                f"newest finished one is {left}; nothing was deleted. Make room or restore access, "
                "and start the same command again"
            ) from error


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def checkpoint_root(workdir: Path, directory: str) -> epath.Path:
    """What holds the directories of checkpoints of the run in `workdir`: "checkpoints",
    "cold_start", "reference". `directory` is its config.checkpoint.directory."""
    return epath.Path(directory or workdir)
