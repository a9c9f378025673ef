"""A whole GRPO step (sampling, verification, update) against the peers', and how its time grows.

    python benchmarks/rl_step.py
    python benchmarks/rl_step.py --peer --peer-python=PATH/bin/python --json=step.json
    python benchmarks/rl_step.py --grow=group,prompt,response,slots,model,devices,workers

A step is 8 problems x 8 answers, 64 prompt and 128 new tokens (nothing ends an answer earlier), and
an update on them: models S and M of `generation.py` in float32. Ours is what training does in a
step of GRPO: the engine samples, meanwhile the worker pool verifies by the rules for math, the
sequences are packed into the rows that a run derives, and the compiled update learns. Answers are
right or wrong by chance. A group that is all right or all wrong (one in 128) is not trained on. The
peers are TRL's GRPOTrainer in torch on CPU (`--peer`) and google-tunix's GRPOLearner
(`--tunix-python`), with a trivial reward.
`policy_update.py` explains their installation and the numbers.

`--grow` changes one size and keeps the others, for the first of `--models`. There is a process for
each value; they take turns. The exponent is the slope of log seconds against log size: 1 means
proportional, 0 constant. "model" makes S wider and counts its parameters. "devices" are those that
JAX makes of the CPU, one per core unless `--devices` is given: up to the number of cores the
exponent shows what splitting gains, beyond it what it costs.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from generation import MODELS
from peers.turns import Measured, Turns, spread, spread_text, take_turns, write_json
from policy_update import (
    CORES,
    OURS,
    add_peer_options,
    compare,
    our_command,
    peer_commands,
    print_comparison,
)

from cipo_jax.config.keys import (
    Config,
    Correction,
    Data,
    Eval,
    Mesh,
    Model,
    Rollout,
    Sampling,
    Verifier,
)
from cipo_jax.policy import sharding
from cipo_jax.policy.model import ModelConfig
from cipo_jax.policy.random_keys import random_key
from cipo_jax.rl.rewards import reward_array
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.parameters import fresh_parameters
from cipo_jax.run.parts import open_mesh, open_policy, open_sampler
from cipo_jax.run.rollout import Attempter
from cipo_jax.run.sizes import with_sizes
from cipo_jax.run.streams import base_sequences, sample_base
from cipo_jax.run.update import make_policy_update
from cipo_jax.types import Problem, Prompt
from cipo_jax.verifiers.judge import open_pool

GROWTH = {
    "group": (4, 8, 16, 32),
    "prompt": (32, 64, 128, 256),
    "response": (32, 64, 128, 256),
    "slots": (8, 16, 32, 64),
    "model": (64, 128, 256, 512),
    "devices": (1, 2, 4, 8),
    "workers": (1, 2, 4),
}
FIELDS = {"model": "width"}  # the field of `Work`, if its name differs


@dataclasses.dataclass(frozen=True)
class Work:
    """A step.

    Attributes:
      width: d_model; heads and MLP widen with it. 0: the model as it is.
      prompt, response: tokens.
      microbatch: sequences of a peer's gradient accumulation step; ours is derived.
      workers: of the verifier.
    """

    model: str
    width: int = 0
    problems: int = 8
    group: int = 8
    prompt: int = 64
    response: int = 128
    microbatch: int = 8
    slots: int = 64
    devices: int = CORES
    workers: int = 2

    @property
    def shape(self) -> ModelConfig:
        shape = MODELS[self.model]
        if not self.width:
            return shape
        scale = self.width / shape.d_model
        return dataclasses.replace(
            shape,
            d_model=self.width,
            num_heads=round(scale * shape.num_heads),
            num_kv_heads=round(scale * shape.num_kv_heads),
            mlp_dim=round(scale * shape.mlp_dim),
        )


class Numbers:
    """A tokenizer without stop tokens. A text is its tokens' ids and an answer, 0 or 1."""

    pad_id = eos_id = 0
    stop_ids: tuple[int, ...] = ()
    control: Mapping[str, int] = {}

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    encode_trusted = encode

    def decode(self, ids: Iterable[int]) -> str:
        ids = list(ids)
        return f"{' '.join(map(str, ids))} \\boxed{{{sum(ids) % 2}}}"

    show = decode

    def frame(self, chat: bool) -> tuple[list[int], list[int]]:
        del chat
        return [], []

    def trims(self, chat: bool) -> tuple[bool, bool]:
        del chat
        return False, False

    def turn_end(self, chat: bool) -> list[int]:
        del chat
        return [self.eos_id]


