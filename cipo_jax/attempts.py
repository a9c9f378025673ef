"""Prompts to verified attempts: the one path, for training, evaluation and both streams."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import jax
from tqdm import tqdm

from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.policy.model import Params
from cipo_jax.sampling.engine import Sample
from cipo_jax.types import Attempt, Completion, Prompt, Verdict
from cipo_jax.verifiers.pool import VerifierPool

# (params, prompts, samples per prompt, key, what for) -> attempts, prompt-major
MakeAttempts = Callable[[Params, Sequence[Prompt], int, jax.Array, str], list[Attempt]]


def make_attempter(sample: Sample, pool: VerifierPool, tokenizer: Tokenizer) -> MakeAttempts:
    """Ties sampler, verifier pool and tokenizer together.

    The result samples `samples` completions of each prompt and has each verified while the others
    are still being decoded. `attempts[i * samples + j]` is sample j of prompt i.
    """

    def attempt(
        params: Params, prompts: Sequence[Prompt], samples: int, key: jax.Array, purpose: str
    ) -> list[Attempt]:
        pending: dict[int, tuple[Completion, str, Future[Verdict]]] = {}
        total = len(prompts) * samples
        # A bar for whoever watches a terminal; silent in a pipe.
        with tqdm(total=total, desc=purpose, unit="seq", leave=False, disable=None) as bar:
            for request, completion in sample(params, [p.tokens for p in prompts], samples, key):
                text = tokenizer.decode(completion.tokens.tolist())
                verdict = pool.submit(prompts[request // samples].problem, text)
                pending[request] = (completion, text, verdict)
                bar.update()
            bar.set_description(f"{purpose}: waiting for verdicts")
            attempts = []
            for request in range(total):
                completion, text, future = pending[request]
                attempts.append(
                    Attempt(prompts[request // samples], completion, text, future.result())
                )
        return attempts

    return attempt
