"""`--mode=explain`: what a command would run. Nothing is trained, downloaded or written.

    config    every key, its value, and whether default, file or command line gave it
    derived   what follows: completions, anchors, tokens, prompt budgets, rows, parameters
    time      with --topology=v5e:4x4, h100:8 and so on (see run/devices/topology.py): seconds of a
              step's parts on those devices, hours of the run, what bounds it, and what is assumed.
              On paper: nothing is compiled, and nothing of the devices is needed here.
              --mean_tokens=2000 says how long completions are on average
    paper     the settings known from the paper, and where this config differs

What depends on missing files or devices is shown as unknown, with the reason; a model of the hub is
known if it is in the hub's cache, for the time line also if its shape is in policy/published.py.
With --topology, sizes are those of its devices. Memory and compilation are decided in
`preflight.py`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.resolve import changed_config
from cipo_jax.policy.huggingface.hub import local_model
from cipo_jax.policy.published import shape_of
from cipo_jax.policy.sharding import describe
from cipo_jax.run.devices.topology import PaperDevice, paper_devices
from cipo_jax.run.forecast.assumptions import Assumptions, assumed
from cipo_jax.run.forecast.timeline import (
    NOT_COUNTED,
    Timeline,
    make_timeline,
    sampling_seconds,
    with_published_shape,
)
from cipo_jax.run.forecast.wording import lines, seconds
from cipo_jax.run.memory_plan import Shapes, open_shapes
from cipo_jax.run.parts import longest_prompt, open_mesh, open_policy, open_prompts, open_tokenizer
from cipo_jax.run.records.terminal import method_name, shortened
from cipo_jax.run.sizes import derive_sizes, tensor_choices, with_sizes
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
    "correction.right_limits": ((), _READ),
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
    flags = invocation.flags
    topology, mean_tokens = flags["topology"], flags["mean_tokens"]
    if mean_tokens is not None and topology is None:
        raise CipoError("--mean_tokens: is for the time line, which needs --topology=v5e:4x4")
    devices = None if topology is None else paper_devices(topology)
    explain(invocation.config, invocation.provenance(), devices, mean_tokens)


def explain(
    config: Config,
    values: Mapping[str, Mapping[str, Any]],
    devices: list[PaperDevice] | None = None,
    mean_tokens: float | None = None,
) -> None:
    """Prints all parts.

    Args:
      values: the output of `config.resolve.provenance`.
      devices: to explain it for; None: this machine's, without a time line.
      mean_tokens: of a completion; None: assumed.
    """
    print("config")
    width = max(map(len, values))
    for key, entry in values.items():
        print(f"  {key:{width}}  {shortened(repr(entry['value']), 60):40}  {entry['source']}")
    print("\nderived")
    for name, value in derived(config, devices):
        print(f"  {name:20}  {value}")
    if devices is not None:
        print("\ntime, on paper")
        for name, value in time_line(config, devices, mean_tokens):
            print(f"  {name:20}  {value}")
    print("\npaper")
    for key, here, verdict in paper_settings(config):
        print(f"  {key:{width}}  {shortened(here, 60):40}  {verdict}")
    if not config.correction.weight:
        print("  correction.weight = 0: this is GRPO, the correction stream is off")
    print("  Whatever is not listed is not known of the paper: see docs/cipo_step_by_step.md")


def derived(config: Config, devices: list[PaperDevice] | None = None) -> list[Row]:
    """(name, value) of what follows from the config on `devices`, by default this machine's. It
    ends where something needed is missing, with the reason."""
    rows = list(_step(config))
    try:
        rows.extend(_parts(config, devices))
    except CipoError as error:
        rows.append(("not known here", str(error)))
    return rows


def time_line(config: Config, devices: list[PaperDevice], mean_tokens: float | None) -> list[Row]:
    """(name, value) of the time line, then what it assumes.

    Raises:
      CipoError: a mean out of range.
    """
    assumptions, shape = Assumptions(), None
    try:
        if config.model.source and local_model(config.model.source) is None:
            shape = shape_of(config.model.source)
            if shape is None:
                _require_model(config)
            config = with_published_shape(config)
        else:
            config = _require_model(config)
        shapes = open_shapes(config, devices, shape)
    except CipoError as error:
        return [("not known here", str(error))]
    found = make_timeline(shapes, assumptions, mean_tokens)
    rows = list(lines(found))
    rows.append(("sampling.tensor", _layouts(config, shapes, shape, found, mean_tokens)))
    if config.model.remat == "auto":
        rows.append(("model.remat", "auto counts as full: what fits is known once it is compiled"))
    if shape is not None:
        rows.append(("prompts", "counted in bytes: the model's tokenizer is not here"))
    rows.append(("not counted", NOT_COUNTED))
    return [*rows, *((f"assumed {name}", value) for name, value in assumed(assumptions))]


def _layouts(
    config: Config,
    shapes: Shapes,
    shape: Mapping[str, Any] | None,
    found: Timeline,
    mean_tokens: float | None,
) -> str:
    """Sampling's seconds with as many tensor shards as there are, and with others."""
    devices, model = list(shapes.policy.mesh.devices.flat), shapes.policy.model
    tensor = shapes.sampler[1].shape["tensor"]
    said = [f"{tensor}: {seconds(found.sampling)} of sampling"]
    for other in tensor_choices(model, found.machine.chips // found.machine.hosts):
        if other == tensor:
            continue
        changed = changed_config(config, {"sampling.tensor": other})
        try:
            opened = open_shapes(changed, devices, shape)
        except CipoError:  # such as a cache of a given size that is too small for more row shards
            said.append(f"{other} cannot be")
        else:
            instead = sampling_seconds(opened, Assumptions(), mean_tokens)
            said.append(f"with {other} it would be {seconds(instead)}")
    return ", ".join(said)


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
    most = r.most_problems * r.group_size + config.num_corrections
    limit = config.data.max_completion_tokens
    yield "method", method_name(k.weight)
    corrections = f", {again} of them corrections" if (again := config.anchor_counts[1]) else ""
    yield "anchors", f"{anchors} a step{corrections}"
    each = f"{r.problems_per_step} problems x {r.group_size} attempts"
    each += f" + {anchors} anchors x {k.group_size} corrections" if anchors else ""
    if anchors and k.wrong_group_multiple > 1:
        each += f", wrong ones x {k.wrong_group_multiple} in so many times fewer groups"
    yield "completions", f"{completions} a step: {each}"
    yield "sampled tokens", f"at most {most * limit:,} a step, {limit:,} a completion"
    in_all = f"{config.num_steps} steps, {config.num_steps * completions:,} completions"
    if r.max_refills:
        yield "dynamic sampling", f"at most {r.max_refills} x {base} completions more a step"
        in_all += f", at most {config.num_steps * most:,} with dynamic sampling"
    yield "run", in_all
    yield "updates", f"{config.num_updates} a step"


def _require_model(config: Config) -> Config:
    """`config` with its model's directory.

    Raises:
      CipoError: the model is not on this machine.
    """
    source = config.model.source
    if not source:
        return config
    directory = local_model(source)
    if directory is None:
        raise CipoError(
            f"config.model.source: {source!r} is neither a directory here nor in the hub's "
            "cache; prompt budgets, parameters and rows follow from it. --mode=fetch gets it"
        )
    here = dataclasses.replace(config.model, source=str(directory))
    return dataclasses.replace(config, model=here)


def _parts(config: Config, devices: list[PaperDevice] | None) -> Iterator[Row]:
    """What also depends on tokenizer, model and devices; the costly last.

    Raises:
      CipoError: as training would, or the model is not on this machine.
    """
    c = _require_model(config)
    tokenizer = open_tokenizer(c)
    longest = longest_prompt(c, open_prompts(c, tokenizer))
    yield "base prompt", f"at most {c.data.max_prompt_tokens:,} tokens"
    if longest > c.data.max_prompt_tokens:
        yield (
            "correction prompt",
            f"at most {longest:,} tokens: {c.data.max_prompt_tokens:,} of the problem, "
            f"{c.data.max_attempt_tokens:,} of the attempt, the rest is the template",
        )
    mesh = open_mesh(c.mesh, devices)
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
