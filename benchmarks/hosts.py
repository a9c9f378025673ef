"""What grows with the number of hosts: a step's host side, simulated, and checked by processes.

    JAX_PLATFORMS=cpu python benchmarks/hosts.py
    JAX_PLATFORMS=cpu python benchmarks/hosts.py --processes=1,2,4,8

The first prints, for one step of configs/math.py (1,024 attempts, 512 corrections, 2,000 tokens on
average) on hosts with four v5p chips each:

    sampling     seconds until the last host has its completions, by `run/forecast/decoding`
    math,        seconds from then to the last verdict, each host with its own queue, of answers
    programs     and of programs; "shared": with one queue for the workers of all hosts, which is
                 the most that balancing could gain
    payload,     MB that all hosts send together (`run/hosts/exchange`), and what each receives,
    received     padded to the largest (`processes.row_bytes`)
    store        entries that the coordinator's store sends in a second, counted on the watchers
                 themselves; "everyone": if every host read the signs of life of all others
    files        of a checkpoint, and seconds to ask a bucket about all of them as `run/records/
    asking       manifest` does; "in turn": one question after the other

MB, files and entries are counts. Seconds are by the assumptions of `run/forecast`, those of the
checkpoint by ASK_SECONDS for each question.

With --processes, real ones gather such payloads, of --attempts completions, and save a checkpoint
together. Bytes and files must be those of the simulation, or it fails; seconds are of this machine.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from paper_times import MEAN_TOKENS, MODELS
from peers.turns import write_json

from cipo_jax.config import load_file
from cipo_jax.config.resolve import changed_config, resolve
from cipo_jax.policy.published import SHAPES
from cipo_jax.run.devices.topology import paper_devices
from cipo_jax.run.forecast.assumptions import Assumptions
from cipo_jax.run.forecast.decoding import simulate
from cipo_jax.run.forecast.lengths import completion_lengths
from cipo_jax.run.forecast.machine import one_hosts_sampler
from cipo_jax.run.forecast.timeline import with_published_shape
from cipo_jax.run.forecast.verification import judged_at, judging_seconds
from cipo_jax.run.hosts.exchange import Judged, decode, encode
from cipo_jax.run.hosts.preemption import Notice
from cipo_jax.run.hosts.processes import (
    WATCH_SECONDS,
    Hosts,
    Watcher,
    connect,
    row_bytes,
    share_of,
)
from cipo_jax.run.memory_plan import open_shapes
from cipo_jax.run.records.manifest import ASKERS
from cipo_jax.types import Completion, Outcome, Verdict

# Hosts with four chips each: the slice, and over how many chips parameters are split.
SLICES = {
    1: ("v5p:2x2x1", 4),
    4: ("v5p:2x2x4", 16),
    16: ("v5p:4x4x4", 64),
    64: ("v5p:4x8x8", 64),
    256: ("v5p:8x8x16", 64),
}
PROMPT_TOKENS = 256
LIMIT = 8192  # tokens of a completion of real processes
TEXT_PER_TOKEN = 4  # characters
ASK_SECONDS = 0.03  # for a bucket to answer a question about a file or a directory; assumed
# What a checkpoint holds, as --processes counts it where a host's part of an array is one file: its
# items of arrays; files of an item, of a host in an item, and the rest; likewise of directories.
ITEMS = 2
FILES = {"item": 6, "host": 3, "rest": 7}
DIRECTORIES = {"item": 3, "host": 2, "rest": 2}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hosts", default=",".join(map(str, SLICES)), help="comma-separated")
    parser.add_argument("--sampling-tensor", type=int, default=0, help="0: derived")
    parser.add_argument("--processes", default="", help="real ones; comma-separated")
    parser.add_argument(
        "--attempts", type=int, default=256, help="that real processes gather; a multiple of 8"
    )
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        port, count, index, attempts, directory = options.worker
        found = work(port, int(count), int(index), int(attempts), Path(directory))
        print(json.dumps(found), flush=True)
        return
    results = {}
    for count in map(int, (options.processes or options.hosts).split(",")):
        if options.processes:
            results[f"{count} processes"] = found = run_processes(count, options.attempts)
        else:
            changes = {"sampling.tensor": options.sampling_tensor}
            results[f"{count} hosts"] = found = simulate_hosts(count, *SLICES[count], changes)
        print(f"{count:3}  {'  '.join(f'{k} {v:g}' for k, v in found.items())}", flush=True)
    write_json(options.json, results)


# The simulation.


def simulate_hosts(
    count: int, topology: str, fsdp: int, changes: Mapping[str, Any]
) -> dict[str, float]:
    """A step of configs/math.py on `count` hosts, see the head of this file.

    Args:
      changes: {"section.key": value} of the config.
    """
    raw = load_file("../configs/math.py", beside=__file__).get_config()
    config = changed_config(
        with_published_shape(resolve(raw)), {"mesh.data": -1, "mesh.fsdp": fsdp, **changes}
    )
    shapes = open_shapes(config, paper_devices(topology), SHAPES[MODELS["Qwen3-4B"]])
    a, rng = Assumptions(), np.random.default_rng(0)
    settings, shards, shard = one_hosts_sampler(shapes, a)
    names = ("sampling", "math", "math shared", "programs", "programs shared")
    found = dict.fromkeys((*names, "payload MB", "received MB"), 0.0)
    r, k, limit = config.rollout, config.correction, config.data.max_completion_tokens
    for prompts, samples, tokens in (
        (r.problems_per_step, r.group_size, PROMPT_TOKENS),
        (config.num_anchors, k.group_size, PROMPT_TOKENS + MEAN_TOKENS),
    ):
        mean = min(MEAN_TOKENS, limit / 4)
        lengths = completion_lengths(prompts * samples, mean, limit, a.length_sigma, rng)
        lengths = lengths.reshape(prompts, samples)
        finished = []
        for own in (share_of(prompts, host, count) for host in range(count)):
            if own:
                asked = [tokens] * len(own), lengths[own.start : own.stop]
                finished.append(simulate(settings, shards, shard, *asked, a.turn_seconds).finished)
        sampled = max(map(np.max, finished))
        found["sampling"] += sampled
        for kind, seconds in (("math", a.judge_seconds), ("programs", a.program_seconds)):
            timeout = config.verifier.timeout_seconds
            own, shared = last_verdicts(finished, count, seconds, timeout, a)
            found[kind] += own - sampled
            found[f"{kind} shared"] += shared - sampled
        payload, received = gathered_bytes(lengths, count)
        found["payload MB"] += payload / 1e6
        found["received MB"] += received / 1e6
    found |= store_entries(count) | checkpoint_questions(count)
    return {name: round(float(value), 3) for name, value in found.items()}


def last_verdicts(
    finished: Sequence[np.ndarray], hosts: int, mean: float, limit: float, a: Assumptions
) -> tuple[float, float]:
    """When the last verdict is there: with a queue on each host, and with one of all workers.

    Args:
      finished: of each host that has some, when its completions come.
      mean, limit: seconds of an item.
    """
    arrivals = np.concatenate(finished)
    rng = np.random.default_rng(1)
    seconds = judging_seconds(len(arrivals), mean, a.judge_sigma, a.hanging, limit, rng)
    parts = np.split(seconds, np.cumsum([len(times) for times in finished])[:-1])
    own = (
        judged_at(t.tolist(), s.tolist(), a.workers) for t, s in zip(finished, parts, strict=True)
    )
    shared = judged_at(arrivals.tolist(), seconds.tolist(), hosts * a.workers)
    return max(map(max, own)), max(shared)


def gathered_bytes(lengths: np.ndarray, hosts: int) -> tuple[int, int]:
    """(of all payloads, that each host receives) of attempts of `lengths` [prompts, samples]."""
    shares = (share_of(len(lengths), host, hosts) for host in range(hosts))
    sizes = [len(payload(lengths[own.start : own.stop].reshape(-1))) for own in shares]
    return sum(sizes), 0 if hosts == 1 else hosts * row_bytes(max(sizes))


def payload(lengths: Sequence[int]) -> bytes:
    """What a host sends of attempts of these lengths."""
    return encode([judged(int(length)) for length in lengths])


def judged(length: int) -> Judged:
    tokens = np.arange(length, dtype=np.int32)
    completion = Completion(tokens, np.full(length, -0.5, np.float32), True)
    return completion, "x" * (TEXT_PER_TOKEN * length), Verdict(Outcome.WRONG, "7", "not 8", 0.25)


class Store:
    """A key-value store that counts the entries it sends."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.sent = 0

    def key_value_set(self, key: str, value: str, allow_overwrite: bool) -> None:
        self.entries[key] = value

    def key_value_dir_get(self, place: str) -> list[tuple[str, str]]:
        found = [entry for entry in self.entries.items() if entry[0].startswith(place)]
        self.sent += len(found)
        return found


