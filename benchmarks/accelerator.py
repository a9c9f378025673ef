"""Sampling, the update and a whole RL step on one GPU or TPU chip, against what it could do.

    python benchmarks/accelerator.py --source=checkpoints/SmolLM2-135M-Instruct
    python benchmarks/accelerator.py --model=qwen3-4b --parts=decode,update,step
    python benchmarks/accelerator.py --model=tiny       tries everything, on any machine

Weights are random; compute is bfloat16 (float32 on CPU); the update has float32 weights and Adam. A
number is the median (lowest to highest) over `--repeats` after a warm-up that compiles. If a size
does not fit into the device's memory, the output says so, and the other sizes go on.

    smoke   A small model on the device and on this machine's CPU: the same requests are sampled,
            the same sequences scored and trained on. Fails if they differ by more than rounding.
    decode  The engine with 64, 16 and 256 rows: prompts of 512 tokens, 512 new ones, no stop token.
            tokens/s counts new tokens; its time includes prefill. A decode step is measured while
            all rows are decoded and none is prefilled. It has to read the weights, and the keys and
            values of the live tokens: their bytes at the memory's bandwidth are the roofline.
    update  What training calls: sequences of both streams packed into rows of 4,096 tokens, one
            compiled step. Tokens include prompts. MFU counts the model's own FLOPs
            (`speed.update_flops`), not those that remat repeats.
    peer    transformers' `generate` at 64 rows of the decode work, in torch on the same kind of
            device; skipped if torch cannot use it.
    step    The metrics of a run of `cipo_jax.main` with configs/math.py at sizes for one device:
            rollout, verdicts, anchors, corrections, verdicts, update. Answers are right or wrong by
            chance and of random lengths: each token ends one with probability 1/512. The run ends
            with a checkpoint of 12 bytes a parameter in a temporary directory (see TMPDIR). The
            part is skipped if there is no room for it.
    small   20 CIPO steps of configs/small.py on a pretrained model; skipped without
            `--source=DIRECTORY` of one.

Parts run in this order, the most important first, each in its own process, so that none takes
another's memory. Each figure is printed, and written to `--json`, as it comes. A part that takes
longer than its share of `--minutes` is ended; what it has found is kept. With several devices in
the machine leave one visible (CUDA_VISIBLE_DEVICES=0). `--work` changes any field of `Work`, as in
--work='{"rows": [64], "remat": "dots"}'. Nothing here was run on a GPU or TPU yet; tests run all
parts with the programs of a GPU, whose kernels are interpreted.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from one_device.decode import HBM_BANDWIDTH, measure_decode
from one_device.small import measure_small
from one_device.smoke import measure_smoke
from one_device.step import measure_step
from one_device.update import measure_update
from one_device.work import MODELS, TINY, Work
from peers.transformers_generate import measure_peer
from peers.turns import spread_text, write_json

from cipo_jax.run.watch.speed import PEAK_FLOPS

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """Something to measure.

    Attributes:
      measure: yields a row for each size.
      share: of the time, at most; what earlier parts leave is there for later ones.
    """

    measure: Callable[[Work], Iterable[Row]]
    share: float


def describe_device(work: Work) -> list[Row]:
    """The device and the software that were measured."""
    del work
    found = jax.devices()
    stats = found[0].memory_stats() or {}
    return [
        {
            "platform": found[0].platform,
            "kind": found[0].device_kind,
            "count": len(found),
            "memory_bytes": stats.get("bytes_limit"),
            "jax": jax.__version__,
        }
    ]


PROGRAM = (sys.executable, __file__)
PARTS = {
    "smoke": Part(measure_smoke, 0.2),
    "decode": Part(measure_decode, 0.5),
    "update": Part(measure_update, 0.3),
    "peer": Part(measure_peer, 0.2),
    "step": Part(measure_step, 0.5),
    "small": Part(measure_small, 1.0),
}
ALL_PARTS = {"device": Part(describe_device, 0.2), **PARTS}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="qwen3-0.6b")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--source", default="", help="of a pretrained model, for the part small")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together")
    parser.add_argument("--work", type=json.loads, default={}, help="json: fields of Work")
    parser.add_argument("--json", metavar="FILE", default="accelerator.json", help="the results")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in this process
    options = parser.parse_args(argv)
    file = Path(options.json)
    if options.measure:
        measure(options.measure, Work(**options.work), file)
        return
    parts = list(filter(None, options.parts.split(",")))
    if unknown := set(parts) - set(PARTS):
        parser.error(
            f"--parts: got {', '.join(sorted(unknown))}, wanted some of {', '.join(PARTS)}"
        )
    if unknown := set(options.work) - {field.name for field in dataclasses.fields(Work)}:
        parser.error(f"--work: got {', '.join(sorted(unknown))}, wanted fields of Work")
    time_left = TimeLeft(60 * options.minutes)
    write_json(str(file), {})
    device, *_ = in_own_process("device", Work(options.model), time_left, file)
    if "failed" in device:
        raise SystemExit("JAX finds no device")
    fields: dict[str, Any] = {
        "platform": device["platform"],
        "compute_dtype": "float32" if device["platform"] == "cpu" else "bfloat16",
        "repeats": options.repeats,
        "source": options.source,
    }
    fields |= (TINY if options.model == "tiny" else {}) | options.work
    work = Work(options.model, **fields)
    add(file, "work", dataclasses.asdict(work))
    print(f"{work.model} in {work.compute_dtype} on {device['kind']}, jax {device['jax']}")
    found: dict[str, list[Row]] = {}
    for name in (name for name in PARTS if name in parts):
        found[name] = in_own_process(name, work, time_left, file)
        if name == "peer" and (ratio := over_peer(found.get("decode", []), found[name])):
            print_row("over peer", ratio)
            add(file, "over peer", ratio)
    for part, name, table in (("decode", "share", HBM_BANDWIDTH), ("update", "mfu", PEAK_FLOPS)):
        if part in parts and device["kind"] not in table:
            print(f"no {name}: what {device['kind']!r} could reach is not known")
    if any("failed" in row for rows in found.values() for row in rows):
        raise SystemExit(1)


def measure(name: str, work: Work, file: Path) -> None:
    """A part in this process: prints each row as it comes, and adds it to the results."""
    rows: list[Row] = []
    for row in ALL_PARTS[name].measure(work):
        rows.append(row)
        print_row(name, row)
        add(file, name, rows)


def add(file: Path, name: str, found: Any) -> None:
    """Writes the results in a file with one more, or another one of this name; at once, since the
    process may be ended at any time."""
    beside = file.with_suffix(".new")
    write_json(str(beside), json.loads(file.read_text()) | {name: found})
    beside.replace(file)


class TimeLeft:
    """Of so many seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._end = seconds, time.monotonic() + seconds

    def of(self, part: Part) -> float:
        """Seconds that a part may take."""
        return min(part.share * self.seconds, self._end - time.monotonic())


