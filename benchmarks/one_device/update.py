"""The compiled update as a run calls it, with sequences of both streams."""

import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
from one_device.work import MODELS, Work, by_size, one_device
from peers.turns import spread

from cipo_jax.config.keys import Batch, Config, Correction, Data, Model, Rollout
from cipo_jax.policy import model
from cipo_jax.rl.packing import TrainSequence, pad_share
from cipo_jax.run.forecast.counts import count_parameters
from cipo_jax.run.update import Policy, make_policy_update, make_score
from cipo_jax.run.watch.speed import PEAK_FLOPS, update_flops
from cipo_jax.types import BASE, CORRECTION


def measure_update(work: Work) -> Iterator[dict[str, Any]]:
    """Of each number of rows of a microbatch."""
    return by_size("microbatch_rows", work.microbatches, functools.partial(_update_at, work))


def _update_at(work: Work, microbatch_rows: int) -> dict[str, Any]:
    shape, mesh = work.shape, one_device()
    config = update_config(work, microbatch_rows)
    score = make_score(shape, mesh, config.sampling.temperature)
    policy = Policy(mesh, shape, score, work.prompt, work.prompt + work.new, work.new)
    update = make_policy_update(config, policy, optax.constant_schedule(1e-6))
    members, seconds = training_sequences(work), []
    with jax.set_mesh(mesh):
        state = update.init(model.init_params(shape, jax.random.key(0), mesh))
        for _ in range(1 + work.repeats):
            began = time.perf_counter()
            batch = update.pack(members)
            state, metrics = update.step(state, batch)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - began)
    device = mesh.devices.flat[0]
    took, peak = spread(seconds[1:]), PEAK_FLOPS.get(device.device_kind)
    learning = update.learning_microbatches(batch)
    flops = update_flops(shape, count_parameters(shape), batch, learning, epochs=1)
    tokens = int((np.asarray(batch.segments) > 0).sum())
    return {
        "seconds": took,
        "tokens": tokens,
        "tokens_per_second": spread([tokens / s for s in seconds[1:]]),
        "pad_share": pad_share(batch),
        "flops": flops,
        "mfu": None if peak is None else flops / (took["median"] * peak),
        "peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
    }


def update_config(work: Work, microbatch_rows: int) -> Config:
    """The config of the run whose update is measured."""
    return Config(
        model=Model(compute_dtype=work.compute_dtype, remat=work.remat),
        data=Data(
            max_prompt_tokens=work.prompt,
            max_attempt_tokens=work.new,
            max_completion_tokens=work.new,
        ),
        rollout=Rollout(problems_per_step=work.update_problems, group_size=work.group),
        correction=Correction(replay_fraction=1.0, group_size=work.group),
        batch=Batch(row_tokens=work.row_tokens, microbatch_rows=microbatch_rows),
    )


def training_sequences(work: Work) -> list[TrainSequence]:
    """As many of each stream. A completion has from half of `new` tokens to `new`."""
    rng = np.random.default_rng(0)
    vocabulary = MODELS[work.model]["vocab_size"]

    def sequence(stream: int, prompt: int, group: int) -> TrainSequence:
        count = int(rng.integers(work.new // 2, work.new + 1))
        tokens = rng.integers(0, vocabulary, prompt + count).astype(np.int32)
        old = np.full(count, -np.log(vocabulary), np.float32)
        return TrainSequence(tokens[:prompt], tokens[prompt:], old, rng.normal(), stream, group)

    prompts = {BASE: work.prompt, CORRECTION: work.prompt + work.new}
    return [
        sequence(stream, prompt, i // work.group)
        for stream, prompt in prompts.items()
        for i in range(work.update_problems * work.group)
    ]