def store_entries(count: int) -> dict[str, float]:
    """Entries a second that the watchers of `count` hosts read, and if each read those of all."""
    store = Store()
    hosts: list[Any] = [
        SimpleNamespace(count=count, index=i, first=i == 0, failure=None, notice=Notice())
        for i in range(count if count > 1 else 0)  # one alone is not watched
    ]
    watchers = [Watcher(host, store, begin=False) for host in hosts]
    for turn in range(2):  # in the first, some have not shown a sign yet
        store.sent = 0
        for watcher in watchers:
            watcher.look(turn * WATCH_SECONDS)
    return {
        "store entries/s": store.sent / WATCH_SECONDS,
        "everyone": len(hosts) ** 2 / WATCH_SECONDS,
    }


def checkpoint_entries(hosts: int) -> tuple[int, int]:
    """Files and directories in a checkpoint's directory."""
    files, directories = (
        ITEMS * (of["item"] + hosts * of["host"]) + of["rest"] for of in (FILES, DIRECTORIES)
    )
    return files, directories


def checkpoint_questions(hosts: int) -> dict[str, float]:
    """Files of a checkpoint, and seconds until a bucket has told of all of them."""
    files, directories = checkpoint_entries(hosts)
    # Each directory is listed, what is in it is a file or a directory, and each file has a size.
    questions = directories + 1 + (files + directories) + files
    asked = questions * ASK_SECONDS
    return {"files": files, "asking": asked / ASKERS, "in turn": asked}


