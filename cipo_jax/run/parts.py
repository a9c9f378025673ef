"""From the config to the parts of a run: mesh, model, tokenizer, prompts, sampler, verifier pool.

Every mode of the program builds the same parts here, so that training and evaluation cannot
disagree about them. Nothing is decided about steps and order; that is the caller's.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from cipo_jax.config.keys import Config
from cipo_jax.data import prompts
from cipo_jax.data.tokenizer import Tokenizer, load_tokenizer
from cipo_jax.policy import model, sharding
from cipo_jax.policy.host_copy import host_meshes
from cipo_jax.policy.huggingface import config as hf_config
from cipo_jax.policy.huggingface import load as hf_load
from cipo_jax.policy.huggingface.hub import model_directory
from cipo_jax.policy.model import ModelConfig, Params
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.rollout import MakeAttempts, VerifyTimes, make_attempter
from cipo_jax.run.sampler import HostSampler
from cipo_jax.run.update import Policy, make_score
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.engine import Engine
from cipo_jax.sampling.settings import EngineSettings, EngineStats
from cipo_jax.types import Attempt, CipoError, Demonstration, Problem, Prompt
from cipo_jax.verifiers.judge import open_pool
from cipo_jax.verifiers.pool import VerifierPool


@dataclasses.dataclass(frozen=True)
class Parts(Policy):
    """What a run is made of."""

    tokenizer: Tokenizer
    base_prompt: Callable[[Problem], Prompt]
    correction_prompt: Callable[[Attempt], Prompt]
    demonstration_tokens: Callable[[Demonstration], tuple[np.ndarray, np.ndarray]]
    attempt: MakeAttempts
    end_sampling: Callable[[], dict[str, float]]  # see `_end_sampling`
    hosts: Hosts
    beat: Heartbeat
    isolation: str  # how generated programs are kept from the machine; "" if none are run


@contextlib.contextmanager
def open_parts(config: Config, hosts: Hosts | None = None) -> Iterator[Parts]:
    """Builds the parts; mesh and verifier pool live as long as the context.

    Args:
      hosts: of the run; None: this one alone.

    Raises:
      CipoError: whatever in the config cannot work with the files and devices at hand.
    """
    c = config
    hosts = hosts or Hosts()
    with open_pool(c.verifier, wait=False) as pool, contextlib.ExitStack() as stack:
        # While its workers start:
        mesh = sharding.make_mesh(c.mesh.data, c.mesh.fsdp, c.mesh.tensor)
        tokenizer = open_tokenizer(c)
        policy = open_policy(c, tokenizer, mesh)
        longest = policy.longest_correction_prompt
        sampler = open_sampler(c, policy.model, mesh, tokenizer, longest, hosts)
        pool.wait_until_ready()
        times = VerifyTimes()
        stack.enter_context(jax.set_mesh(mesh))
        beat = Heartbeat(c.log.heartbeat_seconds, prints=hosts.first)
        stack.enter_context(beat)
        yield Parts(
            **{field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)},
            tokenizer=tokenizer,
            base_prompt=lambda problem: prompts.base_prompt(
                problem,
                tokenizer,
                c.data.prompt_template,
                c.data.chat_template,
                c.data.max_prompt_tokens,
            ),
            correction_prompt=lambda anchor: prompts.correction_prompt(
                anchor,
                tokenizer,
                c.data.correction_template,
                c.data.chat_template,
                c.data.max_attempt_tokens,
                c.correction.show_failed_test,
            ),
            demonstration_tokens=lambda demo: prompts.demonstration_tokens(
                demo,
                tokenizer,
                prompt_template=c.data.prompt_template,
                correction_template=c.data.correction_template,
                chat=c.data.chat_template,
                max_prompt_tokens=c.data.max_prompt_tokens,
                max_attempt_tokens=c.data.max_attempt_tokens,
                max_completion_tokens=c.data.max_completion_tokens,
            ),
            attempt=make_attempter(
                sampler.sample, pool, tokenizer, c.sampling.stop_strings, times, hosts, beat
            ),
            end_sampling=functools.partial(_end_sampling, sampler, pool, times),
            hosts=hosts,
            beat=beat,
            isolation=pool.about,
        )


def open_policy(config: Config, tokenizer: Tokenizer, mesh: Mesh) -> Policy:
    """What an update on `mesh` is built from.

    Raises:
      CipoError: the longest prompt and completion do not fit into the model.
    """
    model_config = make_model_config(config, tokenizer)
    return Policy(
        mesh=mesh,
        model=model_config,
        score=make_score(config, model_config, mesh),
        longest_prompt=config.data.max_prompt_tokens,
        longest_correction_prompt=correction_prompt_limit(config, tokenizer, model_config),
    )


def correction_prompt_limit(config: Config, tokenizer: Tokenizer, model_config: ModelConfig) -> int:
    """The most tokens of a prompt, corrections included where there are any.

    Raises:
      CipoError: with a completion it does not fit into the model.
    """
    c, limit = config, config.data.max_prompt_tokens
    if c.correction.weight > 0 or c.eval.corrected_attempts or c.cold_start.max_steps:
        limit = prompts.correction_prompt_budget(
            tokenizer,
            c.data.correction_template,
            c.data.chat_template,
            c.data.max_prompt_tokens,
            c.data.max_attempt_tokens,
        )
    longest = limit + c.data.max_completion_tokens
    if longest > model_config.max_positions:
        raise CipoError(
            f"config.data: the longest prompt ({limit} tokens, with max_prompt_tokens "
            f"and max_attempt_tokens) plus max_completion_tokens = {c.data.max_completion_tokens} "
            f"is {longest} tokens, but the model has {model_config.max_positions} positions"
        )
    return limit


def open_sampler(
    config: Config,
    model_config: ModelConfig,
    mesh: Mesh,
    tokenizer: Tokenizer,
    max_prompt_tokens: int,
    hosts: Hosts,
) -> HostSampler:
    """The sampler of this host, with its part of the slots and of the cache."""
    every, s = None, config.sampling
    if hosts.count > 1:
        every, mesh = host_meshes(s.tensor or config.mesh.tensor)
        own = dataclasses.replace(
            s, slots=-(-s.slots // hosts.count), cache_tokens=-(-s.cache_tokens // hosts.count)
        )
        config = dataclasses.replace(config, sampling=dataclasses.replace(own, tensor=0))
        # The copy that a host samples with is made in the compute dtype.
        model_config = dataclasses.replace(model_config, param_dtype=model_config.compute_dtype)
    return HostSampler(
        open_engine(config, model_config, mesh, tokenizer, max_prompt_tokens), hosts, every
    )


def open_engine(
    config: Config,
    model_config: ModelConfig,
    mesh: Mesh,
    tokenizer: Tokenizer,
    max_prompt_tokens: int,
) -> Engine:
    """The sampling engine for prompts of up to `max_prompt_tokens`."""
    s = config.sampling
    settings = EngineSettings(
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=config.data.max_completion_tokens,
        choice=Choice(
            stop_ids=tokenizer.stop_ids,
            top_k=s.top_k,
            top_p=s.top_p,
            min_p=s.min_p,
            min_new_tokens=s.min_new_tokens,
        ),
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
        if mesh.size % s.tensor:
            raise CipoError(
                f"config.sampling.tensor: got {s.tensor}, wanted a divisor of {mesh.size}, the "
                "number of devices"
            )
        mesh = sharding.make_mesh(-1, 1, s.tensor, devices=mesh.devices.flatten().tolist())
    return Engine(model_config, mesh, settings, tokenizer.decode)


def _end_sampling(sampler: HostSampler, pool: VerifierPool, times: VerifyTimes) -> dict[str, float]:
    """Ends a phase of sampling: gives the cache's memory back, so that the next phase begins with
    an empty one. Returns what sampling and verification did in it:

    "sampler/useful_rows": sampled tokens over rows computed; "sampler/reused_prompt": share of
    prompt tokens found in the cache; "sampler/preemptions"; "sampler/cache_used": share of the
    cache's pages held at the fullest; "time/verify_hidden": share of the time with outstanding
    verdicts that sampling went on meanwhile; "time/verify_wait": seconds it did not;
    "time/verify_p50", "time/verify_p99": seconds of the most recent items; "verify/lost_workers":
    killed or crashed. Shares of nothing are left out.
    """
    sampler.close()
    engine = sampler.engine
    s, engine.stats = engine.stats, EngineStats()
    stats = {
        "sampler/preemptions": float(s.preemptions),
        "sampler/cache_used": s.peak_pages / engine.num_pages,
    }
    if s.row_steps:
        stats["sampler/useful_rows"] = s.sampled_tokens / s.row_steps
    if s.prompt_tokens:
        stats["sampler/reused_prompt"] = s.reused_tokens / s.prompt_tokens
    if times.pending:
        stats["time/verify_hidden"] = 1 - times.waited / times.pending
    judged = pool.stats()
    stats["time/verify_wait"] = times.waited
    stats["time/verify_p50"] = judged["latency_p50_seconds"]
    stats["time/verify_p99"] = judged["latency_p99_seconds"]
    stats["verify/lost_workers"] = judged["restarts"] - times.lost_workers
    times.pending, times.waited, times.lost_workers = 0.0, 0.0, judged["restarts"]
    return stats


def open_tokenizer(config: Config) -> Tokenizer:
    """The tokenizer: `data.tokenizer`, or that of `model.source`."""
    d = config.data
    if d.tokenizer or not config.model.source:
        return load_tokenizer(d.tokenizer, d.thinking)
    return load_tokenizer(str(model_directory(config.model.source)), d.thinking)


def make_model_config(config: Config, tokenizer: Tokenizer) -> ModelConfig:
    """The architecture: that of `model.source`, or the config's own sizes."""
    m = config.model
    if m.source:
        loaded = hf_config.config_from_hf(
            model_directory(m.source),
            param_dtype=m.param_dtype,
            compute_dtype=m.compute_dtype,
            remat=m.remat,
            unroll=m.unroll,
        )
        if tokenizer.vocab_size > loaded.vocab_size:
            raise CipoError(
                f"config.data.tokenizer: {config.data.tokenizer or m.source!r} has "
                f"{tokenizer.vocab_size} tokens, but the model in {m.source!r} embeds only "
                f"{loaded.vocab_size}; use the tokenizer that belongs to the model"
            )
        return loaded
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        num_layers=m.num_layers,
        d_model=m.d_model,
        num_heads=m.num_heads,
        num_kv_heads=m.num_kv_heads,
        head_dim=m.head_dim,
        mlp_dim=m.mlp_dim,
        rope_theta=m.rope_theta,
        qk_norm=m.qk_norm,
        tie_embeddings=m.tie_embeddings,
        param_dtype=m.param_dtype,
        compute_dtype=m.compute_dtype,
        remat=m.remat,
        unroll=m.unroll,
    )


def fresh_params(config: Config, parts: Policy) -> Params:
    """Parameters before any training: those of `model.source`, or random ones from the seed."""
    if config.model.source:
        directory = model_directory(config.model.source)
        return hf_load.load_params(directory, parts.model, parts.mesh)
    return model.init_params(parts.model, jax.random.key(config.seed), parts.mesh)
