"""A small model on the device and on this machine's CPU: are they equal up to rounding?"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from one_device.update import training_sequences, update_config
from one_device.work import MODELS, Work, one_device

from cipo_jax.policy import model, sharding
from cipo_jax.policy.attention_kernels import without_kernels
from cipo_jax.policy.config import ModelConfig
from cipo_jax.policy.random_keys import random_key
from cipo_jax.run.update import Policy, make_policy_update, make_score
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.engine import Engine
from cipo_jax.sampling.settings import EngineSettings
from cipo_jax.types import Completion

# Heads as wide as kernels want them; a window, so that masks are seen.
SHAPE = MODELS["tiny"] | {"head_dim": 64, "windows": (24, None)}
SIZES: dict[str, Any] = {"prompt": 40, "new": 24, "update_problems": 2, "group": 2}
SIZES |= {"row_tokens": 128, "microbatches": (2,), "page_size": 16}
# Largest difference that counts as rounding: of log-probs, and of the update's loss and gradient
# norm, relative. With bfloat16 the cache is in bfloat16, too, which it is not on a CPU.
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.15}


def measure_smoke(work: Work) -> Iterator[dict[str, Any]]:
    """In float32, where our own kernels attend, and in bfloat16, where a library's do.

    Raises:
      ValueError: device and CPU differ by more than rounding.
    """
    try:
        cpu = sharding.make_mesh(1, 1, 1, devices=jax.devices("cpu")[:1])
    except RuntimeError as error:  # as with JAX_PLATFORMS=cuda
        yield {"skipped": f"JAX has no CPU here: {error}"}
        return
    jax.config.update("jax_default_matmul_precision", "highest")
    for dtype, tolerance in TOLERANCE.items():
        tiny = dataclasses.replace(work, model="tiny", compute_dtype=dtype, **SIZES)
        shape = ModelConfig(**SHAPE, compute_dtype=dtype, remat=work.remat)
        with without_kernels():
            params = jax.device_get(model.init_params(shape, jax.random.key(0), cpu))
            there = _on(cpu, tiny, shape, params, {})
        here = _on(one_device(), tiny, shape, params, there["completions"])
        found = {
            "compute_dtype": dtype,
            "sampled_alike": _alike(here["sampled"], there["sampled"]),
            "logprob_difference": _difference(here["logprobs"], there["logprobs"]),
            "own_logprob_difference": max(here["own_difference"], there["own_difference"]),
            "update_difference": max(
                abs(here["update"][name] - value) / max(1e-3, abs(value))
                for name, value in there["update"].items()
            ),
        }
        yield found
        worst = max(value for name, value in found.items() if name.endswith("difference"))
        if not worst <= tolerance:
            raise ValueError(f"{dtype}: {worst:.3g} is more than rounding, {tolerance}: {found}")


def _on(
    mesh: jax.sharding.Mesh,
    work: Work,
    shape: ModelConfig,
    params: model.Params,
    given: dict[int, Completion],
) -> dict[str, Any]:
    """What a mesh samples, which log-probs it gives to completions, `given` or its own, and what
    an update of it reports."""
    params = jax.device_put(params, model.param_shardings(shape, mesh))
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, shape.vocab_size, n).astype(np.int32) for n in (40, 17, 33, 3)]
    settings = EngineSettings(
        max_prompt_tokens=work.prompt,
        max_new_tokens=work.new,
        choice=Choice(stop_ids=()),
        slots=8,
        chunk=8,
        page_size=work.page_size,
        prefill_widths=(64,),
    )
    engine = Engine(shape, mesh, settings)
    with contextlib.closing(engine):
        sampled = dict(engine.sample(params, prompts, 2, random_key(1)))
    score_all = _scorer(mesh, shape, prompts)
    own = score_all(params, sampled)
    config = update_config(work, work.microbatches[0])
    logprobs = score_all(params, given) if given else own
    score = make_score(shape, mesh, 1.0)
    policy = Policy(mesh, shape, score, work.prompt, work.prompt + work.new, work.new)
    update = make_policy_update(config, policy, optax.constant_schedule(1e-4))
    with jax.set_mesh(mesh):
        state = update.init(params)  # which the step replaces
        _, metrics = update.step(state, update.pack(training_sequences(work)))
    return {
        "sampled": sampled,
        "completions": given or sampled,
        "own_difference": _difference(own, {i: c.logprobs for i, c in sampled.items()}),
        "logprobs": logprobs,
        "update": {name: float(metrics[name]) for name in ("loss/total", "grad_norm")},
    }


def _scorer(
    mesh: jax.sharding.Mesh, shape: ModelConfig, prompts: list[np.ndarray]
) -> Callable[[model.Params, dict[int, Completion]], dict[int, np.ndarray]]:
    """Gives the trainer's log-probs of completions, by request id."""
    rules, T = sharding.logical_rules(mesh, shape.axis_sizes), 128

    @jax.jit
    def logprobs(params: model.Params, *rows: jax.Array) -> jax.Array:
        return model.token_logprobs(shape, params, *rows, rules=rules)[0]

    def score(params: model.Params, completions: dict[int, Completion]) -> dict[int, np.ndarray]:
        tokens, segments = np.zeros((2, len(completions), T), np.int32)
        places = {}
        for row, (request, completion) in enumerate(sorted(completions.items())):
            both = [*prompts[request // 2], *completion.tokens]
            tokens[row, : len(both)], segments[row, : len(both)] = both, 1
            places[request] = row, slice(len(both) - len(completion.tokens), len(both))
        positions = np.broadcast_to(np.arange(T, dtype=np.int32), tokens.shape)
        with jax.set_mesh(mesh):
            found = np.asarray(logprobs(params, tokens, positions, segments))
        return {request: found[place] for request, place in places.items()}

    return score


def _difference(a: dict[int, Any], b: dict[int, Any]) -> float:
    return max(float(np.abs(np.asarray(a[i]) - np.asarray(b[i])).max()) for i in a)


def _alike(a: dict[int, Completion], b: dict[int, Completion]) -> float:
    """The share of tokens before the first difference; a near tie may fall out differently."""
    alike = [np.cumprod(np.asarray(a[i].tokens) == np.asarray(b[i].tokens)).mean() for i in a]
    return float(np.mean(alike))
