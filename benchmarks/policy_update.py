"""The policy update: trained tokens a second and peak memory, against the peers'.

    python benchmarks/policy_update.py
    python benchmarks/policy_update.py --peer --peer-python=PATH/bin/python --json=update.json

An update learns from 8 groups of 8 completions; a group has one prompt, of 64 tokens, and its
completions have 128 each. Models S and M of `generation.py` in float32, clip loss, AdamW, no
recomputation (`remat` none). Ours is what a run calls, with the rows that a run derives, and
includes packing: completions in a row share their prompt, which the longer rows of M have room for.
JAX makes `--devices` of the CPU, which share the rows, and the loop over layers is unrolled
(`unroll`). The peer (`--peer`) is TRL's GRPOTrainer in torch on CPU, which gets such sequences
instead of sampling them. PATH is a virtual environment after `pip install torch trl` (torch's CPU
build will do). With `--tunix-python=PATH/bin/python`, an environment after `pip install
google-tunix`, tunix's GRPOLearner takes part in the same way.

Each contender has its own process; they start together and take turns. A rate counts completion
tokens; a number is the median over the turns (lowest to highest). Peak memory is that of the whole
process with its libraries; "before" is what it had when it was ready. If other work runs on the
machine, rely on CPU-seconds rather than the clock. `--peer-threads=1` may then suit torch better,
because its threads spin while they wait for a core.

`--peer-microbatch` is the sequences of a peer's gradient accumulation step. More sequences take
more memory, and on CPU no less time.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from generation import MODELS
from peers.turns import Measured, Turns, spread, spread_text, take_turns, write_json

from cipo_jax.config.keys import Config, Correction, Data, Rollout
from cipo_jax.policy import model, sharding
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.run.sizes import with_sizes
from cipo_jax.run.update import Policy, make_policy_update, make_score
from cipo_jax.types import BASE

OURS, PEER, TUNIX = "cipo_jax", "TRL", "tunix"
CORES = len(os.sched_getaffinity(0))
PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers")
SCRIPTS = {PEER: "trl_grpo.py", TUNIX: "tunix_grpo.py"}


@dataclasses.dataclass(frozen=True)
class Work:
    """An update: a model, devices, sequences by group, their tokens, and the sequences of a peer's
    microbatch; ours is derived."""

    model: str
    devices: int = 1
    problems: int = 8
    group: int = 8
    prompt: int = 64
    response: int = 128
    microbatch: int = 8


def contend(work: Work) -> None:
    """Takes turns at our update."""
    turns = Turns()
    sharding.make_cpu_devices(work.devices)
    shape = MODELS[work.model]
    shape = dataclasses.replace(shape, unroll=shape.num_layers)
    mesh = sharding.make_mesh(data=-1, fsdp=1)
    config = Config(
        data=Data(max_prompt_tokens=work.prompt, max_completion_tokens=work.response),
        rollout=Rollout(problems_per_step=work.problems, group_size=work.group),
        correction=Correction(weight=0.0),
    )
    score = make_score(shape, mesh, config.sampling.temperature)
    policy = Policy(mesh, shape, score, work.prompt, work.prompt, work.response)
    config = with_sizes(config, policy)
    update = make_policy_update(config, policy, optax.constant_schedule(1e-4))
    rng = np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(0, shape.vocab_size, count).astype(np.int32)

    old = np.full(work.response, -np.log(shape.vocab_size), np.float32)
    members = [
        TrainSequence(prompt, tokens(work.response), old, rng.normal(), BASE, group)
        for group, prompt in enumerate(tokens(work.prompt) for _ in range(work.problems))
        for _ in range(work.group)
    ]
    with jax.set_mesh(mesh):
        state = update.init(model.init_params(shape, jax.random.key(0), mesh))

        def step() -> Measured:
            nonlocal state
            state, metrics = update.step(state, update.pack(members))
            return {
                "trained_tokens": float(
                    jax.block_until_ready((state, metrics))[1]["base/trained_tokens"]
                )
            }

        turns.serve(step)


def our_command(script: str, work: Any) -> list[str]:
    """Starts `script` as a contender."""
    return [sys.executable, script, f"--contender={json.dumps(dataclasses.asdict(work))}"]


def peer_command(
    python: str, work: Any, shape: model.ModelConfig, peer: str = PEER, **more: Any
) -> list[str]:
    """Starts `peer` on the same work, with `more` settings."""
    told = {**dataclasses.asdict(work), "shape": dataclasses.asdict(shape), **more}
    return [python, os.path.join(PEERS, SCRIPTS[peer]), json.dumps(told)]


def peer_commands(
    options: argparse.Namespace, work: Any, shape: model.ModelConfig, update_only: bool
) -> dict[str, list[str]]:
    """Starts the peers that were asked for, by name."""
    pythons = {PEER: options.peer and options.peer_python, TUNIX: options.tunix_python}
    microbatch = min(options.peer_microbatch, work.problems * work.group)
    work = dataclasses.replace(work, microbatch=microbatch)
    told = {"threads": options.peer_threads, "update_only": update_only}
    return {p: peer_command(at, work, shape, p, **told) for p, at in pythons.items() if at}


def add_peer_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", action="store_true", help="TRL as well, see --peer-python")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has trl")
    parser.add_argument("--peer-threads", type=int, default=CORES, help="of torch")
    parser.add_argument("--devices", type=int, default=CORES, help="that our rows are split over")
    parser.add_argument("--json", metavar="FILE", help="also write the results there")


def compare(turns: dict[str, list[Measured]], tokens: str) -> dict[str, dict[str, Any]]:
    """{contender: numbers}: spreads of "seconds", "cpu_seconds", "tokens_per_second" and
    "tokens_per_cpu_second" (of what the field `tokens` counts), "peak_bytes", "idle_bytes", and by
    what factor medians of seconds and CPU-seconds are over ours, "over_ours", "over_ours_by_cpu".
    """
    compared: dict[str, dict[str, Any]] = {}
    for name, taken in turns.items():
        wall, cpu = ([t[key] for t in taken] for key in ("seconds", "cpu_seconds"))
        counts = [t[tokens] for t in taken]
        compared[name] = {
            "seconds": spread(wall),
            "cpu_seconds": spread(cpu),
            "tokens_per_second": spread([n / s for n, s in zip(counts, wall, strict=True)]),
            "tokens_per_cpu_second": spread([n / s for n, s in zip(counts, cpu, strict=True)]),
            tokens: spread(counts),
            "peak_bytes": max(t["peak_bytes"] for t in taken),
            "idle_bytes": taken[0]["idle_bytes"],
        }
    ours = compared[OURS]
    for found in compared.values():
        for key, ratio in (("seconds", "over_ours"), ("cpu_seconds", "over_ours_by_cpu")):
            found[ratio] = found[key]["median"] / ours[key]["median"]
    return compared


def print_comparison(compared: dict[str, dict[str, Any]]) -> None:
    for name, found in compared.items():
        print(
            f"  {name:9} {spread_text(found['seconds'])} s, "
            f"{spread_text(found['tokens_per_second'], ',.0f')} tokens/s, "
            f"{found['tokens_per_cpu_second']['median']:,.0f} tokens/CPU-s, "
            f"peak {found['peak_bytes'] / 2**20:,.0f} MiB ({found['idle_bytes'] / 2**20:,.0f} "
            f"before); takes {found['over_ours']:.2f}x our time, "
            f"{found['over_ours_by_cpu']:.2f}x our CPU time",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="S,M", help="comma-separated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="4 short sequences, to try it out")
    parser.add_argument("--peer-microbatch", type=int, default=Work.microbatch)
    parser.add_argument("--tunix-python", help="tunix as well: a Python that has google-tunix")
    parser.add_argument("--contender", type=json.loads, help=argparse.SUPPRESS)
    add_peer_options(parser)
    options = parser.parse_args(argv)
    if options.contender:
        contend(Work(**options.contender))
        return
    results = {}
    for name in options.models.split(","):
        work = Work(name, options.devices)
        if options.quick:
            small: dict[str, Any] = {"problems": 2, "group": 2, "prompt": 8, "response": 8}
            work = dataclasses.replace(work, **small)
        commands = {OURS: our_command(__file__, work)}
        commands |= peer_commands(options, work, MODELS[name], update_only=True)
        compared = compare(take_turns(commands, options.repeats), "trained_tokens")
        results[name] = {"work": dataclasses.asdict(work), "contenders": compared}
        print(
            f"{name}: update of {work.problems * work.group} sequences of {work.prompt} + "
            f"{work.response} tokens, load {os.getloadavg()[0]:.1f}"
        )
        print_comparison(compared)
    write_json(options.json, results)


if __name__ == "__main__":
    main()
