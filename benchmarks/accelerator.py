"""One GPU, or one TPU chip: decoding, the update and a whole RL step, against what it could do.

    python benchmarks/accelerator.py
    python benchmarks/accelerator.py --model=qwen3-4b --peer --json=accelerator.json
    python benchmarks/accelerator.py --model=tiny --peer       tries everything out, on any machine

Random weights of the model's shape; bfloat16 compute (float32 on CPU), float32 weights and Adam in
the update. A number is the median over `--repeats` after a warm-up that compiles (and the lowest
and highest). Where the device has no memory for a size, that is said, and the others go on.

    decode  The engine with 16 to 256 rows: prompts of 512 tokens, 512 new ones, no stop token.
            tokens/s is of new tokens, prefill included. A decode step is measured while all rows
            are being decoded and none are prefilled; it has to read the weights, and the keys and
            values of the live tokens. That at the memory's bandwidth is the roofline, and over the
            measured time the share reached.
    update  What training calls: sequences of both streams packed into rows of 4,096 tokens, one
            compiled step. Tokens are those of the sequences, prompts included. MFU counts the
            model's own FLOPs (`speed.update_flops`), not those that remat repeats.
    step    A run of `cipo_jax.main` by configs/math.py at sizes for one device: rollout, verdicts,
            anchors, corrections, verdicts, update; what its metrics say. Answers are right or wrong
            by chance, and of random lengths: each token ends one with probability 1/512. The run
            ends with a checkpoint of 12 bytes a parameter in a temporary directory (TMPDIR says
            where); without room for it the part is skipped.
    peer    (`--peer`) transformers' `generate` at 64 rows of the decode work, in torch on the same
            kind of device; skipped if torch cannot use it.

Each part is a process of its own, one after the other: none finds memory taken by another. On a
machine with several devices leave one visible (CUDA_VISIBLE_DEVICES=0). `--work` changes any field
of `Work`, as --work='{"rows": [64], "remat": "dots"}'. Nothing here has been run on a GPU or TPU
yet: figures for them are open.
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
    """What the numbers are of."""
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
        write_json(options.json, results)  # what there is, should a later part never end
    for part, name, table in (("decode", "share", HBM_BANDWIDTH), ("update", "mfu", PEAK_FLOPS)):
        if part in parts and device["kind"] not in table:
            print(f"no {name}: what {device['kind']!r} could reach is not known")
    if any("failed" in results[part] for part in parts):
        raise SystemExit(1)


def in_own_process(part: str, work: Work) -> Any:
    """What a part measures; {"failed": ...} if its process does."""
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
