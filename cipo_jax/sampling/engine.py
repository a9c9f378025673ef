"""The host loop of sampling: requests in, completions out as they finish.

Prompts are sorted by length and decoded in waves of a fixed number of rows; a wave runs until its
last row is done. Between chunks of decode steps the rows that have finished are handed out, so a
verifier can work on them while the others go on. Shapes are static: prompt widths are rounded up
to declared buckets, and every wave has the same number of rows.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from cipo_jax.policy.model import ModelConfig, Params
from cipo_jax.policy.sharding import logical_rules, replicated, require_mesh, row_count
from cipo_jax.sampling.decode import DecodeSettings, decode_chunk, prefill
from cipo_jax.types import CipoError, Completion

# (params, prompts, samples, key) -> (request id, completion) as they finish
Sample = Callable[[Params, Sequence[np.ndarray], int, jax.Array], Iterator[tuple[int, Completion]]]


def prompt_buckets(declared: Sequence[int], longest: int) -> tuple[int, ...]:
    """Ascending prompt widths: the declared ones, or powers of two from 16 up to `longest`.

    Raises:
      CipoError: the declared widths do not hold the longest prompt.
    """
    if not declared:
        width, buckets = 16, []
        while width < longest:
            buckets.append(width)
            width *= 2
        return (*buckets, longest)
    if max(declared) < longest:
        raise CipoError(
            f"config.sampling.prompt_buckets: got {tuple(declared)}, wanted a last bucket of at "
            f"least {longest}, the longest prompt that can occur"
        )
    return tuple(sorted(declared))


def make_sampler(
    config: ModelConfig,
    mesh: Mesh,
    settings: DecodeSettings,
    slots: int,
    buckets: Sequence[int],
) -> Sample:
    """Builds `sample(params, prompts, samples, key)`.

    `sample` yields `(request id, Completion)` in the order in which completions finish; the
    request id of sample j of prompt i is `i * samples + j`. A completion depends on the
    parameters, its prompt, its request id and the key, on nothing else. Call it inside
    `jax.set_mesh(mesh)`.

    Args:
      slots: rows decoded together (at least; rounded so that groups and devices come out even).
      buckets: ascending prompt widths.

    Raises:
      CipoError: from `sample`: an empty prompt, one beyond the last bucket, or one whose completion
        could run past the model's positions.
    """
    longest = min(buckets[-1], config.max_positions - settings.max_new_tokens)
    rules = logical_rules(mesh, config.axis_sizes)
    start = jax.jit(functools.partial(prefill, config, rules, settings), static_argnums=0)
    decode = jax.jit(functools.partial(decode_chunk, config, rules, settings), donate_argnums=1)

    def sample(
        params: Params, prompts: Sequence[np.ndarray], samples: int, key: jax.Array
    ) -> Iterator[tuple[int, Completion]]:
        require_mesh(mesh)
        _check_prompts(prompts, longest)
        wave_prompts = _wave_size(slots, samples, row_count(mesh))
        longest_first = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        for begin in range(0, len(prompts), wave_prompts):
            members = longest_first[begin : begin + wave_prompts]
            width = next(b for b in buckets if b >= len(prompts[members[0]]))
            yield from wave(params, prompts, members, width, wave_prompts, samples, key)

    def wave(
        params: Params,
        prompts: Sequence[np.ndarray],
        members: Sequence[int],
        width: int,
        rows: int,
        samples: int,
        key: jax.Array,
    ) -> Iterator[tuple[int, Completion]]:
        """Decodes the prompts named by `members`, left-padded to [rows, width]."""
        padded = np.zeros((rows, width), np.int32)
        lengths = np.zeros((rows,), np.int32)
        for row, i in enumerate(members):
            padded[row, width - len(prompts[i]) :] = prompts[i]
            lengths[row] = len(prompts[i])
        first_id = np.array([*members, *[0] * (rows - len(members))], np.int32) * samples
        request_ids = (first_id[:, None] + np.arange(samples, dtype=np.int32)).reshape(-1)

        put = functools.partial(jax.device_put, device=replicated(mesh))
        state = start(samples, params, put(padded), put(lengths), put(request_ids), put(key))
        handed_out = np.repeat(lengths == 0, samples)
        while not handed_out.all():
            state = decode(params, state)
            done, step = jax.device_get((state.done, state.step))
            if step >= settings.max_new_tokens:
                done = np.ones_like(done)
            ready = np.flatnonzero(done & ~handed_out)
            if not ready.size:
                continue
            handed_out[ready] = True
            tokens, logprobs, counts = jax.device_get((state.tokens, state.logprobs, state.lengths))
            for row in ready.tolist():
                taken = tokens[row, : counts[row]].copy()
                yield (
                    int(request_ids[row]),
                    Completion(
                        tokens=taken,
                        logprobs=logprobs[row, : counts[row]].copy(),
                        finished=bool(taken[-1] in settings.stop_ids),
                    ),
                )

    return sample


def _wave_size(slots: int, samples: int, devices: int) -> int:
    """Prompts per wave: about slots / samples, a multiple of the devices rows are split over."""
    prompts = max(1, slots // samples)
    return -(-prompts // devices) * devices


def _check_prompts(prompts: Sequence[np.ndarray], longest: int) -> None:
    for i, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= longest:
            raise CipoError(
                f"prompt {i}: has {len(prompt)} tokens, wanted 1 to {longest} (the last bucket, or "
                "what the model's positions leave beside the completion)"
            )
