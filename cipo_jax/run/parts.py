"""From the config to the parts of a run: mesh, model, tokenizer, prompts, sampler, verifier pool.

Every mode takes its parts from here, all of them (`open_parts`) or those it needs, so that training
and evaluation cannot disagree about them. Steps and their order are decided by the caller;
parameters come from `parameters.py`.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from cipo_jax.config import keys
from cipo_jax.config.keys import Config
from cipo_jax.data.prompts import PromptWriter
from cipo_jax.data.stop_tokens import with_stop_tokens
from cipo_jax.data.tokenizer import Tokenizer, holds_tokenizer, load_tokenizer
from cipo_jax.policy import sharding
from cipo_jax.policy.host_copy import host_meshes
from cipo_jax.policy.huggingface import config as hf_config
from cipo_jax.policy.huggingface.hub import model_directory
from cipo_jax.policy.model import ModelConfig
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.rollout import Attempter
from cipo_jax.run.sampler import HostSampler
from cipo_jax.run.sizes import with_sizes
from cipo_jax.run.update import Policy, make_score
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.engine import Engine
from cipo_jax.sampling.settings import EngineSettings
from cipo_jax.types import CipoError
from cipo_jax.verifiers.judge import open_pool

_Settings = TypeVar("_Settings", keys.Sampling, EngineSettings)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
      config: of the run, with the sizes that were open, see `run/sizes.py`.
      attempt: prompts -> verified attempts.
      isolation: how generated programs are isolated from the machine; "" if none are run.
    """

    config: Config
    policy: Policy
    tokenizer: Tokenizer
    prompts: PromptWriter
    sampler: HostSampler
    attempt: Attempter
    hosts: Hosts
    heartbeat: Heartbeat
    isolation: str

    def end_sampling(self) -> dict[str, float]:
        """Ends a phase of sampling, which frees the cache's memory. Returns the phase's measures of
        sampling and verification."""
        return self.sampler.close() | self.attempt.take_measures()


@contextlib.contextmanager
def open_parts(
    config: Config,
    hosts: Hosts | None = None,
    sequences: int = 0,
    heartbeat: Heartbeat | None = None,
) -> Iterator[Parts]:
    """Builds the parts; mesh and verifier pool live as long as the context.

    Args:
      hosts: of the run; None: this one alone.
      sequences: as in `sizes.derive_sizes`.
      heartbeat: of the mode; None: one of the parts' own.

    Raises:
      CipoError: a value of the config that cannot work with the files and devices here.
    """
    c = config
    hosts = hosts or Hosts()
    with open_pool(c.verifier, wait=False) as pool, contextlib.ExitStack() as stack:
        # While its workers start:
        mesh = open_mesh(c.mesh)
        tokenizer = open_tokenizer(c)
        prompts = open_prompts(c, tokenizer)
        for warning in prompts.warnings() if hosts.first else ():
            print(f"warning  {warning}", flush=True)
        policy = open_policy(c, tokenizer, mesh, longest_prompt(c, prompts))
        c = with_sizes(c, policy, sequences, hosts)
        sampler = open_sampler(c, policy, tokenizer, hosts)
        pool.wait_until_ready()
        stack.enter_context(jax.set_mesh(mesh))
        if heartbeat is None:
            own = Heartbeat(c.log.heartbeat_seconds, prints=hosts.first)
            heartbeat = stack.enter_context(own)
        stops = (c.sampling.stop_strings, c.sampling.min_new_tokens)
        attempt = Attempter(sampler.sample, pool, tokenizer, *stops, hosts, heartbeat)
        about = pool.about
        yield Parts(c, policy, tokenizer, prompts, sampler, attempt, hosts, heartbeat, about)


def open_mesh(mesh: keys.Mesh, devices: list | None = None) -> Mesh:
    """The mesh of training, of all devices or of `devices`."""
    return sharding.make_mesh(mesh.data, mesh.fsdp, mesh.tensor, mesh.context, devices)


