"""`--mode=generate`: a quick look at what a checkpoint says.

    python -m cipo_jax.main --mode=generate --workdir=runs/x --prompt="Compute (7+2)*3."

Prompts go through the config's templates as questions do in training; how tokens are chosen is the
config's `sampling` section. A single completion is shown while it is being sampled, several are
shown as they finish. Nothing is verified, and nothing is written but compiled programs, where the
config or a run directory has a place for them.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config
from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.policy.random_keys import key_data, random_key
from cipo_jax.run.parameters import find_parameters, load_parameters
from cipo_jax.run.parts import open_engine, open_mesh, open_policy, open_prompts, open_tokenizer
from cipo_jax.run.sizes import with_sizes
from cipo_jax.run.watch.compiles import open_compilation_cache
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.sampling.stop_strings import text_before_stop
from cipo_jax.types import CipoError, Completion, Problem


def command(invocation: Invocation) -> None:
    """The mode."""
    flags, prompts = invocation.flags, invocation.flags["prompt"] or []
    config, asked = invocation.config, (flags["samples"], flags["step"])
    with Heartbeat(config.log.heartbeat_seconds) as heartbeat:
        generate(config, invocation.workdir, prompts, *asked, heartbeat)


def generate(
    config: Config,
    workdir: Path,
    questions: Sequence[str],
    samples: int = 1,
    step: str = "latest",
    heartbeat: Heartbeat | None = None,
) -> list[str]:
    """Samples completions of each question, prints them and returns their texts, question-major.

    Args:
      workdir: a run directory, or, with `config.model.source`, any directory.
      step: as in `parameters.find_parameters`.
      heartbeat: says what the mode is doing; None: nothing does.

    Raises:
      CipoError: no question, a question over the budget, no such checkpoint.
    """
    if not questions:
        raise CipoError('--prompt is missing; --mode=generate answers it, as --prompt="1+1?"')
    if not all(question.strip() for question in questions):
        raise CipoError("--prompt: got an empty text, wanted a question")
    if samples < 1:
        raise CipoError(f"--samples: got {samples}, wanted at least 1")
    c, heartbeat = config, heartbeat or Heartbeat()
    place = find_parameters(c, workdir, step)
    heartbeat.begin("generate", "tokenizer and weights")
    print(f"parameters: {place or c.model.source}", flush=True)
    tokenizer = open_tokenizer(c)
    prompts = open_prompts(c, tokenizer)
    problems = [Problem(f"--prompt {i}", question) for i, question in enumerate(questions)]
    asked = [prompts.base(problem).tokens for problem in problems]
    mesh = open_mesh(c.mesh)
    policy = open_policy(c, tokenizer, mesh, max(map(len, asked)))
    # A cache for these requests, not for a training step's.
    sampling = with_sizes(c, policy, len(asked) * samples).sampling
    slots = min(sampling.slots, len(asked) * samples)
    sampling = dataclasses.replace(sampling, slots=slots)
    engine = open_engine(sampling, policy, tokenizer)

    stops = (c.sampling.stop_strings, c.sampling.min_new_tokens)

    def text_of(tokens: list[int]) -> str:
        return text_before_stop(tokens, *stops, tokenizer.decode)

    texts = [""] * (len(asked) * samples)
    done = 0

    def progress() -> str:
        tokens = sum(map(len, engine.progress().values()))
        return f"{done} of {len(texts)} completions, {tokens} tokens of unfinished ones"

    # `workdir` need not be a run's, and what is none gets no files.
    cache = "" if place is None and c.log.compilation_cache == "auto" else c.log.compilation_cache
    with (
        open_compilation_cache(cache, workdir),
        jax.set_mesh(mesh),
        heartbeat.waiting(progress),
    ):
        params = load_parameters(c, policy, place)
        engine.open(params)
        key = key_data(random_key(c.seed))
        for i, tokens in enumerate(asked):
            engine.submit(i * samples, tokens, key, samples)
        shown = ""  # of a single completion
        while engine.busy:
            finished = engine.step()
            if len(texts) == 1:
                for tokens_so_far in engine.progress().values():
                    settled = settled_text(text_of(tokens_so_far), c.sampling.stop_strings)
                    if settled.startswith(shown) and settled != shown:
                        print(settled[len(shown) :], end="", flush=True)
                        heartbeat.said()
                        shown = settled
            for request, completion in finished:
                heartbeat.said()
                done += 1
                text = texts[request] = text_of(completion.tokens.tolist())
                if len(texts) == 1 and text.startswith(shown):
                    print(text[len(shown) :])
                else:
                    print(f"\n[prompt {request // samples}, sample {request % samples}]\n{text}")
                print(f"({_summary(completion, tokenizer)})", flush=True)
    return texts


def settled_text(text: str, stop_strings: Sequence[str]) -> str:
    """The part of an unfinished completion's text that further tokens will not change: without an
    incomplete character and without what may become a stop string."""
    text = text.rstrip("\ufffd")
    starts = [stop[:n] for stop in stop_strings for n in range(1, len(stop) + 1)]
    kept = max((len(start) for start in starts if text.endswith(start)), default=0)
    return text[: len(text) - kept]


def _summary(completion: Completion, tokenizer: Tokenizer) -> str:
    if not completion.finished:
        ended = "the token limit"
    elif int(completion.tokens[-1]) in tokenizer.stop_ids:
        ended = "a stop token"
    else:
        ended = "a stop string"
    count, mean = len(completion.tokens), float(completion.logprobs.mean())
    return f"{count} tokens, mean log-prob {mean:.3f}, ended by {ended}"
