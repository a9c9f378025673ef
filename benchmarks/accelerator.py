"""Decoding, the update and a whole RL step on one GPU or TPU chip, against what it could do.

    python benchmarks/accelerator.py
    python benchmarks/accelerator.py --model=qwen3-4b --peer --json=accelerator.json
    python benchmarks/accelerator.py --model=tiny --peer       tries everything, on any machine

Weights are random; compute is bfloat16 (float32 on CPU); the update has float32 weights and Adam. A
number is the median (lowest to highest) over `--repeats` after a warm-up that compiles. If a size
does not fit into the device's memory, the output says so, and the other sizes go on.

    decode  The engine with 16 to 256 rows: prompts of 512 tokens, 512 new ones, no stop token.
            tokens/s counts new tokens; its time includes prefill. A decode step is measured while
            all rows are decoded and none is prefilled. It has to read the weights, and the keys and
            values of the live tokens: their bytes at the memory's bandwidth are the roofline.
    update  What training calls: sequences of both streams packed into rows of 4,096 tokens, one
            compiled step. Tokens include prompts. MFU counts the model's own FLOPs
            (`speed.update_flops`), not those that remat repeats.
    step    The metrics of a run of `cipo_jax.main` with configs/math.py at sizes for one device:
            rollout, verdicts, anchors, corrections, verdicts, update. Answers are right or wrong by
            chance and of random lengths: each token ends one with probability 1/512. The run ends
            with a checkpoint of 12 bytes a parameter in a temporary directory (see TMPDIR). The
            part is skipped if there is no room for it.
    peer    (`--peer`) transformers' `generate` at 64 rows of the decode work, in torch on the same
            kind of device; skipped if torch cannot use it.

Each part is its own process, one after the other, so that none takes another's memory. On a machine
with several devices leave one visible (CUDA_VISIBLE_DEVICES=0). `--work` changes any field of
`Work`, as in --work='{"rows": [64], "remat": "dots"}'. Nothing here was run on a GPU or TPU yet.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from one_device.decode import HBM_BANDWIDTH, measure_decode
from one_device.step import measure_step
from one_device.update import measure_update
from one_device.work import MODELS, TINY, Work
from peers.transformers_generate import measure_peer
from peers.turns import spread_text, write_json

from cipo_jax.run.watch.speed import PEAK_FLOPS


def describe_device(work: Work) -> dict[str, Any]:
    """The device and the software that were measured."""
    del work
    found = jax.devices()
    stats = found[0].memory_stats() or {}
    return {
        "platform": found[0].platform,
        "kind": found[0].device_kind,
        "count": len(found),
        "memory_bytes": stats.get("bytes_limit"),
        "jax": jax.__version__,
    }


PARTS: dict[str, Callable[[Work], Any]] = {
    "device": describe_device,
    "decode": measure_decode,
    "update": measure_update,
    "step": measure_step,
    "peer": measure_peer,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="qwen3-0.6b")
    parser.add_argument("--parts", default="decode,update,step", help="comma-separated")
    parser.add_argument("--peer", action="store_true", help="transformers as well; needs torch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=json.loads, default={}, help="json: fields of Work")
    parser.add_argument("--json", metavar="FILE", help="also write the results there")
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)  # in this process
    options = parser.parse_args(argv)
    if options.measure:
        write_json(options.json, PARTS[options.measure](Work(**options.work)))
        return
    parts = [*filter(None, options.parts.split(",")), *["peer"] * options.peer]
    if unknown := set(parts) - set(PARTS):
        parser.error(
            f"--parts: got {', '.join(sorted(unknown))}, wanted some of {', '.join(PARTS)}"
        )
    if unknown := set(options.work) - {field.name for field in dataclasses.fields(Work)}:
        parser.error(f"--work: got {', '.join(sorted(unknown))}, wanted fields of Work")
    results: dict[str, Any] = {"device": in_own_process("device", Work(options.model))}
    device = results["device"]
    if "failed" in device:
        raise SystemExit("JAX finds no device")
    fields: dict[str, Any] = {
        "platform": device["platform"],
        "compute_dtype": "float32" if device["platform"] == "cpu" else "bfloat16",
        "repeats": options.repeats,
    }
    fields |= (TINY if options.model == "tiny" else {}) | options.work
    work = Work(options.model, **fields)
    results["work"] = dataclasses.asdict(work)
    print(f"{work.model} in {work.compute_dtype} on {device['kind']}, jax {device['jax']}")
    for part in parts:
        results[part] = in_own_process(part, work)
        if part == "peer":
            results[part] |= over_peer(results.get("decode", []), results[part])
        print_part(part, results[part])
        write_json(options.json, results)  # kept if a later part never ends
    for part, name, table in (("decode", "share", HBM_BANDWIDTH), ("update", "mfu", PEAK_FLOPS)):
        if part in parts and device["kind"] not in table:
            print(f"no {name}: what {device['kind']!r} could reach is not known")
    if any("failed" in results[part] for part in parts):
        raise SystemExit(1)


def in_own_process(part: str, work: Work) -> Any:
    """What a part measures, from its own process; {"failed": ...} if that fails."""
    with tempfile.NamedTemporaryFile() as file:
        fields = json.dumps(dataclasses.asdict(work))
        command = [sys.executable, __file__, f"--measure={part}", f"--work={fields}"]
        # Nothing else runs on the device: by default JAX would take three quarters of a GPU.
        memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}
        status = subprocess.run([*command, f"--json={file.name}"], env=memory | os.environ)
        if status.returncode:
            return {"failed": f"exit status {status.returncode}; standard error says why"}
        return json.loads(Path(file.name).read_text())


def over_peer(decode: list[dict[str, Any]], peer: dict[str, Any]) -> dict[str, float]:
    """{"engine_faster_by": ratio of tokens/s}, if both have been measured at the peer's rows."""
    for row in decode:
        if "tokens_per_second" in row and row["rows"] == peer.get("rows"):
            ours, theirs = (x["tokens_per_second"]["median"] for x in (row, peer))
            return {"engine_faster_by": ours / theirs}
    return {}


def print_part(part: str, found: Any) -> None:
    """A line for each number; spreads as median (lowest to highest)."""
    for row in found if isinstance(found, list) else [found]:
        print(part)
        for name, value in row.items():
            text = spread_text(value, ",.5g") if isinstance(value, dict) else value
            if isinstance(value, float | int):
                text = f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"
            print(f"    {name:38} {text}", flush=True)


if __name__ == "__main__":
    main()
