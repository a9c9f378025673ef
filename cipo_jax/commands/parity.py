"""`--mode=parity`: do sampler and trainer agree on the log-probs of the sampled tokens?

    python -m cipo_jax.main --mode=parity --config=configs/math.py --workdir=runs/x

The policy gradient's importance ratio is taken between the two. Where they differ by more than
float32 rounding, one thing at a time is switched to its neutral value in both; what removes the
difference is its cause. Each line samples anew, with the programs and functions of training.

    cache_dtype    keys and values in float32
    compute_dtype  activations in float32
    temperature    1
    truncation     no top-k, top-p, min-p, min_new_tokens
    positions      a prompt prefilled in one stretch; one sequence in a row of the trainer
    kernel         the portable attention instead of the accelerator's kernels
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config
from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.policy import attention_kernels, sharding
from cipo_jax.policy.model import Params
from cipo_jax.policy.random_keys import random_key
from cipo_jax.rl.packing import TrainSequence, make_train_batch, pack_rows
from cipo_jax.run.parameters import find_parameters, load_parameters
from cipo_jax.run.parts import open_engine, open_mesh, open_policy, open_prompts, open_tokenizer
from cipo_jax.run.problems import open_evaluation
from cipo_jax.run.sizes import with_sizes
from cipo_jax.run.update import Policy
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.sampling.settings import default_cache_dtype
from cipo_jax.types import BASE, CipoError

AGREE = 1e-5  # mean absolute difference in nats that float32 explains
HELPS = 0.8  # a switch is a cause if at most this share of the mismatch is left
PROBLEMS, SAMPLES = 16, 4
_ROWS = 8  # scored together, per row shard


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is compared.

    Attributes:
      unpacked: the switch "positions".
      reference: the switch "kernel".
    """

    config: Config
    unpacked: bool = False
    reference: bool = False


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """How far the sampler's log-probs are from the trainer's, over the sampled tokens.

    Attributes:
      mean, max: absolute difference, nats.
      ratio: mean of trainer over sampler probability; 1 in expectation if both are the same policy.
    """

    tokens: int
    mean: float
    max: float
    ratio: float


def command(invocation: Invocation) -> None:
    """The mode. The default run directory is taken if there is a run, else random parameters."""
    workdir = invocation.workdir
    named = invocation.workdir_given or (workdir / "config.json").is_file()
    config = invocation.config
    with Heartbeat(config.log.heartbeat_seconds) as heartbeat:
        parity(config, workdir if named else None, invocation.flags["step"], heartbeat)


def parity(
    config: Config,
    workdir: Path | None = None,
    step: str = "latest",
    heartbeat: Heartbeat | None = None,
) -> list[str]:
    """Measures, prints a table, returns the names of the causes; none if both agree or if no switch
    helps.

    Args:
      workdir: a run directory; None: the parameters of `config.model.source`, or random ones.
      heartbeat: says what the mode is doing; None: nothing does.

    Raises:
      CipoError: greedy sampling, or no such checkpoint.
    """
    c = config
    if c.sampling.temperature == 0:
        reason = "the trainer scores under a distribution, and greedy sampling has none"
        raise CipoError(f"config.sampling.temperature: got 0.0, wanted a value > 0: {reason}")
    heartbeat = heartbeat or Heartbeat()
    place = None if workdir is None else find_parameters(c, workdir, step)
    about = place or c.model.source or "random parameters"
    print(f"parameters: {about}", flush=True)
    heartbeat.begin("parity", "tokenizer and weights")
    measured = 0

    def measured_with(setting: Setting) -> Mismatch:
        nonlocal measured
        measured += 1
        heartbeat.begin("parity", f"sampling and scoring, setting {measured}")
        return measure(setting, params, tokenizer, mesh)

    tokenizer = open_tokenizer(c)
    mesh = open_mesh(c.mesh)
    with jax.set_mesh(mesh):
        policy = open_policy(c, tokenizer, mesh, c.data.max_prompt_tokens)
        params = load_parameters(c, policy, place)
        lines, causes, left = find_causes(Setting(c), measured_with)
    print(f"{about}: {lines[0][1].tokens} sampled tokens, log-probs of sampler and trainer\n")
    print(format_lines(lines))
    if causes:
        print(f"\ncause: {' and '.join(causes)}")
    if left <= AGREE:
        print(f"\n{left:.1e} on average is float32 rounding: they agree.")
    else:
        print(f"\nNo switch removes the {left:.1e} left: the two compute different things.")
    return causes


def find_causes(
    setting: Setting, measured: Callable[[Setting], Mismatch]
) -> tuple[list[tuple[str, Mismatch]], list[str], float]:
    """(switches, mismatch) of everything tried, the causes, and the mean difference left.

    The switch that removes most of the mismatch is a cause. If something is left, the others are
    tried on top of it, and so on until nothing is left or none of them helps.
    """
    current = measured(setting)
    lines, causes = [("as configured", current)], list[str]()
    while current.mean > AGREE:
        tried = {
            name: measured(switch(setting))
            for name, switch in SWITCHES.items()
            if switch(setting) != setting
        }
        lines += [(" + ".join([*causes, name]), mismatch) for name, mismatch in tried.items()]
        best = min(tried, key=lambda name: tried[name].mean, default="")
        if not best or tried[best].mean > HELPS * current.mean:
            break
        causes.append(best)
        setting, current = SWITCHES[best](setting), tried[best]
    return lines, causes, current.mean


