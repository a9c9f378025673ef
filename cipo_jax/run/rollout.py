"""Prompts to verified attempts: the one path, for training, evaluation and both streams.

    prompts -> sampler -> text -> verifier pool -> attempts, the same on all hosts

Decided here: that a completion goes to the verifier while others are still being decoded, and the
order of the result. Not decided: how tokens are sampled (`sampling/`), where (`sampler.py`).
"""

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
from cipo_jax.run.watch.heartbeat import Heartbeat, time_left
from cipo_jax.sampling.engine import Sample
from cipo_jax.sampling.stop_strings import text_before_stop
from cipo_jax.types import Attempt, Completion, Prompt, Verdict
from cipo_jax.verifiers.judge import verifier_works
from cipo_jax.verifiers.pool import VerifierPool

# (params, prompts, samples per prompt, key, what for) -> attempts, prompt-major
MakeAttempts = Callable[[Params, Sequence[Prompt], int, jax.Array, str], list[Attempt]]


class Attempter:
    """Samples completions and has each verified while the others are still being decoded.

    Args:
      sample: yields this host's share of the completions as they finish.
      stop_strings, min_new_tokens: where texts end, see `sampling/stop_strings`.
      hosts: from which the attempts of the others are gathered; None: this host alone.
      heartbeat: shows how many completions and verdicts are still missing.
    """

    def __init__(
        self,
        sample: Sample,
        pool: VerifierPool,
        tokenizer: Tokenizer,
        stop_strings: Sequence[str] = (),
        min_new_tokens: int = 0,
        hosts: Hosts | None = None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._sample, self._pool, self._tokenizer = sample, pool, tokenizer
        self._stop_strings, self._min_new_tokens = stop_strings, min_new_tokens
        self._hosts, self._heartbeat = hosts or Hosts(), heartbeat or Heartbeat()
        self._works = False  # the verifier has reached a verdict
        # Since `take_measures`: seconds with verdicts outstanding, and those after sampling alone.
        self._pending, self._waited, self._lost_workers = 0.0, 0.0, 0.0

    def __call__(
        self, params: Params, prompts: Sequence[Prompt], samples: int, key: jax.Array, purpose: str
    ) -> list[Attempt]:
        """`samples` attempts at each prompt; `attempts[i * samples + j]` is sample j of prompt i.
        Called by all hosts with all prompts.

        Args:
          purpose: shown while it lasts.

        Raises:
          CipoError: the verifier fails on all that it is given from the start.
          Preempted: the run was asked to end.
        """
        try:
            own = self._judge(params, prompts, samples, key, purpose)
        except Preempted:
            own = None
        with self._heartbeat.waiting(lambda: "the attempts of the other hosts"):
            everyones = exchange(self._hosts, own)
        attempts = [Attempt(prompts[i // samples], *judged) for i, judged in enumerate(everyones)]
        # Once it has worked, its failures are data, even if it is out of order for a while.
        self._works = self._works or verifier_works(attempts)
        return attempts

    def take_measures(self) -> dict[str, float]:
        """What verification took since this was last asked; see `measures.METRICS`."""
        judged = self._pool.stats()
        measures = {
            "time/verify_wait": self._waited,
            "time/verify_p50": judged["latency_p50_seconds"],
            "time/verify_p99": judged["latency_p99_seconds"],
            "verify/lost_workers": judged["restarts"] - self._lost_workers,
        }
        if self._pending:
            measures["time/verify_hidden"] = 1 - self._waited / self._pending
        self._pending, self._waited, self._lost_workers = 0.0, 0.0, judged["restarts"]
        return measures

    def _text(self, tokens: list[int]) -> str:
        decode = self._tokenizer.decode
        return text_before_stop(tokens, self._stop_strings, self._min_new_tokens, decode)

    def _judge(
        self, params: Params, prompts: Sequence[Prompt], samples: int, key: jax.Array, purpose: str
    ) -> list[Judged]:
        """This host's completions with their verdicts, in order."""
        pending: dict[int, tuple[Completion, str, Future[Verdict]]] = {}
        mine = self._hosts.share(len(prompts))
        first, total = None, len(mine) * samples
        began = time.monotonic()

        def to_come() -> str:
            done, so_far = len(pending), time.monotonic() - began
            verdicts = sum(not future.done() for _, _, future in list(pending.values()))
            left = f"{total - done} of {total} completions left{time_left(done, total, so_far)}"
            return f"{left}, {verdicts} verdicts outstanding"

        # The bar is shown on a terminal alone.
        with (
            self._heartbeat.waiting(to_come),
            tqdm(total=total, desc=purpose, unit="seq", leave=False, disable=None) as bar,
        ):
            tokens = [p.tokens for p in prompts]
            for request, completion in self._sample(params, tokens, samples, key):
                text = self._text(completion.tokens.tolist())
                prompt = prompts[request // samples]
                verdict = self._pool.submit(prompt.problem, prompt.opening + text)
                first = first or time.monotonic()
                pending[request] = (completion, text, verdict)
                bar.update()
            bar.set_description(f"{purpose}: waiting for verdicts")
            sampled = time.monotonic()
            judged = []
            for request in range(mine.start * samples, mine.stop * samples):
                completion, text, future = pending[request]
                self._hosts.poll()
                judged.append((completion, text, future.result()))
        if first is not None:
            self._pending += time.monotonic() - first
            self._waited += time.monotonic() - sampled
        return judged
