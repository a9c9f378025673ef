"""Numbers of a run: what is computed from attempts, and where scalars are written.

Decides the definition of every metric that is a function of attempts and verdicts alone, the
format of metrics.jsonl, the TensorBoard tags, and the line printed per step. It does not decide
what is measured on the device (losses, entropy, gradient norms come in as scalars), when anything
is written, or how hosts are combined: in a multi-host run one process holds the writer and gives
it numbers that were gathered before.

metrics.jsonl has one json object a line, {"phase", "step", <metric>: <number>, ...}. A value that
is not finite is written as null, and the line's "non_finite" object says which it was
({"loss/total": "nan"}), so that every line is valid json and nothing is lost.
"""

import importlib.util
import json
import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.rl.anchors import Selection
from cipo_jax.types import STREAMS, Attempt, CipoError, Outcome, Prompt

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"


class MetricWriter:
    """Appends scalars to `workdir`/metrics.jsonl and, if asked, to TensorBoard event files.

    Opening repairs a last line that was cut by a kill. Each line is flushed as it is written.

    Args:
      workdir: the run directory; made if missing.
      tensorboard: also write event files to `workdir`/tensorboard (imports TensorFlow).

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
        """Appends one line. `phase` is "cold_start", "train", "eval" or "final".

        Scalars may be Python, NumPy or single-element device numbers; all are stored as floats.
        """
        values = {name: float(value) for name, value in scalars.items()}
        line: dict[str, Any] = {"phase": phase, "step": int(step)}
        line |= {k: v if math.isfinite(v) else None for k, v in values.items()}
        non_finite = {k: str(v) for k, v in values.items() if not math.isfinite(v)}
        if non_finite:
            line["non_finite"] = non_finite
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            tagged = {tensorboard_tag(name, phase): value for name, value in values.items()}
            self._tensorboard.write(step, tagged)

    def rewind(self, phase: str, step: int) -> None:
        """Drops the lines of `phase` beyond `step`; other phases keep theirs.

        A resumed run calls this with the restored step for each phase it will go through again
        (-1 drops a phase wholly), so that metrics.jsonl ends up as if it had never stopped.
        TensorBoard's event files only grow: replayed steps stand there twice.
        """
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = []
        for number, line in enumerate(lines, 1):
            record = _parse(line, self._path, number)
            if record["phase"] != phase or record["step"] <= step:
                kept.append(line)
        if len(kept) == len(lines):
            return
        self._file.close()
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


class EventFiles:
    """TensorBoard's event files, written by a thread of their own: clu's writer imports TensorFlow,
    which takes seconds, and those the run need not wait for. It begins with the first write: while
    programs are traced, the two would take turns. What goes wrong there is raised by the next call.

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

    def _open(self) -> Any:
        # TensorFlow greets on stderr unless told not to before its import.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        from clu.metric_writers import SummaryWriter

        return SummaryWriter(str(self._logdir))

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            self._writer = self._open()
        self._writer.write_scalars(step, scalars)
        self._writer.flush()


def tensorboard_tag(name: str, phase: str) -> str:
    """The tag of a metric. TensorBoard groups charts by the first part of a tag, so the train
    phase goes by its own groups (base/, correction/, loss/, ...) and others carry their phase."""
    return name if phase == "train" or name.startswith(phase + "/") else f"{phase}/{name}"


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of `workdir`/metrics.jsonl in file order, non-finite values restored as floats.

    Safe on a run in progress: a last line that is still being written is left out. No file gives
    an empty list.

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


def reduce_attempts(
    attempts: Sequence[Attempt],
    group_size: int,
    prefix: str,
    rewards: np.ndarray | None = None,
) -> dict[str, float]:
    """What one stream of attempts says of the policy. Names start with `prefix`/.

    Args:
      attempts: [n * group_size], group-major: attempts[i * group_size + j] is the j-th of the
        i-th prompt.
      group_size: attempts per prompt.
      prefix: the stream's name, such as "base".
      rewards: [n, group_size], what the attempts earned; None: 1 if correct, else 0.

    Returns:
      Shares are of all attempts unless said otherwise, in [0, 1]; lengths in completion tokens,
      stop token included. Nothing for no attempts.
        reward/mean: mean reward, before any shaping or penalty.
        pass_rate: share of correct attempts.
        outcome/{correct,wrong,no_answer,timeout,error}: share of each outcome; they sum to 1.
        length/mean, length/p95: mean, and 95th percentile with linear interpolation.
        truncated: share that ran into the token limit.
        group/{all_right,all_wrong,mixed}: share of the n groups whose attempts are all correct,
          all not correct, or neither; with rewards of 1 and 0 only mixed groups give a
          group-relative gradient.

    Raises:
      ValueError: the number of attempts is not a multiple of `group_size`.
    """
    if len(attempts) % group_size:
        raise ValueError(f"{len(attempts)} attempts are not whole groups of {group_size}")
    if not attempts:
        return {}
    correct = np.array([a.correct for a in attempts])
    lengths = np.array([len(a.completion.tokens) for a in attempts])
    outcomes = [a.verdict.outcome for a in attempts]
    rights = correct.reshape(-1, group_size).sum(axis=1)
    all_right = float(np.mean(rights == group_size))
    all_wrong = float(np.mean(rights == 0))
    metrics = {
        "reward/mean": float(correct.mean() if rewards is None else rewards.mean()),
        "pass_rate": float(correct.mean()),
        **{f"outcome/{o.value}": outcomes.count(o) / len(outcomes) for o in Outcome},
        "length/mean": float(lengths.mean()),
        "length/p95": float(np.percentile(lengths, 95)),
        "truncated": float(np.mean([not a.completion.finished for a in attempts])),
        "group/all_right": all_right,
        "group/all_wrong": all_wrong,
        "group/mixed": float(np.mean((rights > 0) & (rights < group_size))),
    }
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def pass_rate_histogram(correct: np.ndarray) -> dict[str, float]:
    """pass_rate/{k}_of_G, for k from 0 to G: share of the groups ([N, G] bool) with k right."""
    groups, G = correct.shape
    counts = np.bincount(correct.sum(axis=1), minlength=G + 1)
    return {f"pass_rate/{k}_of_{G}": float(n / groups) for k, n in enumerate(counts)}