def measure(
    setting: Setting, params: Params, tokenizer: Tokenizer, mesh: jax.sharding.Mesh
) -> Mismatch:
    """Samples completions of evaluation problems and scores them as the trainer does. Needs `mesh`
    as the ambient one."""
    config, d = setting.config, setting.config.data
    prompts = open_prompts(config, tokenizer)
    problems = open_evaluation(config).first(d.eval_problems, "data.eval_problems")[:PROBLEMS]
    asked = [prompts.base(problem).tokens for problem in problems]
    with attention_kernels.without_kernels() if setting.reference else contextlib.nullcontext():
        policy = open_policy(config, tokenizer, mesh, d.max_prompt_tokens)
        sampling = with_sizes(config, policy, len(asked) * SAMPLES).sampling
        engine = open_engine(sampling, policy, tokenizer)
        done = dict(engine.sample(params, asked, SAMPLES, random_key(config.seed)))
        engine.close()
        sequences = [
            TrainSequence(asked[r // SAMPLES], c.tokens, c.logprobs, float(r), BASE)
            for r, c in sorted(done.items())
        ]
        row_tokens = with_sizes(config, policy).batch.row_tokens
        return _compare(setting, row_tokens, policy, params, sequences)


def format_lines(lines: Sequence[tuple[str, Mismatch]]) -> str:
    """The table, a line for each setting."""
    width = max(len(name) for name, _ in lines)
    head = f"{'':{width}}  {'mean |diff|':>12} {'max |diff|':>12} {'mean ratio':>12}"
    rows = [f"{n:{width}}  {m.mean:12.2e} {m.max:12.2e} {m.ratio:12.6f}" for n, m in lines]
    return "\n".join([head, *rows])


def _compare(
    setting: Setting,
    row_tokens: int,
    policy: Policy,
    params: Params,
    sequences: Sequence[TrainSequence],
) -> Mismatch:
    lengths = [len(s) for s in sequences]
    T = max(row_tokens, *lengths)
    rows = [[i] for i in range(len(lengths))] if setting.unpacked else pack_rows(lengths, T)
    together = _ROWS * sharding.row_count(policy.mesh)
    score = jax.jit(policy.score)
    sampled, scored = [], []
    for first in range(0, len(rows), together):
        some = rows[first : first + together]
        batches = [make_train_batch([sequences[i] for i in row], 1, 1, T) for row in some]
        empty = make_train_batch([], 1, 1, T)
        batches += [empty] * (together - len(batches))
        mask, old, *inputs = (
            np.concatenate([getattr(batch, name)[0] for batch in batches])
            for name in ("loss_mask", "old_logprobs", "tokens", "positions", "segments")
        )
        where = jax.NamedSharding(policy.mesh, jax.sharding.PartitionSpec(sharding.ROWS))
        logprobs, _ = jax.device_get(score(params, *jax.device_put(inputs, where)))
        sampled.append(old[mask > 0])
        scored.append(logprobs[mask > 0])
    difference = np.concatenate(scored).astype(np.float64) - np.concatenate(sampled)
    return Mismatch(
        tokens=difference.size,
        mean=float(np.abs(difference).mean()),
        max=float(np.abs(difference).max()),
        ratio=float(np.exp(difference).mean()),
    )


# Switches.


def _sampling(setting: Setting, **values: object) -> Setting:
    changed = dataclasses.replace(setting.config.sampling, **values)  # type: ignore[arg-type]
    config = dataclasses.replace(setting.config, sampling=changed)
    return dataclasses.replace(setting, config=config)


def _cache_dtype(setting: Setting) -> Setting:
    c = setting.config
    default = default_cache_dtype(c.model.compute_dtype, attention_kernels.platform())
    used = c.sampling.cache_dtype or default
    return setting if used == "float32" else _sampling(setting, cache_dtype="float32")


def _compute_dtype(setting: Setting) -> Setting:
    model = dataclasses.replace(setting.config.model, compute_dtype="float32")
    return dataclasses.replace(setting, config=dataclasses.replace(setting.config, model=model))


def _positions(setting: Setting) -> Setting:
    c = setting.config
    widths = (max(c.data.max_prompt_tokens, c.sampling.page_size),)
    return dataclasses.replace(_sampling(setting, prefill_widths=widths), unpacked=True)


def _kernel(setting: Setting) -> Setting:
    has_kernels = attention_kernels.platform() != "cpu"
    return dataclasses.replace(setting, reference=setting.reference or has_kernels)


SWITCHES: dict[str, Callable[[Setting], Setting]] = {
    "cache_dtype": _cache_dtype,
    "compute_dtype": _compute_dtype,
    "temperature": lambda setting: _sampling(setting, temperature=1.0),
    "truncation": lambda setting: _sampling(
        setting, top_k=0, top_p=1.0, min_p=0.0, min_new_tokens=0
    ),
    "positions": _positions,
    "kernel": _kernel,
}
