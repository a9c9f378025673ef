"""Sampling: the engine against run-to-longest and against transformers, as ratios of one session.

    python benchmarks/generation.py
    python benchmarks/generation.py --work=S-tailed,M-tailed --peer --repeats=1
    python benchmarks/generation.py --model=checkpoints/SmolLM2-135M-Instruct --peer
    python benchmarks/generation.py --model=checkpoints/SmolLM2-135M-Instruct --peer --start-up

Work items are a model (S: 0.9M parameters, M: 15.7M, float32, random) and a kind of load:

    equal    64 prompts of 64 tokens, 128 new tokens each
    tailed   192 prompts of 64 tokens, new tokens lognormal (median 120, sigma 0.9), 1024 at most;
             64 at a time

JAX makes `--devices` of the CPU, by default one per core, and the engine splits its rows over them.
"on one device" is the same engine without the split; the others use one device too.
"run-to-longest" does what samplers with a padded cache do: a wave of 64 rows runs until its longest
row has finished, each step reads the cache at full length, and then the next wave begins. It is the
same model code with a work list of all pages. "transformers" (`--peer`, needs torch) generates in
the same waves. Of the tailed load, these two run the first wave only.

Rates count the tokens asked for, not those computed. Contenders take turns; a number is the median
over the repeats. If other work runs on the machine, rely on CPU-seconds rather than the clock.
torch threads spin while they wait for a core, which can make torch ten times slower; so it gets one
thread by default.

With `--model`, a pretrained model samples instead: see `pretrained.py`.

`--slope` shows the time of a decode step by live tokens at a fixed cap.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pretrained

from cipo_jax.policy import model, sharding
from cipo_jax.policy.cache.pages import empty_pages
from cipo_jax.policy.config import ModelConfig
from cipo_jax.policy.random_keys import key_data, random_key
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.decode import decode_chunk, empty_slots, prefill
from cipo_jax.sampling.engine import Engine
from cipo_jax.sampling.plan import chunk_plan, prefill_arrays
from cipo_jax.sampling.requests import CachedPrompt, Request, Row
from cipo_jax.sampling.settings import EngineSettings

MODELS = {
    "S": ModelConfig(
        vocab_size=512,
        num_layers=4,
        d_model=128,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        mlp_dim=384,
        tie_embeddings=True,
    ),
    "M": ModelConfig(
        vocab_size=4096,
        num_layers=8,
        d_model=384,
        num_heads=6,
        num_kv_heads=2,
        head_dim=64,
        mlp_dim=1024,
    ),
}
PROMPT, SLOTS, PAGE = 64, 64, EngineSettings.page_size
NEVER_STOP = Choice(stop_ids=())


@dataclasses.dataclass(frozen=True)
class Load:
    """[P] int32 prompts, the tokens to sample for each, and the most that can be asked for."""

    prompts: list[np.ndarray]
    limits: list[int]
    cap: int


def make_load(kind: str) -> Load:
    """The load "equal" or "tailed"."""
    rng = np.random.default_rng(0)
    if kind == "equal":
        limits, cap = [128] * 64, 128
    else:
        cap = 1024
        limits = np.clip(rng.lognormal(np.log(120), 0.9, 192), 1, cap).astype(int).tolist()
    prompts = [rng.integers(0, 512, PROMPT).astype(np.int32) for _ in limits]
    return Load(prompts, limits, cap)


Contender = Callable[[Load], int]  # samples the load once and returns the number of useful tokens


def engine_contender(
    config: ModelConfig, params: model.Params, load: Load, devices: int
) -> tuple[Contender, Any]:
    """The engine at its default sizes, rows split over `devices`, as a contender and as itself."""
    mesh = sharding.make_mesh(devices, 1, 1, devices=jax.devices()[:devices])
    settings = EngineSettings(PROMPT, load.cap, NEVER_STOP, slots=SLOTS, page_size=PAGE)
    engine = Engine(config, mesh, settings)
    key = key_data(random_key(1))

    def run(load: Load) -> int:
        engine.close()
        engine.open(params)
        for i, (prompt, limit) in enumerate(zip(load.prompts, load.limits, strict=True)):
            engine.submit(i, prompt, key, max_new_tokens=limit)
        done: list[Any] = []
        while engine.busy:
            done += engine.step()
        return sum(len(completion.tokens) for _, completion in done)

    return run, engine


def longest_contender(config: ModelConfig, params: model.Params, load: Load) -> Contender:
    """Waves of `SLOTS` rows, padded reads, no refill."""
    width = -(-(PROMPT + load.cap) // PAGE)
    c = config
    new_pages = functools.partial(
        empty_pages, c.num_layers, SLOTS * width, PAGE, c.num_kv_heads, c.head_dim, c.compute_dtype
    )
    fill = jax.jit(functools.partial(prefill, config, (), 0), donate_argnums=1)
    decode = jax.jit(
        functools.partial(decode_chunk, config, (), NEVER_STOP, load.cap), donate_argnums=(1, 2)
    )
    key = key_data(random_key(1))

    def run(load: Load) -> int:
        rows = []
        for slot, (tokens, limit) in enumerate(zip(load.prompts, load.limits, strict=True)):
            prompt = CachedPrompt(tokens, shard=0, waiting=0)
            prompt.pages = list(range(slot * width, (slot + 1) * width))  # the most it may need
            request = Request(slot, key, 1.0, limit, prompt, tokens, slot)
            rows.append(Row(request, slot, 0, prompt.pages))
        calls = [[(row.request.prompt, PROMPT - 1) for row in rows]]
        pages = fill(params, new_pages(), *prefill_arrays(calls, SLOTS, PROMPT, width))
        plan = chunk_plan([rows], SLOTS, rows, [[]], slots=SLOTS, width=width, page_size=PAGE)
        *_, result = decode(params, pages, empty_slots(SLOTS), plan)
        return int(np.asarray(result.sampled)[: len(rows)].sum())

    return run


def transformers_contender(config: ModelConfig, load: Load, threads: int) -> Contender:
    """`generate` of transformers on a random model of the same shape."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    c = config
    network = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.d_model,
            intermediate_size=c.mlp_dim,
            num_hidden_layers=c.num_layers,
            num_attention_heads=c.num_heads,
            num_key_value_heads=c.num_kv_heads,
            head_dim=c.head_dim,
            tie_word_embeddings=c.tie_embeddings,
            max_position_embeddings=PROMPT + load.cap,
        )
    ).eval()

    def run(load: Load) -> int:
        ids, longest = torch.tensor(np.stack(load.prompts)).long(), max(load.limits)
        out = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            max_new_tokens=longest,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert out.shape[1] == PROMPT + longest
        return sum(load.limits)

    return run


