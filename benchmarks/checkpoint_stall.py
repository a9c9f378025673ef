"""How long saving its state delays training: in the background, and when training waits for it.

    python benchmarks/checkpoint_stall.py
    python benchmarks/checkpoint_stall.py --models=16M --repeats=5 --json=stall.json

A turn is a few updates of a random model with AdamW (16 and 101 million parameters; the state has
three arrays of that size in float32). There are three kinds of turn, which alternate. In the first,
nothing is saved. In the others, the run's own `Checkpoints` saves the state before the first
update: "background" goes on as soon as possible, "waiting" only once everything is on disk. The
cost of a save is how much longer its turn took than the median turn without one. So it includes
updates that writing slowed down during the turn. "call" is the time until `save` returned.
"""

import argparse
import dataclasses
import operator
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from generation import MODELS
from peers.turns import spread, spread_text, write_json

from cipo_jax.config.keys import Batch, Config, Correction, Data, Rollout
from cipo_jax.policy import model, sharding
from cipo_jax.policy.model import ModelConfig
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.rl.train_step import TrainState
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.run.update import Policy, make_policy_update, make_score
from cipo_jax.types import BASE

SHAPES = {
    "1M": MODELS["S"],
    "16M": MODELS["M"],
    "101M": dataclasses.replace(
        MODELS["M"],
        vocab_size=16_384,
        num_layers=10,
        d_model=768,
        num_heads=12,
        num_kv_heads=4,
        mlp_dim=2560,
    ),
}
KINDS = ("none", "background", "waiting")
TOKENS = 32  # of a sequence; an update has four


def make_step(shape: ModelConfig) -> tuple[TrainState, Callable[[TrainState], TrainState]]:
    """A fresh state, and an update of it that has ended when it returns."""
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    config = Config(
        data=Data(max_prompt_tokens=TOKENS // 2, max_completion_tokens=TOKENS // 2),
        rollout=Rollout(problems_per_step=1, group_size=4),
        correction=Correction(weight=0.0),
        batch=Batch(row_tokens=TOKENS, microbatch_rows=4),
    )
    half = TOKENS // 2
    policy = Policy(mesh, shape, make_score(shape, mesh, 1.0), half, half, half)
    update = make_policy_update(config, policy, optax.constant_schedule(1e-4))
    ids = np.random.default_rng(0).integers(0, shape.vocab_size, (4, 2, TOKENS // 2), np.int32)
    old = np.full(TOKENS // 2, -np.log(shape.vocab_size), np.float32)
    batch = update.pack([TrainSequence(half[0], half[1], old, 1.0, BASE) for half in ids])

    def step(state: TrainState) -> TrainState:
        with jax.set_mesh(mesh):
            return jax.block_until_ready(update.step(state, batch))[0]

    with jax.set_mesh(mesh):
        return update.init(model.init_params(shape, jax.random.key(0), mesh)), step


def measure(shape: ModelConfig, directory: Path, repeats: int, updates: int) -> dict[str, Any]:
    """Spreads of seconds, see the module docstring: {"parameters", "state_bytes", "update",
    "background": {"call", "held_up"}, "waiting": the same, and "waiting_over_background", the ratio
    of the medians of "call"}."""
    state, step = make_step(shape)
    state = step(state)  # compiles
    turns: dict[str, list[float]] = {kind: [] for kind in KINDS}
    calls: dict[str, list[float]] = {kind: [] for kind in KINDS[1:]}
    for turn in range(repeats + 1):
        for kind in KINDS:
            place = directory / f"{kind}-{turn}"
            with Checkpoints(place, keep=1) as checkpoints:
                began = time.perf_counter()
                if kind != "none":
                    checkpoints.save(1, state, {})
                if kind == "waiting":
                    checkpoints.close()
                called = time.perf_counter() - began
                for _ in range(updates):
                    state = step(state)
                took = time.perf_counter() - began
            shutil.rmtree(place)
            if turn:  # the first save of a process also starts threads
                turns[kind].append(took)
                if kind != "none":
                    calls[kind].append(called)
    alone = statistics.median(turns["none"])
    found: dict[str, Any] = {
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "state_bytes": sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state))),
        "update": spread([t / updates for t in turns["none"]]),
    }
    for kind in KINDS[1:]:
        held_up = spread([t - alone for t in turns[kind]])
        found[kind] = {"call": spread(calls[kind]), "held_up": held_up}
    medians = (found[kind]["call"]["median"] for kind in ("waiting", "background"))
    found["waiting_over_background"] = operator.truediv(*medians)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="16M,101M", help=f"comma-separated, of {list(SHAPES)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--updates", type=int, default=8, help="of a turn")
    parser.add_argument("--directory", help="where to save; default a temporary one")
    parser.add_argument("--json", metavar="FILE", help="also write the results there")
    options = parser.parse_args(argv)
    results = {}
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        for name in options.models.split(","):
            found = measure(SHAPES[name], Path(directory), options.repeats, options.updates)
            results[name] = found
            print(
                f"{name}: {found['parameters']:,} parameters, state of "
                f"{found['state_bytes'] / 2**20:,.0f} MiB, update "
                f"{spread_text(found['update'])} s, load {os.getloadavg()[0]:.1f}"
            )
            for kind in KINDS[1:]:
                print(
                    f"  {kind:10} call {spread_text(found[kind]['call'])} s, a turn of "
                    f"{options.updates} updates held up {spread_text(found[kind]['held_up'])} s"
                )
            print(f"  waiting over background {found['waiting_over_background']:.1f}x", flush=True)
    write_json(options.json, results)


if __name__ == "__main__":
    main()
