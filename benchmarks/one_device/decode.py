"""Decoding by the engine, against the time to read the weights and the live keys and values."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from one_device.work import Work, by_size, one_device
from peers.turns import Measured, spread

from cipo_jax.policy import model
from cipo_jax.policy.config import ModelConfig
from cipo_jax.policy.random_keys import key_data, random_key
from cipo_jax.run.devices.chips import CHIPS
from cipo_jax.run.forecast.counts import step_bytes
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.engine import Engine
from cipo_jax.sampling.settings import EngineSettings, cache_dtype

# Bytes per second of a device's memory, by `jax.Device.device_kind`.
HBM_BANDWIDTH = {kind: chip.bandwidth for kind, chip in CHIPS.items()}


def measure_decode(work: Work) -> Iterator[dict[str, Any]]:
    """Of each number of rows."""
    shape = dataclasses.replace(work.shape, param_dtype=work.compute_dtype)
    mesh = one_device()
    params = model.init_params(shape, jax.random.key(0), mesh)
    return by_size("rows", work.rows, lambda rows: _decode_at(work, shape, mesh, params, rows))


def _decode_at(
    work: Work, shape: ModelConfig, mesh: jax.sharding.Mesh, params: model.Params, rows: int
) -> dict[str, Any]:
    settings = EngineSettings(
        max_prompt_tokens=work.prompt,
        max_new_tokens=work.new,
        choice=Choice(stop_ids=()),
        slots=rows,
        chunk=work.chunk,
        page_size=work.page_size,
        prefill_tokens=work.prefill_tokens,
        dispatch_ahead=True,
    )
    engine = Engine(shape, mesh, settings)
    try:
        taken = [_generate(engine, params, rows) for _ in range(1 + work.repeats)][1:]
    finally:
        engine.close()
    step = spread([t["step_seconds"] for t in taken])
    live = taken[0]["live_tokens"]  # the schedule is the same each time
    read = step_bytes(shape, cache_dtype(settings, shape.compute_dtype, mesh), live)
    bandwidth = HBM_BANDWIDTH.get(mesh.devices.flat[0].device_kind)
    roofline = None if bandwidth is None else read / bandwidth
    return {
        "tokens_per_second": spread([rows * work.new / t["seconds"] for t in taken]),
        "step_seconds": step,
        "live_tokens": live,
        "step_bytes": read,
        "roofline_seconds": roofline,
        "share": None if roofline is None else roofline / step["median"],
    }


def _generate(engine: Engine, params: model.Params, rows: int) -> Measured:
    """Seconds of sampling `rows` completions; of a decode step with all of them live, and how many
    tokens' keys and values such a step reads."""
    s, stats = engine.settings, engine.stats
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, engine.config.vocab_size, (rows, s.max_prompt_tokens))
    key = key_data(random_key(1))
    engine.close()  # what the cache holds of these prompts
    engine.open(params)
    jax.block_until_ready(params)
    seconds, steps, reads = 0.0, 0, 0.0
    prefilled = quiet = 0
    began = time.perf_counter()
    for i, prompt in enumerate(prompts.astype(np.int32)):
        engine.submit(i, prompt, key)
    while engine.busy:
        sampled = [len(tokens) for tokens in engine.progress().values()]
        stepped, turn = stats.decode_steps, time.perf_counter()
        engine.step()
        turn = time.perf_counter() - turn
        # This waits for the chunk before the one just dispatched, and any prefill between.
        quiet = quiet + 1 if stats.prefill_positions == prefilled else 0
        prefilled = stats.prefill_positions
        whole = stats.decode_steps - stepped == s.chunk
        if whole and len(sampled) == rows and quiet > 1:
            seconds, steps = seconds + turn, steps + s.chunk
            # A step feeds a token and reads it, too; `sampled` is of the chunk's first step.
            reads += s.chunk * (sum(sampled) + rows * (s.max_prompt_tokens + (s.chunk - 1) / 2))
    if not steps:
        raise ValueError(f"{rows} rows are never all decoded together: raise prefill_tokens or new")
    return {
        "seconds": time.perf_counter() - began,
        "step_seconds": seconds / steps,
        "live_tokens": reads / steps,
    }