def compare(item: str, repeats: int, peer_threads: int) -> dict[str, Any]:
    """Medians and ratios of a work item, as "S-tailed"; with transformers on `peer_threads`."""
    name, _, kind = item.partition("-")
    config, load = MODELS[name], make_load(kind)
    params = model.init_params(config, jax.random.key(0))
    engine_run, engine = engine_contender(config, params, load, jax.device_count())
    contenders = {"engine": engine_run}
    if jax.device_count() > 1:
        contenders["on one device"] = engine_contender(config, params, load, 1)[0]
    contenders["run-to-longest"] = longest_contender(config, params, load)
    if peer_threads:
        contenders["transformers"] = transformers_contender(config, load, peer_threads)
    wave = dataclasses.replace(load, prompts=load.prompts[:SLOTS], limits=load.limits[:SLOTS])
    ours = ("engine", "on one device")
    loads = {n: load if n in ours else wave for n in contenders}
    for n, run in contenders.items():  # compiles
        few = dataclasses.replace(loads[n], limits=[2] * len(loads[n].limits))
        run(load if n in ours else few)
    per_token: dict[str, list[tuple[float, float]]] = {n: [] for n in contenders}
    for _ in range(repeats):
        for n, run in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = run(loads[n])
            spent = (time.perf_counter() - wall, time.process_time() - cpu)
            assert tokens == sum(loads[n].limits), (n, tokens)
            per_token[n].append((spent[0] / tokens, spent[1] / tokens))
    medians = {
        n: [statistics.median(x) for x in zip(*t, strict=True)] for n, t in per_token.items()
    }
    itemsize = np.dtype(config.compute_dtype).itemsize
    token_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * itemsize
    stats = engine.stats
    return {
        "item": item,
        "tokens": sum(load.limits),
        "contenders": {
            n: {
                "tokens_per_second": 1 / wall,
                "tokens_per_cpu_second": 1 / cpu,
                "engine_faster_by": wall / medians["engine"][0],
                "engine_cheaper_by": cpu / medians["engine"][1],
            }
            for n, (wall, cpu) in medians.items()
        },
        "useful_rows": stats.sampled_tokens / stats.row_steps,
        "cache_bytes": engine.num_pages * PAGE * token_bytes,
        "cache_bytes_used": stats.peak_pages * PAGE * token_bytes,
    }


