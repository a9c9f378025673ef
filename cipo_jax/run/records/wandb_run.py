"""The numbers of a run at Weights & Biases, for those who keep all their runs there.

Decides how a run of this program becomes one there: a run that is continued stays one run, by the
identity in `<workdir>/wandb_id.txt`. The package's own environment variables choose the rest:
WANDB_MODE=offline keeps everything in `<workdir>/wandb`, for `wandb sync`; WANDB_ENTITY names the
team, WANDB_API_KEY the account.
"""

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cipo_jax.config.resolve import read_values
from cipo_jax.run.records.files import write_text
from cipo_jax.types import CipoError

ID_FILE = "wandb_id.txt"


def wandb_package(project: str) -> Any:
    """The package, which is optional.

    Raises:
      CipoError: it is not installed; with the project that asked for it.
    """
    try:
        import wandb
    except ImportError as error:
        raise CipoError(
            f"config.log.wandb: got {project!r}, but the package wandb cannot be imported "
            f"({error}); pip install 'cipo_jax[wandb]' (or pip install wandb), or leave "
            "config.log.wandb empty"
        ) from error
    return wandb


class WandbRun:
    """A run in a project of Weights & Biases. The package sends from a process of its own.

    Args:
      workdir: the run directory. Its name is the run's; its config, if there is one, is what runs
        are filtered by.
      project: made if need be.

    Raises:
      CipoError: the package is not installed, or refuses, such as without an account.
    """

    def __init__(self, workdir: Path, project: str):
        wandb = wandb_package(project)
        self._errors = (wandb.errors.Error, OSError)
        known, config = workdir / ID_FILE, workdir / "config.json"
        if not known.is_file():
            write_text(known, uuid.uuid4().hex)
        with self._explained():
            self._run = wandb.init(
                project=project,
                name=workdir.resolve().name,
                id=known.read_text().strip(),
                resume="allow",
                dir=str(workdir),
                config=read_values(config) if config.is_file() else {},
            )
            # A metric like others: steps that a continued run repeats would be refused as steps of
            # the package.
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Sends scalars by tag, soon."""
        with self._explained():
            self._run.log({**scalars, "step": step})

    def close(self) -> None:
        """Waits for everything to be sent, or written where it is offline."""
        with self._explained():
            self._run.finish()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            first_line = str(error).strip().partition("\n")[0].rstrip(".")
            raise CipoError(
                f"config.log.wandb: Weights & Biases: {first_line}; "
                "log in by `wandb login`, set WANDB_MODE=offline to send later, or leave "
                "config.log.wandb empty; the same command continues the run"
            ) from error