def open_tokenizer(config: Config) -> Tokenizer:
    """The tokenizer: `data.tokenizer`, or that of `model.source`, with the stop tokens of the
    `sampling` section."""
    name, source, s = config.data.tokenizer, config.model.source, config.sampling
    name = name if name or not source else str(model_directory(source))
    tokenizer = load_tokenizer(name, config.data.thinking)
    return with_stop_tokens(tokenizer, s.stop_tokens, s.stop_strings)


def open_prompts(config: Config, tokenizer: Tokenizer) -> PromptWriter:
    """What writes the prompts of the `data` section."""
    return PromptWriter(tokenizer, config.data, config.correction.show_failed_test)


def longest_prompt(config: Config, prompts: PromptWriter) -> int:
    """The most tokens of a prompt of a run, corrections included where there are any."""
    c, e = config, config.eval
    evaluated = e.corrected_attempts or e.given_attempts
    if c.correction.weight or c.cold_start.max_steps or evaluated:
        return prompts.longest_correction()
    return c.data.max_prompt_tokens


def open_policy(config: Config, tokenizer: Tokenizer, mesh: Mesh, longest: int) -> Policy:
    """What sampler and update are built from.

    Args:
      longest: bound of a prompt in tokens, see `longest_prompt`.

    Raises:
      CipoError: the longest prompt and completion do not fit into the model.
    """
    c, completion = config, config.data.max_completion_tokens
    model_config = make_model_config(c.model, c.data.tokenizer, tokenizer)
    if longest + completion > model_config.max_positions:
        raise CipoError(
            f"config.data: the longest prompt ({longest} tokens, with max_prompt_tokens "
            f"and max_attempt_tokens) plus max_completion_tokens = {completion} "
            f"is {longest + completion} tokens, but the model has {model_config.max_positions} "
            f"positions; {_lengths_that_fit(c.data, longest, model_config.max_positions)}"
        )
    return Policy(
        mesh=mesh,
        model=model_config,
        score=make_score(model_config, mesh, c.sampling.temperature),
        longest_prompt=min(c.data.max_prompt_tokens, longest),
        longest_correction_prompt=longest,
        longest_completion=completion,
    )


