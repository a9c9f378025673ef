"""The numbers of a run: metrics.jsonl, and the charts that they also go to.

Decides the format of metrics.jsonl, the tags of charts, and TensorBoard's event files. What the
numbers mean is decided in `run/measures.py`.

metrics.jsonl has one json object a line, {"phase", "step", <metric>: <number>, ...}. A value that
is not finite is written as null, and the line's "non_finite" object says which it was
({"loss/total": "nan"}), so that every line is valid json and nothing is lost.
"""

import contextlib
import importlib.util
import json
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from cipo_jax.run.records.files import explained, replacing
from cipo_jax.run.records.wandb_run import WandbRun, wandb_package
from cipo_jax.types import CipoError

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"
_AWAY = "or move the file away: the metrics then begin at the step that the run continues from"


class Charts(Protocol):
    """Another place for the numbers, where they are looked at while the run goes on."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars by tag, soon."""

    def close(self) -> None:
        """Waits for everything to be written."""


class MetricWriter:
    """Appends scalars to `workdir`/metrics.jsonl and, if asked, to charts.

    Args:
      tensorboard: whether to write event files.
      wandb: project of Weights & Biases; "": none.

    Opening repairs a last line that was cut by a kill. Each line is on the disk when it has been
    written, so before a checkpoint of its step.

    Raises:
      CipoError: the packages of the charts are not installed, or a file cannot be written.
    """

    def __init__(self, workdir: Path, tensorboard: bool, wandb: str = ""):
        self._path = workdir / METRICS_FILE
        with explained(self._path):
            workdir.mkdir(parents=True, exist_ok=True)
            _drop_cut_line(self._path)
            self._file = self._path.open("a", encoding="utf-8")
        self._charts: list[Charts] = []
        if tensorboard:
            self._charts.append(EventFiles(workdir / TENSORBOARD_DIR))
        if wandb:
            self._charts.append(WandbRun(workdir, wandb))

    def write(self, step: int, scalars: Mapping[str, float], phase: str) -> None:
        """Appends one line. Scalars may be Python, NumPy or single-element device numbers; all are
        stored as floats.

        Raises:
          CipoError: there is no room on the disk. What is left of the line is dropped when the file
            is opened again.
        """
        values = {name: float(value) for name, value in scalars.items()}
        line: dict[str, Any] = {"phase": phase, "step": int(step)}
        line |= {k: v if math.isfinite(v) else None for k, v in values.items()}
        if non_finite := {k: str(v) for k, v in values.items() if not math.isfinite(v)}:
            line["non_finite"] = non_finite
        with explained(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        tagged = {chart_tag(name, phase): value for name, value in values.items()}
        for chart in self._charts:
            chart.write(step, tagged)

    def rewind(self, phase: str, step: int) -> None:
        """Drops the lines of `phase` beyond `step`, which a resumed run will write again, so that
        metrics.jsonl ends up as if it had never stopped. Charts only grow: replayed steps are there
        twice.

        Raises:
          CipoError: the training steps that are kept end before `step`: some are missing.
        """
        lines = self._path.read_bytes().splitlines(keepends=True)
        kept, last = [], step
        for number, line in enumerate(lines, 1):
            record = _parse(line, self._path, number)
            if record["phase"] != phase or record["step"] <= step:
                kept.append(line)
                last = record["step"] if record["phase"] == phase else last
        if phase == "train" and last < step:
            raise CipoError(
                f"{self._path}: ends with {phase} step {last}, but the run continues after step "
                f"{step}; the lines between are missing. Put them back from a copy, {_AWAY}"
            )
        if len(kept) == len(lines):
            return
        self._file.close()
        with replacing(self._path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # all of them, whatever one raises
            for chart in self._charts:
                stack.callback(chart.close)
            with explained(self._path):
                self._file.close()


def check_charts(tensorboard: bool, wandb: str) -> None:
    """Whether the packages of the charts are there. Arguments and errors as of `MetricWriter`."""
    if tensorboard:
        _require_event_packages()
    if wandb:
        wandb_package(wandb)


def _require_event_packages() -> None:
    for package in ("clu", "tensorflow", "tensorboard"):
        if importlib.util.find_spec(package) is None:
            raise CipoError(
                f"config.log.tensorboard: got True, but {package} cannot be imported; pip install "
                "clu, tensorboard and tensorflow-cpu, or set --config.log.tensorboard=False"
            )


class EventFiles:
    """TensorBoard's event files, written by a thread of their own: clu's writer imports TensorFlow,
    which takes seconds, for which the run need not wait. It begins with the first write: while
    programs are traced, the two would take turns. Its errors are raised by the next call.

    Raises:
      CipoError: the packages are not installed; later, the files cannot be written.
    """

    def __init__(self, logdir: Path):
        _require_event_packages()
        self._logdir = logdir
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tensorboard")
        self._pending: deque[Future[None]] = deque()
        self._writer: Any = None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes scalars by tag, soon."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._write, step, dict(scalars)))

    def close(self) -> None:
        """Waits for everything to be written."""
        with self._thread:
            for pending in self._pending:
                pending.result()
            if self._writer is not None:
                with self._explained():
                    self._writer.close()

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            # TensorFlow prints a greeting on stderr unless told not to before its import.
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
            from clu.metric_writers import SummaryWriter

            with self._explained():
                self._writer = SummaryWriter(str(self._logdir))
        with self._explained():
            self._writer.write_scalars(step, scalars)
            self._writer.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Says what TensorFlow's error of a file means."""
        from tensorflow import errors

        try:
            yield
        except errors.OpError as error:
            raise CipoError(
                f"{self._logdir}: TensorBoard's event files cannot be written "
                f"({str(error.message).splitlines()[0][-200:]}); make room or restore access and "
                "start the same command again, or add --config.log.tensorboard=False"
            ) from error


def chart_tag(name: str, phase: str) -> str:
    """The tag of a metric. Charts are grouped by the first part of a tag: the train phase has its
    own groups (base/, loss/, ...), tags of other phases begin with the phase."""
    return name if phase == "train" or name.startswith(phase + "/") else f"{phase}/{name}"


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of `workdir`/metrics.jsonl in file order, non-finite values restored as floats; []
    without a file. A last line that is still being written is left out.

    Raises:
      CipoError: a complete line is not a json object with "phase" and "step".
    """
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    with explained(path):
        *complete, _unfinished = path.read_bytes().split(b"\n")
    return [_parse(line, path, number) for number, line in enumerate(complete, 1)]


def check_metrics(workdir: Path) -> None:
    """Whether a run can go on writing `workdir`/metrics.jsonl; read as by `read_metrics`.

    Raises:
      CipoError: as `read_metrics`; or a step is there twice, or a training step is missing between
        two others. The file may begin at any step: that of the checkpoint it was continued from.
    """
    path = workdir / METRICS_FILE
    before: dict[str, tuple[int, int]] = {}  # phase -> (step, number of its line)
    for number, record in enumerate(read_metrics(workdir), 1):
        phase, step = record["phase"], record["step"]
        last, line = before.get(phase, (step - 1, 0))
        # Several health rules can speak of one step, each in a line of its own.
        if step < last or (step == last and phase != "health"):
            raise CipoError(
                f"{path}:{number}: {phase} step {step} comes after step {last} in line {line}, "
                f"wanted a later one; remove the lines that are not this run's, {_AWAY}"
            )
        if phase == "train" and step > last + 1:
            raise CipoError(
                f"{path}:{number}: {phase} step {step} comes after step {last} in line {line}; the "
                f"lines between are missing. Put them back from a copy, {_AWAY}"
            )
        before[phase] = step, number


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    where = f"{path}:{number}"
    mend = "remove the line or restore it from a copy, or start a new --workdir"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CipoError(f"{where}: not json ({error}); {mend}") from error
    shown = line.decode(errors="replace").strip()[:80]
    if not isinstance(record, dict) or not {"phase", "step"} <= record.keys():
        raise CipoError(f'{where}: got {shown!r}, wanted an object with "phase" and "step"; {mend}')
    try:
        good = type(record["phase"]) is str and type(record["step"]) is int
        record |= {k: float(v) for k, v in record.pop("non_finite", {}).items()}
        good &= all(type(v) in (int, float) for k, v in record.items() if k != "phase")
    except (AttributeError, TypeError, ValueError):
        good = False
    if not good:
        raise CipoError(f"{where}: got {shown!r}, wanted a text as phase and numbers; {mend}")
    return record


def _drop_cut_line(path: Path) -> None:
    """Cuts the file after its last newline."""
    if not path.exists():
        return
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