# Real processes.


def run_processes(count: int, attempts: int) -> dict[str, float]:
    """What `count` processes with one device each took, the slowest of them.

    Raises:
      RuntimeError: one failed, or sent, received or wrote something else than the simulation says.
    """
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        started = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", f"{port}", f"{count}", f"{i}"]
                + [f"{attempts}", directory],
                env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(count)
        ]
        try:
            ended = [process.communicate(timeout=1200) for process in started]
        finally:
            for process in started:
                process.kill()
        for process, (_, errors) in zip(started, ended, strict=True):
            if process.returncode:
                raise RuntimeError(f"a process failed: {errors[-2000:]}")
        found = [json.loads(out.splitlines()[-1]) for out, _ in ended]
        (saved,) = (path for path in Path(directory).iterdir() if path.name.startswith("step_"))
        files = sum(path.is_file() for path in saved.rglob("*"))
        directories = sum(path.is_dir() for path in saved.rglob("*"))
    lengths = real_lengths(attempts)
    sent, received = gathered_bytes(lengths, count)
    wanted = (sent, received, *checkpoint_entries(count))
    got = (sum(f["sent"] for f in found), found[0]["received"], files, directories)
    if got != wanted:
        raise RuntimeError(f"sent, received, files, directories: got {got}, simulated {wanted}")
    slowest = {name: max(f[name] for f in found) for name in found[0] if "seconds" in name}
    sizes = {"payload MB": sent / 1e6, "received MB": received / 1e6}
    return sizes | {"files": files, "directories": directories} | slowest


def real_lengths(attempts: int) -> np.ndarray:
    """[prompts, 8]."""
    rng = np.random.default_rng(0)
    sigma = Assumptions().length_sigma
    return completion_lengths(attempts, MEAN_TOKENS, LIMIT, sigma, rng).reshape(-1, 8)


def work(port: str, count: int, index: int, attempts: int, directory: Path) -> dict[str, float]:
    """One of several processes: gathers twice, the first time to compile, and saves."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from cipo_jax.policy.sharding import make_mesh
    from cipo_jax.rl.train_step import TrainState
    from cipo_jax.run.records.checkpoint import Checkpoints

    if count > 1:
        connect(f"localhost:{port}", count, index, 600)
    hosts, lengths = Hosts(), real_lengths(attempts)
    own = hosts.share(len(lengths))
    sent = payload(lengths[own.start : own.stop].reshape(-1))
    hosts.gather(sent)
    began, busy = time.perf_counter(), time.process_time()
    payloads = hosts.gather(sent)
    gathered = time.perf_counter()
    everyone = [len(c.tokens) for said in payloads for c, _, _ in decode(said)]
    decoded = time.perf_counter()
    if everyone != lengths.reshape(-1).tolist():
        raise RuntimeError("what was gathered is not what was sent")
    busy = time.process_time() - busy
    found = {
        "sent": len(sent),
        "received": count * row_bytes(max(map(len, payloads))) if count > 1 else 0,
        "seconds to gather": round(gathered - began, 3),
        "seconds to decode": round(decoded - gathered, 3),
        "CPU seconds of both": round(busy, 3),
    }
    by_chip = NamedSharding(make_mesh(), PartitionSpec("fsdp"))
    array = jax.make_array_from_callback(
        (8 * jax.device_count(),), by_chip, lambda at: np.zeros(8 * jax.device_count())[at]
    )
    state = TrainState(step=np.zeros((), np.int32), params={"w": array}, opt_state={"w": array})
    began = time.perf_counter()
    with Checkpoints(directory, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
    return found | {"seconds to save": round(time.perf_counter() - began, 3)}


if __name__ == "__main__":
    main()
