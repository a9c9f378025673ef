"""Whether a run with bfloat16 parameters learns as one with float32 parameters.

    python benchmarks/low_precision.py             # about a minute
    python benchmarks/low_precision.py --json

A small transformer learns the last digit of a sum by reinforcement: 30 problems, completions of
one token, the update of a training run (groups, AdamW, clipped loss) at a learning rate far below
half a step between neighbouring bfloat16 numbers. The chance of the right answer is computed
exactly. The baseline is bfloat16 rounded to the nearest, as optimisers do by themselves.
"""

import argparse
import dataclasses
import json
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cipo_jax.config.keys import Batch, Config, Correction, Data, Rollout
from cipo_jax.policy import model, sharding
from cipo_jax.policy.config import ModelConfig
from cipo_jax.rl import optimizer
from cipo_jax.rl.advantages import group_advantages
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.run.update import Policy, make_policy_update, make_score
from cipo_jax.types import BASE

DIGITS, START = 10, 10
GROUP = 8
SHAPE = ModelConfig(
    vocab_size=16,
    num_layers=1,
    d_model=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=128,
    compute_dtype="float32",
)
PROBLEMS = [(a, b) for a in range(DIGITS) for b in range(3)]
PROMPTS = np.array([(START, a, b) for a, b in PROBLEMS], np.int32)
ANSWERS = np.array([(a + b) % DIGITS for a, b in PROBLEMS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one json object")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")

    results: dict[str, Any] = {"steps": options.steps, "learning_rate": options.learning_rate}
    for name, dtype, nearest in (
        ("float32", "float32", False),
        ("bfloat16, at random", "bfloat16", False),
        ("bfloat16, to the nearest", "bfloat16", True),
    ):
        runs = [
            learn(dtype, nearest, options.steps, options.learning_rate, seed)
            for seed in range(options.seeds)
        ]
        results[name] = runs
        if not options.json:
            shown = ", ".join(f"{r['before']:.3f} -> {r['after']:.3f}" for r in runs)
            moved = ", ".join(f"{r['moved']:.1%}" for r in runs)
            seconds = sum(r["seconds"] for r in runs)
            print(f"{name:25} right {shown}; weights moved {moved}; {seconds:.0f} s", flush=True)
    if options.json:
        print(json.dumps(results))


def learn(dtype: str, nearest: bool, steps: int, rate: float, seed: int) -> dict[str, float]:
    """One run: the chance of a right answer before and after, and the share of weights moved."""
    began = time.monotonic()
    shape = dataclasses.replace(SHAPE, param_dtype=dtype)
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    score = make_score(shape, mesh, 1.0)
    config = Config(
        seed=seed,
        data=Data(max_completion_tokens=1),
        rollout=Rollout(problems_per_step=len(PROBLEMS), group_size=GROUP),
        correction=Correction(weight=0.0),
        batch=Batch(row_tokens=64, microbatch_rows=16),
    )
    policy = Policy(mesh, shape, score, PROMPTS.shape[1], PROMPTS.shape[1], 1)
    rounding = mock.patch.object(optimizer, "rounded_at_random", lambda chain, _: to_nearest(chain))
    with jax.set_mesh(mesh):
        if nearest:
            with rounding:
                update = make_policy_update(config, policy, optax.constant_schedule(rate))
        else:
            update = make_policy_update(config, policy, optax.constant_schedule(rate))
        # The same start for all: of float32 parameters.
        start = model.init_params(SHAPE, jax.random.key(seed), mesh)
        params = jax.tree.map(lambda p: p.astype(dtype), start)
        first = jax.device_get(params)
        logprobs = jax.jit(lambda p: answer_logprobs(score, p))
        state, random = update.init(params), np.random.default_rng(seed)
        before = chance(logprobs(state.params))
        for _ in range(steps):
            batch = update.pack(sample(np.asarray(logprobs(state.params), np.float64), random))
            state, _ = update.step(state, batch)
        after = chance(logprobs(state.params))
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(jax.device_get(state.params)), strict=True)
    changed = [np.asarray(a != b).ravel() for a, b in pairs]
    return {
        "before": before,
        "after": after,
        "moved": float(np.concatenate(changed).mean()),
        "seconds": time.monotonic() - began,
    }


def answer_logprobs(score: Any, params: Any) -> jax.Array:
    """[problems, vocabulary] log-probs of each next token after each prompt."""
    V = SHAPE.vocab_size
    rows = jnp.repeat(jnp.asarray(PROMPTS), V, axis=0)
    tokens = jnp.concatenate([rows, jnp.tile(jnp.arange(V), len(PROMPTS))[:, None]], axis=1)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    scored, _ = score(params, tokens, positions, jnp.ones_like(tokens))
    return scored[:, -1].reshape(len(PROMPTS), V)


def chance(logprobs: jax.Array) -> float:
    """Of a right answer, the mean over problems."""
    return float(np.exp(np.asarray(logprobs, np.float64))[np.arange(len(ANSWERS)), ANSWERS].mean())


def sample(logprobs: np.ndarray, random: np.random.Generator) -> list[TrainSequence]:
    """A group of attempts at each problem, with their advantages."""
    noise = random.gumbel(size=(*logprobs.shape[:1], GROUP, logprobs.shape[1]))
    chosen = np.argmax(logprobs[:, None] + noise, axis=-1)  # [problems, GROUP]
    advantages = group_advantages((chosen == ANSWERS[:, None]).astype(float), "group")
    return [
        TrainSequence(
            prompt=PROMPTS[i],
            completion=np.array([token], np.int32),
            old_logprobs=np.array([logprobs[i, token]], np.float32),
            advantage=float(advantages[i, j]),
            stream=BASE,
            group=i,
        )
        for i, tokens in enumerate(chosen)
        for j, token in enumerate(tokens)
    ]


def to_nearest(chain: optax.GradientTransformation) -> optax.GradientTransformation:
    """`chain` as it is for parameters and moments of 16 bits."""

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        low = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        return chain.update(low, state, params)

    return optax.GradientTransformation(chain.init, update)


if __name__ == "__main__":
    main()
