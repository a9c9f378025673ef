"""The numbers of a run on disk: metrics.jsonl and TensorBoard's event files.

Decides the format of metrics.jsonl and the TensorBoard tags. What the numbers mean is decided in
`run/measures.py`.

metrics.jsonl has one json object a line, {"phase", "step", <metric>: <number>, ...}. A value that
is not finite is written as null, and the line's "non_finite" object says which it was
({"loss/total": "nan"}), so that every line is valid json and nothing is lost.
"""

import importlib.util
import json
import math
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cipo_jax.run.records.files import write_text
from cipo_jax.types import CipoError

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"


class MetricWriter:
    """Appends scalars to `workdir`/metrics.jsonl and, if asked, to TensorBoard event files.

    Opening repairs a last line that was cut by a kill. Each line is flushed as it is written.

    Raises:
      CipoError: TensorBoard is wanted and its packages are not installed.
    """

    def __init__(self, workdir: Path, tensorboard: bool):
        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / METRICS_FILE
        _drop_cut_line(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._tensorboard = EventFiles(workdir / TENSORBOARD_DIR) if tensorboard else None

    def write(self, step: int, scalars: Mapping[str, float], phase: str) -> None:
        """Appends one line. Scalars may be Python, NumPy or single-element device numbers; all are
        stored as floats."""
        values = {name: float(value) for name, value in scalars.items()}
        line: dict[str, Any] = {"phase": phase, "step": int(step)}
        line |= {k: v if math.isfinite(v) else None for k, v in values.items()}
        if non_finite := {k: str(v) for k, v in values.items() if not math.isfinite(v)}:
            line["non_finite"] = non_finite
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            tagged = {tensorboard_tag(name, phase): value for name, value in values.items()}
            self._tensorboard.write(step, tagged)

    def rewind(self, phase: str, step: int) -> None:
        """Drops the lines of `phase` beyond `step`, which a resumed run will write again, so that
        metrics.jsonl ends up as if it had never stopped. TensorBoard's event files only grow:
        replayed steps are there twice."""
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = []
        for number, line in enumerate(lines, 1):
            record = _parse(line, self._path, number)
            if record["phase"] != phase or record["step"] <= step:
                kept.append(line)
        if len(kept) == len(lines):
            return
        self._file.close()
        write_text(self._path, "".join(kept))
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


class EventFiles:
    """TensorBoard's event files, written by a thread of their own: clu's writer imports TensorFlow,
    which takes seconds, for which the run need not wait. It begins with the first write: while
    programs are traced, the two would take turns. Its errors are raised by the next call.

    Raises:
      CipoError: the packages are not installed.
    """

    def __init__(self, logdir: Path):
        for package in ("clu", "tensorflow", "tensorboard"):
            if importlib.util.find_spec(package) is None:
                raise CipoError(
                    f"config.log.tensorboard: got True, but {package} cannot be imported; pip "
                    "install clu, tensorboard and tensorflow-cpu, or set "
                    "--config.log.tensorboard=False"
                )
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
                self._writer.close()

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            # TensorFlow prints a greeting on stderr unless told not to before its import.
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
            from clu.metric_writers import SummaryWriter

            self._writer = SummaryWriter(str(self._logdir))
        self._writer.write_scalars(step, scalars)
        self._writer.flush()


def tensorboard_tag(name: str, phase: str) -> str:
    """The tag of a metric. TensorBoard groups charts by the first part of a tag: the train phase
    has its own groups (base/, loss/, ...), tags of other phases begin with the phase."""
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
    *complete, _unfinished = path.read_text(encoding="utf-8").split("\n")
    records = [_parse(line, path, number) for number, line in enumerate(complete, 1)]
    for record in records:
        record |= {k: float(v) for k, v in record.pop("non_finite", {}).items()}
    return records


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise CipoError(
            f"{path}:{number}: not json ({error.msg}); remove the line, or start a new --workdir"
        ) from error
    if not isinstance(record, dict) or not {"phase", "step"} <= record.keys():
        raise CipoError(
            f'{path}:{number}: got {line.strip()[:80]!r}, wanted an object with "phase" and "step"'
        )
    return record


def _drop_cut_line(path: Path) -> None:
    """Cuts the file after its last newline."""
    if not path.exists():
        return
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