def make_config(work: Work) -> Config:
    """The config of the run whose step is measured."""
    s = work.shape
    return Config(
        model=Model(
            num_layers=s.num_layers,
            d_model=s.d_model,
            num_heads=s.num_heads,
            num_kv_heads=s.num_kv_heads,
            head_dim=s.head_dim,
            mlp_dim=s.mlp_dim,
            qk_norm=s.qk_norm,
            tie_embeddings=s.tie_embeddings,
            remat=s.remat,
            unroll=s.num_layers,
        ),
        mesh=Mesh(data=-1, fsdp=1, cpu_devices=work.devices),
        data=Data(max_prompt_tokens=work.prompt, max_completion_tokens=work.response),
        sampling=Sampling(slots=work.slots),
        rollout=Rollout(problems_per_step=work.problems, group_size=work.group),
        correction=Correction(weight=0.0),
        verifier=Verifier(workers=work.workers),
        eval=Eval(corrected_attempts=0),
    )


def contend(work: Work) -> None:
    """Takes turns at our step."""
    turns, c = Turns(), make_config(work)
    sharding.make_cpu_devices(work.devices)
    mesh = open_mesh(c.mesh)
    tokenizer, hosts = Numbers(work.shape.vocab_size), Hosts()
    policy = open_policy(c, tokenizer, mesh, c.data.max_prompt_tokens)
    c = with_sizes(c, policy)
    update = make_policy_update(c, policy, optax.constant_schedule(1e-4))
    sampler = open_sampler(c, policy, tokenizer, hosts)
    rng, keys = np.random.default_rng(0), random_key(c.seed)

    def prompt(i: int) -> Prompt:
        tokens = rng.integers(0, work.shape.vocab_size, work.prompt).astype(np.int32)
        return Prompt(Problem(str(i), "?", answer="0"), tokens)

    with jax.set_mesh(mesh), open_pool(c.verifier) as pool:
        attempt = Attempter(sampler.sample, pool, tokenizer)
        state = update.init(fresh_parameters(c.model, c.seed, policy))

        def step() -> Measured:
            nonlocal state
            prompts = [prompt(i) for i in range(work.problems)]
            key = jax.random.fold_in(keys, int(state.step))
            base = sample_base(attempt, state.params, prompts, work.group, key, c.verifier)
            sampler.close()
            rewards = reward_array(base.attempts, work.group, c.verifier)
            sequences = base_sequences(
                base.attempts, rewards, c.algorithm, c.verifier, work.response
            )
            batch = update.pack(sequences)
            state, metrics = update.step(state, batch)
            metrics = jax.device_get(jax.block_until_ready((state, metrics))[1])
            return {
                "sampled_tokens": sum(len(a.completion.tokens) for a in base.attempts),
                "trained_tokens": float(metrics["base/trained_tokens"]),
                "reward": float(rewards.mean()),
                "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
            }

        turns.serve(step)