def in_own_process(name: str, work: Work, time_left: TimeLeft, file: Path) -> list[Row]:
    """What a part measures, in its own process, until its share of the time is over; the last row
    is {"failed": ...} or {"stopped": ...} if it does not end by itself."""
    limit = time_left.of(ALL_PARTS[name])
    fields = json.dumps(dataclasses.asdict(work))
    command = [*PROGRAM, f"--measure={name}", f"--work={fields}", f"--json={file}"]
    # Nothing else runs on the device: by default JAX would take three quarters of a GPU.
    memory = {"XLA_CLIENT_MEM_FRACTION": "0.92"}
    more: list[Row] = []
    process = subprocess.Popen(command, env=memory | os.environ, start_new_session=True)
    try:
        if status := process.wait(max(0, limit)):
            more = [{"failed": f"exit status {status}; standard error says why"}]
    except subprocess.TimeoutExpired:
        more = [{"stopped": f"after {limit:.0f} s, its share of the time that was left"}]
    finally:
        end_session(process)
    found = json.loads(file.read_text()).get(name, [])
    if more:
        print_row(name, more[0])
        add(file, name, found + more)
    return [*found, *more]


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and what it has started, if anything of that still runs."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def over_peer(decode: list[Row], peer: list[Row]) -> Row:
    """{"engine_faster_by": ratio of tokens/s}, if both have been measured at the peer's rows."""
    for row in decode:
        for other in peer:
            if "tokens_per_second" in row and row["rows"] == other.get("rows"):
                ours, theirs = (x["tokens_per_second"]["median"] for x in (row, other))
                return {"engine_faster_by": ours / theirs}
    return {}


def print_row(part: str, row: Row) -> None:
    """A line for each number; spreads as median (lowest to highest)."""
    print(part)
    for name, value in row.items():
        text = spread_text(value, ",.5g") if isinstance(value, dict) else value
        if isinstance(value, float | int) and not isinstance(value, bool):
            text = f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"
        print(f"    {name:38} {text}", flush=True)


if __name__ == "__main__":
    main()
