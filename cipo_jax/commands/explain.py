"""`--mode=explain`: what a command would run. Nothing is trained, downloaded or written.

    config    every key, its value, and whether default, file or command line gave it
    derived   what follows: completions, anchors, tokens, prompt budgets, rows, parameters
    paper     the settings known from the paper, and where this config differs

What depends on missing files or devices is shown as unknown, with the reason; a model of the hub is
known if it is in the hub's cache. Memory and compilation are decided in `preflight.py`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config, flatten
from cipo_jax.policy.huggingface.hub import local_model
from cipo_jax.policy.sharding import describe
from cipo_jax.run.parts import longest_prompt, open_mesh, open_policy, open_prompts, open_tokenizer
from cipo_jax.run.records.terminal import shortened
from cipo_jax.run.sizes import derive_sizes, with_sizes
from cipo_jax.run.update import make_policy_update
from cipo_jax.types import CipoError
from cipo_jax.verifiers.judge import default_workers

# Settings known from arXiv 2605.14539 or summaries of it, and how they are known.
_PAPER, _READ = "paper", "as a public reimplementation reads it"
PAPER: dict[str, tuple[Any, str]] = {
    "model.source": (("Qwen3-4B", "Seed-Coder-8B"), _PAPER),  # math and code
    "rollout.group_size": (8, _PAPER),
    "correction.band_low": (0.375, _PAPER),
    "correction.band_high": (0.75, _PAPER),
    "replay.adaptive": (True, _PAPER),
    "replay.initial": (0.3, _READ),
    "replay.minimum": (0.2, _READ),
    "replay.maximum": (0.8, _READ),
    "replay.target": ("constant", _READ),
    "replay.target_retention": (0.8, _READ),
    "replay.gap_weight": (0.8, _READ),
    "replay.drop_weight": (0.3, _READ),
    "replay.streak_weight": (0.05, _READ),
}

Row = tuple[str, str]


def command(invocation: Invocation) -> None:
    """The mode."""
    explain(invocation.config, invocation.provenance())


def explain(config: Config, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints all three parts.

    Args:
      values: the output of `config.resolve.provenance`.
    """
    print("config")
    width = max(map(len, values))
    for key, entry in values.items():
        print(f"  {key:{width}}  {shortened(repr(entry['value']), 60):40}  {entry['source']}")
    print("\nderived")
    for name, value in derived(config):
        print(f"  {name:20}  {value}")
    print("\npaper")
    for key, here, verdict in paper_settings(config):
        print(f"  {key:{width}}  {shortened(here, 60):40}  {verdict}")
    if not config.correction.weight:
        print("  correction.weight = 0: this is GRPO, the correction stream is off")
    print("  Whatever is not listed is not known of the paper: see docs/cipo_step_by_step.md")


def derived(config: Config) -> list[Row]:
    """(name, value) of what follows from the config. It ends where something needed is missing,
    with the reason."""
    rows = list(_step(config))
    try:
        rows.extend(_parts(config))
    except CipoError as error:
        rows.append(("not known here", str(error)))
    return rows


def paper_settings(config: Config) -> list[tuple[str, str, str]]:
    """(key, value here, "same" or what the paper has) of every setting known."""
    flat, rows = flatten(config), []
    for key, (wanted, source) in PAPER.items():
        same, there = flat[key] == wanted, repr(wanted)
        if key == "model.source":
            # A directory or hub id of one of the two, such as "Qwen/Qwen3-4B@main".
            name = flat[key].rstrip("/").rpartition("/")[2].partition("@")[0]
            same, there = name.startswith(wanted), " or ".join(wanted)
        rows.append((key, repr(flat[key]), "same" if same else f"differs: {there} ({source})"))
    return rows


def _step(config: Config) -> Iterator[Row]:
    """What follows from the numbers alone."""
    r, k = config.rollout, config.correction
    anchors, base = config.num_anchors, config.num_attempts
    completions = base + config.num_corrections
    limit = config.data.max_completion_tokens
    yield "method", f"CIPO, lambda {k.weight:g}" if k.weight else "GRPO (correction.weight = 0)"
    yield "anchors", f"{anchors} a step"
    each = f"{r.problems_per_step} problems x {r.group_size} attempts"
    each += f" + {anchors} anchors x {k.group_size} corrections" if anchors else ""
    if anchors and k.wrong_group_multiple > 1:
        each += f", wrong ones x {k.wrong_group_multiple} in so many times fewer groups"
    yield "completions", f"{completions} a step: {each}"
    yield "sampled tokens", f"at most {completions * limit:,} a step, {limit:,} a completion"
    if r.max_refills:
        yield "dynamic sampling", f"at most {r.max_refills} x {base} completions more"
    yield "run", f"{config.num_steps} steps, {config.num_steps * completions:,} completions"
    yield "updates", f"{config.num_updates} a step"


def _parts(config: Config) -> Iterator[Row]:
    """What also depends on tokenizer, model and devices; the costly last.

    Raises:
      CipoError: as training would, or the model is not on this machine.
    """
    c = config
    if source := c.model.source:
        directory = local_model(source)
        if directory is None:
            raise CipoError(
                f"config.model.source: {source!r} is neither a directory here nor in the hub's "
                "cache; prompt budgets, parameters and rows follow from it. --mode=fetch gets it"
            )
        here = dataclasses.replace(c.model, source=str(directory))
        c = dataclasses.replace(c, model=here)
    tokenizer = open_tokenizer(c)
    longest = longest_prompt(c, open_prompts(c, tokenizer))
    yield "base prompt", f"at most {c.data.max_prompt_tokens:,} tokens"
    if longest > c.data.max_prompt_tokens:
        yield (
            "correction prompt",
            f"at most {longest:,} tokens: {c.data.max_prompt_tokens:,} of the problem, "
            f"{c.data.max_attempt_tokens:,} of the attempt, the rest is the template",
        )
    mesh = open_mesh(c.mesh)
    policy = open_policy(c, tokenizer, mesh, longest)
    sizes = derive_sizes(c, policy)
    c = with_sizes(c, policy)
    total = longest + policy.longest_completion
    limit = f", the model {policy.model.max_positions:,}" if c.model.source else ""
    yield "longest sequence", f"{total:,} tokens; a row holds {c.batch.row_tokens:,}{limit}"
    yield "mesh", f"{describe(mesh)} on {mesh.size} x {mesh.devices.flat[0].device_kind}"
    for name, size in sizes.items():
        yield name, f"{size.value:,}: {size.reason}"
    if not c.verifier.workers:
        yield "verifier.workers", f"{default_workers()}: half the cores of this host, from 2 to 32"
    update = make_policy_update(c, policy, lambda _: c.optimizer.learning_rate)
    state, model = update.sizes, policy.model
    count = f"{state.parameters:,} in {model.num_layers} layers, vocabulary {model.vocab_size:,}"
    yield "parameters", f"{count}: {state.weight_bytes / 2**20:,.1f} MiB in {model.param_dtype}"
    yield "state", f"{state.device_bytes / 2**20:,.1f} MiB a device: parameters and optimiser"
    _, microbatches, rows, tokens = update.abstract_batch.tokens.shape
    shape = f"{microbatches} microbatches x {rows} rows x {tokens:,} tokens"
    yield "an update", f"{shape}: room for {microbatches * rows * tokens:,}"