def grow(work: Work, size: str, values: Sequence[int], repeats: int) -> dict[str, Any]:
    """The step's time by one size: {"values": [numbers of each], "exponent": fitted}."""
    works = {}
    for value in values:
        changed: dict[str, Any] = {FIELDS.get(size, size): value}
        works[str(value)] = dataclasses.replace(work, **changed)
    turns = take_turns({v: our_command(__file__, w) for v, w in works.items()}, repeats)
    rows: list[dict[str, Any]] = []
    for name, taken in turns.items():
        seconds = spread([t["seconds"] for t in taken])
        rows.append(
            {
                "value": int(name),
                "parameters": taken[0]["parameters"],
                "seconds": seconds,
                "cpu_seconds": spread([t["cpu_seconds"] for t in taken]),
                "sampled_tokens": taken[0]["sampled_tokens"],
                "tokens_per_second": taken[0]["sampled_tokens"] / seconds["median"],
                "trained_share": float(
                    np.mean([t["trained_tokens"] / t["sampled_tokens"] for t in taken])
                ),
            }
        )
    sizes = [r["parameters" if size == "model" else "value"] for r in rows]
    return {
        "values": rows,
        "exponent": exponent(sizes, [r["seconds"]["median"] for r in rows]),
        "cpu_exponent": exponent(sizes, [r["cpu_seconds"]["median"] for r in rows]),
    }


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """b of the least-squares fit log seconds = a + b log size."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def print_growth(work: Work, size: str, grown: dict[str, Any]) -> None:
    print(f"{work.model}, step by {size}, load {os.getloadavg()[0]:.1f}")
    print(f"  {size:>9}  {'seconds':22} {'CPU-s':>7} {'tokens/s':>9} {'trained':>8}")
    for row in grown["values"]:
        name = f"{row['value']:9}"
        print(
            f"  {name}  {spread_text(row['seconds']):22} {row['cpu_seconds']['median']:7.2f} "
            f"{row['tokens_per_second']:9,.0f} {row['trained_share']:8.0%}"
            + (f"  ({row['parameters']:,.0f} parameters)" if size == "model" else "")
        )
    print(f"  exponent {grown['exponent']:.2f}, by CPU-seconds {grown['cpu_exponent']:.2f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="S,M", help="comma-separated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small step, to try it out")
    parser.add_argument("--grow", default="", help=f"comma-separated, of {', '.join(GROWTH)}")
    parser.add_argument("--values", default="", help="with --grow, instead of the usual ones")
    parser.add_argument("--peer-microbatch", type=int, default=Work.microbatch)
    parser.add_argument("--tunix-python", help="tunix as well: a Python that has google-tunix")
    parser.add_argument("--contender", type=json.loads, help=argparse.SUPPRESS)
    add_peer_options(parser)
    options = parser.parse_args(argv)
    if options.contender:
        contend(Work(**options.contender))
        return
    works = [Work(name, devices=options.devices) for name in options.models.split(",")]
    if options.quick:
        small: dict[str, Any] = {"problems": 2, "group": 4, "prompt": 8, "response": 8, "slots": 8}
        works = [dataclasses.replace(w, **small) for w in works]
    results: dict[str, Any] = {}
    if options.grow:
        for size in options.grow.split(","):
            values = tuple(map(int, filter(None, options.values.split(",")))) or GROWTH[size]
            results[size] = grow(works[0], size, values, options.repeats)
            print_growth(works[0], size, results[size])
    for work in () if options.grow else works:
        commands = {OURS: our_command(__file__, work)}
        commands |= peer_commands(options, work, work.shape, update_only=False)
        turns = take_turns(commands, options.repeats, warmups=2)
        compared = compare(turns, "sampled_tokens")
        trained = spread([t["trained_tokens"] for t in turns[OURS]])
        results[work.model] = {
            "work": dataclasses.asdict(work),
            "contenders": compared,
            "our_trained_tokens": trained,
        }
        print(
            f"{work.model}: step of {work.problems} x {work.group} answers, {work.prompt} + "
            f"{work.response} tokens, {trained['median']:,.0f} trained by us, load "
            f"{os.getloadavg()[0]:.1f}"
        )
        print_comparison(compared)
    write_json(options.json, results)


if __name__ == "__main__":
    main()
