"""What a run writes in its directory for readers: metrics, attempts, texts, a report.

Only the first host writes: what the others have is the same. A step's attempts are written before
its metrics line: where there is a line, there are attempts.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cipo_jax.config.keys import Log
from cipo_jax.run.records.archive import AttemptArchive, check_archive
from cipo_jax.run.records.files import write_text
from cipo_jax.run.records.metrics_file import (
    MetricWriter,
    check_charts,
    check_metrics,
    read_metrics,
)
from cipo_jax.run.records.starts import add_start, read_starts
from cipo_jax.run.watch.compiles import check_compilation_cache
from cipo_jax.types import Attempt, CipoError


def check_records(workdir: Path, log: Log) -> None:
    """Whether a run can be recorded as `log` asks, before it begins. What one that is continued has
    left is read: a damaged file would otherwise be found by the report, after hours.

    Raises:
      CipoError: packages are missing, or metrics, attempts or starts are damaged, or compiled
        programs are to be kept in a file; with the key, or with the file, the line, and what to do.
    """
    check_compilation_cache(log.compilation_cache)
    check_charts(log.tensorboard, log.wandb)
    check_metrics(workdir)
    read_starts(workdir)
    check_archive(workdir)


class Record:
    """Writes into the run directory; a context manager.

    Args:
      write_report: (run directory, pairs shown at most) -> where the report is.
      writes: whether this host writes.

    Raises:
      CipoError: as `MetricWriter`.
    """

    def __init__(
        self,
        workdir: Path,
        log: Log,
        write_report: Callable[[Path, int], Path],
        writes: bool = True,
    ) -> None:
        self.workdir, self._report_pairs = workdir, log.report_pairs
        self._write_report = write_report
        self._metrics = MetricWriter(workdir, log.tensorboard, log.wandb) if writes else None
        self._archive = AttemptArchive(workdir) if writes and log.archive else None

    def write(self, step: int, scalars: Mapping[str, float], phase: str) -> None:
        """A line of metrics, see `MetricWriter.write`."""
        if self._metrics is not None:
            self._metrics.write(step, scalars, phase)

    def keep(
        self, phase: str, step: int, attempts: Sequence[Attempt], of_first: Sequence[Attempt] = ()
    ) -> None:
        """A file of attempts, see `AttemptArchive.write`; nothing if the config wants none."""
        if self._archive is not None:
            self._archive.write(phase, step, attempts, of_first)

    def text(self, name: str, content: str) -> None:
        """A file of text in the run directory."""
        if self._metrics is not None:
            write_text(self.workdir / name, content)

    def start(self, start: dict[str, Any]) -> None:
        """A line on how the run was started, see `starts.this_start`."""
        if self._metrics is not None:
            add_start(self.workdir, start)

    def rewind(self, phase: str, step: int) -> None:
        """Drops what was written beyond `step`, see `MetricWriter.rewind`."""
        if self._metrics is not None:
            self._metrics.rewind(phase, step)

    def find(self, phase: str, step: int) -> dict[str, Any] | None:
        """A line of metrics; None if there is none, and where this host does not write."""
        lines = read_metrics(self.workdir) if self._metrics is not None else []
        found = (line for line in lines if line["phase"] == phase and line["step"] == step)
        return next(found, None)

    def report(self) -> Path:
        """Writes the report; returns where it is."""
        if self._metrics is None:
            return self.workdir / "report.html"
        return self._write_report(self.workdir, self._report_pairs)

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._metrics is None:
            return
        try:
            self._metrics.close()
        except (CipoError, OSError):
            if kind is None:  # what ended the run is the better message
                raise