def slope(rows: int = 32, cap: int = 1024, repeats: int = 5) -> list[dict[str, float]]:
    """Milliseconds of a decode step of S by live tokens, at one cap."""
    config, chunk = MODELS["S"], 16
    params = model.init_params(config, jax.random.key(0))
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    settings = EngineSettings(
        cap,
        chunk * (repeats + 2),
        NEVER_STOP,
        slots=rows,
        chunk=chunk,
        prefill_tokens=rows * cap,  # so that all rows begin together
    )
    engine = Engine(config, mesh, settings)
    key = key_data(random_key(1))
    rng = np.random.default_rng(0)
    table = []
    for length in (16, 64, 128, 256, 512, 1024):
        engine.close()
        engine.open(params)
        for i in range(rows):
            engine.submit(i, rng.integers(0, 512, length).astype(np.int32), key)
        took = []
        while engine.busy:
            began, was_decoding = time.perf_counter(), bool(engine.progress())
            engine.step()
            if was_decoding:
                took.append((time.perf_counter() - began) / chunk)
        live = rows * (length + settings.max_new_tokens // 2)
        table.append({"live_tokens": live, "step_ms": 1e3 * statistics.median(took)})
    return table


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", default="S-equal,S-tailed,M-equal", help="comma-separated")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--peer", action="store_true", help="transformers as well; needs torch")
    parser.add_argument("--peer-threads", type=int, default=1, help="of torch")
    parser.add_argument("--slope", action="store_true", help="only the step's cost by live tokens")
    parser.add_argument("--json", action="store_true", help="print one json object")
    parser.add_argument("--devices", type=int, default=len(os.sched_getaffinity(0)), help="of ours")
    pretrained.add_options(parser)
    options = parser.parse_args(argv)
    if options.model:
        pretrained.run(options)
        return
    sharding.make_cpu_devices(options.devices)
    items = [] if options.slope else options.work.split(",")
    results = [
        compare(item, options.repeats, options.peer and options.peer_threads) for item in items
    ]
    steps = slope()
    if options.json:
        print(json.dumps({"work": results, "slope": steps}))
        return
    for r in results:
        print(
            f"{r['item']}: {r['tokens']} tokens, {r['useful_rows']:.0%} of rows useful, cache ",
            end="",
        )
        print(f"{r['cache_bytes_used'] / 2**20:.1f} of {r['cache_bytes'] / 2**20:.1f} MiB")
        print(f"  {'':16} {'tok/s':>8} {'tok/CPU-s':>10} {'engine is':>10} {'by CPU':>7}")
        for n, x in r["contenders"].items():
            rates = f"{x['tokens_per_second']:8.0f} {x['tokens_per_cpu_second']:10.0f}"
            print(f"  {n:16} {rates} {x['engine_faster_by']:9.2f}x {x['engine_cheaper_by']:6.2f}x")
    print("decode step of 32 rows of S, cap 1024 + 112 tokens a row:")
    for x in steps:
        print(f"  {x['live_tokens']:6.0f} live tokens  {x['step_ms']:7.2f} ms")


if __name__ == "__main__":
    main()
