"""An update whose completions share their prompt in a row, against one in which each has its own.

    python benchmarks/shared_prompts.py
    python benchmarks/shared_prompts.py --model=smollm2 --repeats=3 --json=shared.json

A step of `configs/small.py`: 8 groups of 8 attempts and 4 of 8 corrections, prompts of 70 and 130
tokens, completions of 24 to 40, rows of 512 tokens, one at a time; random weights of SmolLM2's
shape, or of one of a quarter of its layers (`--model=quarter`). Both updates take turns in one
process. A number is the median over the turns (lowest to highest).
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from peers.turns import spread, spread_text, write_json

from cipo_jax.config.keys import Algorithm
from cipo_jax.policy import model, published, sharding
from cipo_jax.policy.config import ModelConfig
from cipo_jax.rl.optimizer import make_optimizer
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.run.update import BatchPlan, Policy, Update, make_score, policy_loss
from cipo_jax.types import BASE, CORRECTION

SMOLLM2 = ModelConfig(**published.SHAPES["HuggingFaceTB/SmolLM2-135M"], remat="none")
MODELS = {
    "smollm2": SMOLLM2,
    "quarter": dataclasses.replace(SMOLLM2, num_layers=8),
    "tiny": dataclasses.replace(SMOLLM2, num_layers=2, d_model=64, mlp_dim=128, vocab_size=512),
}
GROUP, ROW_TOKENS, MICROBATCH_ROWS = 8, 512, 1
PROMPTS = {BASE: 70, CORRECTION: 130}  # tokens
SHORTEST, LONGEST = 24, 40  # tokens of a completion


def sequences(vocabulary: int, problems: int, anchors: int) -> list[TrainSequence]:
    """Groups of both streams; the completions of a group have one prompt."""
    rng, members = np.random.default_rng(0), []
    for stream, count in ((BASE, problems), (CORRECTION, anchors)):
        for group in range(count):
            prompt = rng.integers(0, vocabulary, PROMPTS[stream]).astype(np.int32)
            for _ in range(GROUP):
                length = int(rng.integers(SHORTEST, LONGEST + 1))
                completion = rng.integers(0, vocabulary, length).astype(np.int32)
                old = np.full(length, -np.log(vocabulary), np.float32)
                members.append(TrainSequence(prompt, completion, old, rng.normal(), stream, group))
    return members


def measure(shape: ModelConfig, problems: int, anchors: int, repeats: int) -> dict[str, Any]:
    """Seconds, rows and tokens of an update, "shared" and "apart", and the ratio of seconds."""
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    score = make_score(shape, mesh, 1.0)
    policy = Policy(mesh, shape, score, PROMPTS[BASE], PROMPTS[CORRECTION], LONGEST)
    loss = policy_loss(Algorithm(), LONGEST)
    members = sequences(shape.vocab_size, problems, anchors)
    counts = (problems * GROUP, anchors * GROUP)
    found: dict[str, Any] = {}
    with jax.set_mesh(mesh):
        params = model.init_params(shape, jax.random.key(0), mesh)
        updates = {
            name: Update(
                policy,
                loss,
                make_optimizer(optax.constant_schedule(1e-6), 0.9, 0.95, 0.0, 1.0),
                (1.0, 1.0),
                BatchPlan(counts, MICROBATCH_ROWS, ROW_TOKENS, (GROUP, GROUP), share_prompts=share),
            )
            for name, share in (("shared", True), ("apart", False))
        }
        state = updates["shared"].init(params)
        seconds: dict[str, list[float]] = {name: [] for name in updates}
        for turn in range(1 + repeats):
            for name, update in updates.items():
                began = time.perf_counter()
                batch = update.pack(members)
                state, metrics = update.step(state, batch)
                jax.block_until_ready((state, metrics))
                if turn:  # the first compiles
                    seconds[name].append(time.perf_counter() - began)
                used = batch.segments > 0
                found[name] = {"rows": int(used.any(axis=-1).sum()), "tokens": int(used.sum())}
    for name, taken in seconds.items():
        found[name]["seconds"] = spread(taken)
    ratios = [a / s for s, a in zip(seconds["shared"], seconds["apart"], strict=True)]
    return {**found, "apart_over_shared": spread(ratios)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="quarter")
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--anchors", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="also write the results there")
    options = parser.parse_args(argv)
    result = measure(MODELS[options.model], options.problems, options.anchors, options.repeats)
    for name in ("apart", "shared"):
        of = result[name]
        print(
            f"{name:7} {spread_text(of['seconds'])} s, {of['tokens']:,} tokens in {of['rows']} rows"
        )
    print(f"apart takes {spread_text(result['apart_over_shared'])}x the time of shared")
    write_json(options.json, result)


if __name__ == "__main__":
    main()