def transition(correction: Attempt) -> str:
    """Whether the quoted attempt, then the correction, was right: "r2r", "r2w", "w2r" or "w2w".

    Right means `Outcome.CORRECT`; every other outcome is wrong.

    Raises:
      ValueError: the attempt is not a correction.
    """
    if correction.prompt.anchor is None:
        raise ValueError(f"attempt at problem {correction.problem.id!r} has no anchor")
    return "wr"[correction.prompt.anchor.correct] + "2" + "wr"[correction.correct]


def transitions(corrections: Sequence[Attempt]) -> dict[str, float]:
    """How corrections changed the attempts they quote.

    With r2w the number of corrections that are wrong where the quoted attempt was right, and so
    on, and n = r2r + r2w + w2r + w2w:
        transition/{r2r,r2w,w2r,w2w}: share of n; they sum to 1.
        transition/{r2r,r2w,w2r,w2w}_count: the numbers themselves.
        correction/fix_rate: w2r / (w2r + w2w); absent if no quoted attempt was wrong.
        correction/break_rate: r2w / (r2r + r2w); absent if no quoted attempt was right.
        correction/retention: r2r / (r2r + r2w) = 1 - break_rate; absent likewise.
        correction/copy_rate: share of n whose text is the quoted attempt's, outer space aside.
        correction/answer_changed_frac: share of n whose extracted answer is another string than
          the quoted attempt's; no answer is equal to no answer only.

    Returns:
      The above; nothing for no corrections.

    Raises:
      ValueError: an attempt has no anchor.
    """
    if not corrections:
        return {}
    kinds = [transition(c) for c in corrections]
    n = len(kinds)
    count = {kind: kinds.count(kind) for kind in ("r2r", "r2w", "w2r", "w2w")}
    pairs = [(c.prompt.anchor, c) for c in corrections if c.prompt.anchor is not None]
    copied = sum(a.text.strip() == c.text.strip() for a, c in pairs)
    changed = sum(a.verdict.extracted != c.verdict.extracted for a, c in pairs)
    metrics = {f"transition/{kind}": number / n for kind, number in count.items()}
    metrics |= {f"transition/{kind}_count": float(number) for kind, number in count.items()}
    metrics |= {"correction/copy_rate": copied / n, "correction/answer_changed_frac": changed / n}
    if wrong := count["w2r"] + count["w2w"]:
        metrics["correction/fix_rate"] = count["w2r"] / wrong
    if right := count["r2r"] + count["r2w"]:
        metrics["correction/retention"] = count["r2r"] / right
        metrics["correction/break_rate"] = count["r2w"] / right
    return metrics


def anchor_metrics(anchors: Selection, prompts: Sequence[Prompt]) -> dict[str, float]:
    """What was put back; nothing without anchors.

    anchor/count; anchor/realised_success_share: share of right ones; anchor/fallback_frac: share
    from problems outside the difficulty band; anchor/trimmed_frac: share of prompts whose quoted
    attempt was cut.
    """
    if not len(anchors):
        return {}
    return {
        "anchor/count": float(len(anchors)),
        "anchor/realised_success_share": float(anchors.right.mean()),
        "anchor/fallback_frac": float(1 - anchors.in_band.mean()),
        "anchor/trimmed_frac": float(np.mean([p.trimmed for p in prompts])),
    }


def of_streams_in_use(device_metrics: Mapping[str, Any]) -> dict[str, float]:
    """The train step's metrics as floats, without those of a stream that had no tokens."""
    empty = [s for s in STREAMS if device_metrics[f"{s}/tokens"] == 0]
    return {
        name: float(value)
        for name, value in device_metrics.items()
        if not any(name.startswith(f"{s}/") or name == f"loss/{s}" for s in empty)
    }


# What the terminal shows of a step: (label, metric, how a value is written).
_STEP_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("reward", "base/reward/mean", "{:.3f}".format),
    ("corr", "correction/reward/mean", "{:.3f}".format),
    ("fix", "correction/fix_rate", "{:.2f}".format),
    ("break", "correction/break_rate", "{:.2f}".format),
    ("rho", "replay/rho", "{:.2f}".format),
    ("loss", "loss/total", "{:+.4f}".format),
    ("grad", "grad_norm", "{:.2f}".format),
    ("len", "base/length/mean", "{:.0f}".format),
    ("time", "time/step", "{:.1f}s".format),
)


def format_step_line(
    step: int, num_steps: int, scalars: Mapping[str, float], seconds_left: float
) -> str:
    """One terminal line for a train step: rewards, fix / break rates, rho, loss, gradient norm,
    length in tokens, wall time, time left. Metrics the step does not have are left out.

    Args:
      step: the number of steps done.
      num_steps: of the whole run.
      scalars: the step's metrics by name.
      seconds_left: the estimate for the rest of the run.
    """
    parts = [f"step {step:>{len(str(num_steps))}}/{num_steps}"]
    parts += [f"{label} {show(scalars[k])}" for label, k, show in _STEP_COLUMNS if k in scalars]
    parts.append(f"eta {format_duration(seconds_left)}")
    return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour; "?" if not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


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