def _lengths_that_fit(data: keys.Data, longest: int, positions: int) -> str:
    """Limits that keep the longest sequence within the model's positions, as flags."""
    quoted = longest - data.max_prompt_tokens  # the attempt, and what the template adds; or nothing
    template = max(0, quoted - data.max_attempt_tokens)
    if quoted <= 0:
        half = positions // 2
        prompt = min(data.max_prompt_tokens, half)
        lengths = {"max_prompt_tokens": prompt, "max_completion_tokens": positions - prompt}
    else:
        # An attempt is quoted whole where its limit is that of a completion.
        prompt = min(data.max_prompt_tokens, positions // 4)
        each = (positions - prompt - template) // 2
        lengths = {
            "max_prompt_tokens": prompt,
            "max_attempt_tokens": each,
            "max_completion_tokens": each,
        }
    if min(lengths.values()) < 1:
        return "no lengths would fit: use a model with more"
    return "try " + " ".join(f"--config.data.{name}={value}" for name, value in lengths.items())


def make_model_config(model: keys.Model, tokenizer_name: str, tokenizer: Tokenizer) -> ModelConfig:
    """The architecture: that of `model.source`, or the config's own sizes.

    Raises:
      CipoError: the tokenizer is one of the embedded tasks, and the model has another; or the model
        has no embedding for some of the tokenizer's tokens.
    """
    computed: dict[str, Any] = {
        "param_dtype": model.param_dtype,
        "compute_dtype": model.compute_dtype,
        # Where a gradient is computed, `remat.with_remat` has replaced "auto". Other modes compute
        # none, and what counts one on paper counts the most.
        "remat": "full" if model.remat == "auto" else model.remat,
        "unroll": model.unroll,
    }
    if not model.source:
        return ModelConfig(
            vocab_size=tokenizer.vocab_size,
            num_layers=model.num_layers,
            d_model=model.d_model,
            num_heads=model.num_heads,
            num_kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            mlp_dim=model.mlp_dim,
            rope_theta=model.rope_theta,
            qk_norm=model.qk_norm,
            tie_embeddings=model.tie_embeddings,
            **computed,
        )
    directory = model_directory(model.source)
    loaded = hf_config.config_from_hf(directory, **computed)
    is_embedded = tokenizer_name and not Path(tokenizer_name).exists()
    # One with as many tokens is the model's: --mode=export writes it beside the model too.
    other_size = tokenizer.vocab_size != loaded.vocab_size
    if is_embedded and other_size and holds_tokenizer(directory):
        raise CipoError(
            f"config.data.tokenizer: got {tokenizer_name!r}, but the model in {model.source!r} was "
            "trained with the tokenizer that lies beside it; take that one by "
            "--config.data.tokenizer="
        )
    if tokenizer.vocab_size > loaded.vocab_size:
        raise CipoError(
            f"config.data.tokenizer: {tokenizer_name or model.source!r} has "
            f"{tokenizer.vocab_size} tokens, but the model in {model.source!r} embeds only "
            f"{loaded.vocab_size}; use the tokenizer that belongs to the model"
        )
    return loaded


def open_sampler(config: Config, policy: Policy, tokenizer: Tokenizer, hosts: Hosts) -> HostSampler:
    """The sampler of this host, with its part of the slots and of the cache."""
    if hosts.count == 1:
        return HostSampler(open_engine(config.sampling, policy, tokenizer), hosts, None)
    tensor = config.sampling.tensor  # as in `open_engine`, of this host's devices
    every, mesh = host_meshes(tensor or policy.mesh.shape["tensor"], replicas=tensor > 0)
    own = dataclasses.replace(settings_of_one(config.sampling, hosts.count), tensor=0)
    # The copy that a host samples with is made in the compute dtype.
    copied = dataclasses.replace(policy.model, param_dtype=policy.model.compute_dtype)
    policy = dataclasses.replace(policy, mesh=mesh, model=copied)
    return HostSampler(open_engine(own, policy, tokenizer), hosts, every)


def settings_of_one(settings: _Settings, hosts: int) -> _Settings:
    """Those of one of several hosts: its part of the slots and of the cache."""
    slots, tokens = -(-settings.slots // hosts), -(-settings.cache_tokens // hosts)
    return dataclasses.replace(settings, slots=slots, cache_tokens=tokens)


def open_engine(sampling: keys.Sampling, policy: Policy, tokenizer: Tokenizer) -> Engine:
    """The sampling engine, on the policy's mesh or another view of its devices.

    Args:
      sampling: with the sizes that were open; its `tensor` divides the number of devices.
    """
    s, mesh = sampling, sharding.whole_row_mesh(policy.mesh)
    settings = EngineSettings(
        max_prompt_tokens=policy.longest_correction_prompt,
        max_new_tokens=policy.longest_completion,
        choice=Choice(tokenizer.stop_ids, s.top_k, s.top_p, s.min_p, s.min_new_tokens),
        temperature=s.temperature,
        stop_strings=s.stop_strings,
        slots=s.slots,
        chunk=s.chunk,
        page_size=s.page_size,
        cache_tokens=s.cache_tokens,
        cache_dtype=s.cache_dtype,
        prefill_widths=s.prefill_widths,
        prefill_tokens=s.prefill_tokens,
        dispatch_ahead=s.dispatch_ahead,
    )
    if s.tensor:
        mesh = sharding.make_mesh(-1, 1, s.tensor, devices=mesh.devices.flatten().tolist())
    return Engine(policy.model, mesh, settings, tokenizer.decode)
