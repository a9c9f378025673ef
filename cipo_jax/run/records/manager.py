"""orbax's checkpoint manager, as a run uses it, and what is asked of a directory before that."""

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from cipo_jax.run.records.scores import Preservation
from cipo_jax.types import CipoError

_LEAST_SLICE_BYTES = 1 << 20


def open_manager(
    directory: epath.Path, preservation: Preservation | None, seal: Callable[[], None]
) -> ocp.CheckpointManager:
    """The manager of the checkpoints in `directory`.

    Args:
      preservation: which are kept; None: the directory is left as it is.
      seal: called in the background, on the first host, when all files of a checkpoint have been
        written and it does not yet count as finished.
    """
    if preservation is None:
        options = ocp.CheckpointManagerOptions(
            step_prefix="step",
            read_only=True,
            create=False,
            save_interval_steps=0,
            lightweight_initialize=True,
        )
    else:
        options = ocp.CheckpointManagerOptions(
            step_prefix="step",
            cleanup_tmp_directories=True,
            lightweight_initialize=True,
            preservation_policy=preservation,
            async_options=ocp.AsyncOptions(post_finalization_callback=seal),
        )
    with _no_warning_of_what_was_asked_for():
        _write_small_arrays_whole()
        return ocp.CheckpointManager(
            directory, options=options, item_names=("params", "opt_state", "host", "origin")
        )


@functools.cache  # orbax's registry is the process's
def _write_small_arrays_whole() -> None:
    """Of an array that several devices hold, orbax has each device write a slice, and JAX compiles
    a program for each slice of each array. That pays for large arrays alone: others are written by
    one of the devices."""
    usual = ocp.type_handlers.get_type_handler(jax.Array)
    handler = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=_LEAST_SLICE_BYTES,
        array_metadata_store=getattr(usual, "_array_metadata_store", None),
    )
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)


def require_writable(directory: epath.Path) -> None:
    """Makes the directory, and a file in it that is removed again.

    Raises:
      CipoError: as `writing_into`.
    """
    probe = directory / f"writable-{jax.process_index()}.tmp"
    with writing_into(directory):
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()


@contextlib.contextmanager
def writing_into(directory: epath.Path) -> Iterator[None]:
    """Within, files of a directory of checkpoints are written.

    Raises:
      CipoError: that fails; with the directory, the system's words, and what to do.
    """
    try:
        yield
    except OSError as error:
        raise CipoError(
            f"{directory}: checkpoints cannot be written there ({error}); restore access, or "
            "choose another place by --workdir or config.checkpoint.directory"
        ) from error


def require_fit(place: epath.Path, parts: Mapping[str, Any]) -> None:
    """Raises `CipoError` if the arrays of the checkpoint in the directory `place` have other shapes
    than those of abstract trees, {item: tree}."""
    for item, like in parts.items():
        saved = ocp.PyTreeCheckpointHandler().metadata(place / item)
        # orbax saves the tuples of an optimiser under other names.
        theirs, ours = (_shapes(tree, named=item == "params") for tree in (saved.tree, like))
        if theirs != ours:
            differing = sorted((theirs - ours) + (ours - theirs))
            raise CipoError(
                f"{place}: holds {item} of another model than this config's; they differ in "
                f"{', '.join(differing[:4])}. Restore the config of that run, or name another "
                "directory"
            )


def _shapes(tree: Any, named: bool) -> Counter[str]:
    """ "name [shape]" of each array, or "[shape]" alone."""
    return Counter(
        f"{jax.tree_util.keystr(path) if named else ''}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    )


@contextlib.contextmanager
def _no_warning_of_what_was_asked_for() -> Iterator[None]:
    """Within, orbax does not warn of a directory that is read only and of a handler that replaces
    another: both were asked for, and read as if something were wrong. Its other warnings stay."""
    asked_for = ("Given directory is read only=", "Type handler registry type ")

    def others(record: logging.LogRecord) -> bool:
        return not f"{record.msg}".startswith(asked_for)

    logger = logging.getLogger("absl")  # orbax logs through absl
    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)
