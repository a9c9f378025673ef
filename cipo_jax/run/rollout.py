"""Prompts to verified attempts: the one path, for training, evaluation and both streams."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import jax
from tqdm import tqdm

from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.policy.model import Params
from cipo_jax.run.hosts.exchange import Judged, exchange
from cipo_jax.run.hosts.preemption import Preempted
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.sampling.engine import Sample
from cipo_jax.types import Attempt, Completion, Prompt, Verdict
from cipo_jax.verifiers.judge import verifier_works
from cipo_jax.verifiers.pool import VerifierPool

# (params, prompts, samples per prompt, key, what for) -> attempts, prompt-major
MakeAttempts = Callable[[Params, Sequence[Prompt], int, jax.Array, str], list[Attempt]]


@dataclasses.dataclass
class VerifyTimes:
    """What verification cost since its numbers were last read.

    Attributes:
      pending: seconds during which verdicts were outstanding.
      waited: of that, after sampling had ended, with nothing else to do.
      lost_workers: the pool's lost workers when last read.
    """

    pending: float = 0.0
    waited: float = 0.0
    lost_workers: float = 0.0


def make_attempter(
    sample: Sample,
    pool: VerifierPool,
    tokenizer: Tokenizer,
    stop_strings: Sequence[str] = (),
    times: VerifyTimes | None = None,
    hosts: Hosts | None = None,
    beat: Heartbeat | None = None,
) -> MakeAttempts:
    """Ties sampler, verifier pool and tokenizer together.

    The result samples `samples` completions of each prompt and has each verified while the others
    are still being decoded. `attempts[i * samples + j]` is sample j of prompt i. CipoError is
    raised where the verifier fails on all that it is given from the start.

    Args:
      stop_strings: texts end before the first of these.
      times: added to.
      hosts: the sampler yields this host's share of the completions; what the others made of theirs
        is then gathered. None: this host alone.
      beat: told how many completions and verdicts are still to come.
    """
    hosts, beat = hosts or Hosts(), beat or Heartbeat()
    times = VerifyTimes() if times is None else times
    works = False

    def judge(
        params: Params, prompts: Sequence[Prompt], samples: int, key: jax.Array, purpose: str
    ) -> list[Judged]:
        pending: dict[int, tuple[Completion, str, Future[Verdict]]] = {}
        mine = hosts.share(len(prompts))
        first, total = None, len(mine) * samples

        def to_come() -> str:
            verdicts = sum(not future.done() for _, _, future in list(pending.values()))
            left = f"{total - len(pending)} of {total} completions left"
            return f"{left}, {verdicts} verdicts outstanding"

        # A bar for whoever watches a terminal; silent in a pipe.
        with (
            beat.waiting(to_come),
            tqdm(total=total, desc=purpose, unit="seq", leave=False, disable=None) as bar,
        ):
            for request, completion in sample(params, [p.tokens for p in prompts], samples, key):
                text = before_stop(tokenizer.decode(completion.tokens.tolist()), stop_strings)
                verdict = pool.submit(prompts[request // samples].problem, text)
                first = first or time.monotonic()
                pending[request] = (completion, text, verdict)
                bar.update()
            bar.set_description(f"{purpose}: waiting for verdicts")
            sampled = time.monotonic()
            judged = []
            for request in range(mine.start * samples, mine.stop * samples):
                completion, text, future = pending[request]
                hosts.poll()
                judged.append((completion, text, future.result()))
        if first is not None:
            times.pending += time.monotonic() - first
            times.waited += time.monotonic() - sampled
        return judged

    def attempt(
        params: Params, prompts: Sequence[Prompt], samples: int, key: jax.Array, purpose: str
    ) -> list[Attempt]:
        try:
            own = judge(params, prompts, samples, key, purpose)
        except Preempted:
            own = None
        with beat.waiting(lambda: "the attempts of the other hosts"):
            everyones = exchange(hosts, own)
        attempts = [Attempt(prompts[i // samples], *judged) for i, judged in enumerate(everyones)]
        # Once it has worked, failures are data; a judge that is out of order for a while included.
        nonlocal works
        works = works or verifier_works(attempts)
        return attempts

    return attempt


def before_stop(text: str, stop_strings: Sequence[str]) -> str:
    """The text up to the first of `stop_strings` in it."""
    ends = [text.find(stop) for stop in stop_strings if stop in text]
    return text[: min(ends)] if ends else text
