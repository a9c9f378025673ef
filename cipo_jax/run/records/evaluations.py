"""The directory of one evaluation's results: its name, and that nothing is written over others.

<workdir>/evaluations/<name>/ with results.json, table.md and attempts/. An evaluation without
results.json did not end.
"""

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

from cipo_jax.run.records.archive import ATTEMPTS_DIR
from cipo_jax.run.records.files import explained
from cipo_jax.run.records.lock import DirectoryLock
from cipo_jax.types import CipoError

EVALUATIONS_DIR = "evaluations"
RESULTS_FILE = "results.json"


@contextlib.contextmanager
def results_directory(parent: Path, wanted: str, checkpoint: str) -> Iterator[Path]:
    """A directory for the results of this evaluation alone. One that is numbered is removed again
    if nothing was put there.

    Args:
      wanted: its name, `eval.name`; "": after the checkpoint, with the first number that is free.

    Raises:
      CipoError: there are results under that name, or another process is at work there.
    """
    with contextlib.ExitStack() as stack:
        if wanted:
            directory = parent / wanted
            stack.enter_context(DirectoryLock(directory, key="config.eval.name")).take()
            require_no_results(directory)
            _remove_attempts(directory)
        else:
            with explained(parent):
                directory = _make_numbered(parent, checkpoint)
        try:
            yield directory
        except BaseException:
            for empty in (directory / ATTEMPTS_DIR, directory):
                with contextlib.suppress(OSError):  # not empty, or not made
                    empty.rmdir()
            raise


def _remove_attempts(directory: Path) -> None:
    """Removes the attempts of an evaluation that did not end: they have no results."""
    attempts = directory / ATTEMPTS_DIR
    if attempts.is_dir():
        print(
            f"evaluate {directory}: begins anew; attempts without results are removed", flush=True
        )
        with explained(attempts):
            shutil.rmtree(attempts)


def require_no_results(directory: Path) -> None:
    """Raises CipoError if `directory` holds the results of an evaluation."""
    if (directory / RESULTS_FILE).exists():
        raise CipoError(
            f"config.eval.name: {directory} has results already; choose another name, or move that "
            "directory away"
        )


def _make_numbered(parent: Path, name: str) -> Path:
    """Makes `name`, or the first of name-2, name-3, ... that does not exist."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        directory = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
            break
    return directory
