"""A step, an evaluation and a run on paper: seconds of each part, and what bounds them.

    sampling       on each host over its own schedule (`decoding`); the slowest host counts
    verification   what is left of the verifier's queue when sampling has ended (`verification`)
    weights        from the trainer's shards to the sampler's, once a step
    score, update  executed FLOPs, padding and remat included, or weights and gradients over the
                   links
    rest           of the host, and checkpoints

What is left out is in `NOT_COUNTED`.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cipo_jax.config.keys import Config
from cipo_jax.rl.packing import microbatch_count, pack_rows
from cipo_jax.run.budget import Budget
from cipo_jax.run.forecast.assumptions import Assumptions
from cipo_jax.run.forecast.counts import (
    WEIGHT_PASSES,
    count_parameters,
    gradients_over_links,
    repeated_flops,
    weights_over_links,
)
from cipo_jax.run.forecast.decoding import Rollout, simulate
from cipo_jax.run.forecast.lengths import completion_lengths
from cipo_jax.run.forecast.machine import Machine, machine_of, one_hosts_sampler
from cipo_jax.run.forecast.verification import judged_at, judging_seconds
from cipo_jax.run.hosts.processes import share_of
from cipo_jax.run.memory_plan import Shapes
from cipo_jax.run.update import policy_loss
from cipo_jax.run.watch.speed import forward_flops

NOT_COUNTED = (
    "compilation (minutes, once), a cold start, dynamic sampling's refills, corrections of "
    "corrections as a rollout of their own, gradient statistics, preemptions; activations that "
    "chips exchange in the update (mesh.tensor, mesh.context), launches of a GPU's kernels; all "
    "completions have a backward pass, and those of one problem are as different in length as "
    "those of others"
)


class Sampled(NamedTuple):
    """What sampling and judging some completions takes on all hosts.

    Attributes:
      seconds: until the last completion.
      waiting: from then to the last verdict.
      parts: of the slowest host, see `Rollout.parts`.
      useful: share of the rows computed that drew a token, on all hosts.
      tail: seconds after nine of ten completions were done.
      evictions: on all hosts.
    """

    seconds: float
    waiting: float
    parts: dict[str, float]
    useful: float
    tail: float
    evictions: int


class Updated(NamedTuple):
    """What an update takes.

    Attributes:
      seconds: score and optimiser included.
      parts: by what bounds it: products or links, score, optimiser.
      flops: of the model, forward and backward, without padding and what is repeated.
      mfu: those over `seconds` and the chips' peak.
      tokens: trained on, prompts included.
      fill: share of the tokens computed that are no padding.
    """

    seconds: float
    parts: dict[str, float]
    flops: float
    mfu: float
    tokens: int
    fill: float


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Of a run. Seconds of a step's parts; `hours` of the whole run.

    Attributes:
      mean_tokens: of a completion.
      attempts, corrections: the two rollouts; None without corrections.
      weights: from the trainer's layout to the sampler's, once a step.
      rest: of the host, and checkpoints, their seconds shared out over the steps.
      evaluation: seconds of one.
      steps, evaluations: of the run.
    """

    machine: Machine
    mean_tokens: float
    attempts: Sampled
    corrections: Sampled | None
    weights: float
    update: Updated
    rest: float
    evaluation: float
    steps: int
    evaluations: int

    @property
    def sampling(self) -> float:
        return sum(s.seconds for s in self._rollouts)

    @property
    def verification(self) -> float:
        """What the verifier adds to sampling."""
        return sum(s.waiting for s in self._rollouts)

    @property
    def step(self) -> float:
        rollouts = self.sampling + self.verification + self.weights
        return rollouts + self.update.seconds + self.rest

    @property
    def hours(self) -> float:
        return (self.steps * self.step + self.evaluations * self.evaluation) / 3600

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds of a step by what bounds it, the largest first."""
        found: dict[str, float] = {}
        for rollout in self._rollouts:
            for part, seconds in rollout.parts.items():
                name = _DECODING[part]
                found[name] = found.get(name, 0.0) + seconds
        found |= {"verdicts": self.verification, "weights to the sampler": self.weights}
        found |= {_UPDATING[part]: seconds for part, seconds in self.update.parts.items()}
        found["host and checkpoints"] = self.rest
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def _rollouts(self) -> list[Sampled]:
        return [s for s in (self.attempts, self.corrections) if s is not None]


_DECODING = {
    "weights": "reading weights in decode steps",
    "cache": "reading keys and values",
    "products": "products of decode steps",
    "latency": "exchanges of decode steps",
    "prefill": "prefill",
    "host": "the host between decode chunks",
}
_UPDATING = {
    "products": "products of the update",
    "links": "the update's weights and gradients over the links",
    "score": "scoring",
    "optimiser": "the optimiser",
}


def make_timeline(
    shapes: Shapes, assumptions: Assumptions, mean_tokens: float | None = None
) -> Timeline:
    """The time line of a run of `shapes.config`.

    Args:
      mean_tokens: of a completion; None: the assumed share of its limit.

    Raises:
      CipoError: a kind of device whose speed is not known, or a mean beyond the limit.
    """
    return _Paper(shapes, assumptions, mean_tokens).timeline()


def sampling_seconds(
    shapes: Shapes, assumptions: Assumptions, mean_tokens: float | None = None
) -> float:
    """`Timeline.sampling` of `make_timeline`, alone."""
    attempts, corrections, _ = _Paper(shapes, assumptions, mean_tokens).rollouts()
    return attempts.seconds + (corrections.seconds if corrections else 0.0)


class _Paper:
    """What the parts of a time line are computed from."""

    def __init__(self, shapes: Shapes, assumptions: Assumptions, mean_tokens: float | None) -> None:
        c, a = shapes.config, assumptions
        self._shapes, self._config, self._assumed = shapes, c, a
        self._machine = machine_of(list(shapes.policy.mesh.devices.flat), a.network)
        limit = c.data.max_completion_tokens
        self._mean = a.completion_share * limit if mean_tokens is None else mean_tokens
        self._rng = np.random.default_rng(c.seed)
        self._prompt = max(1, round(a.prompt_share * shapes.policy.longest_prompt))
        self._settings, self._shards, self._shard = one_hosts_sampler(shapes, a)

    def rollouts(self) -> tuple[Sampled, Sampled | None, list[np.ndarray]]:
        """Of attempts and corrections, and [n] the tokens of each sequence of both streams."""
        c = self._config
        G, G_c, anchors = c.rollout.group_size, c.correction.group_size, c.num_anchors
        prompts = np.full(c.rollout.problems_per_step, self._prompt)
        lengths = self._lengths(len(prompts), G)
        attempts, corrections = self._sample(prompts, lengths), None
        sequences = [(prompts[:, None] + lengths).reshape(-1)]
        if anchors:
            quoted = self._rng.choice(lengths.reshape(-1), anchors, replace=anchors > lengths.size)
            asked = self._correction_prompts(quoted)
            lengths = self._lengths(anchors, G_c)
            corrections = self._sample(asked, lengths)
            sequences.append((asked[:, None] + lengths).reshape(-1))
        return attempts, corrections, sequences

    def timeline(self) -> Timeline:
        c = self._config
        attempts, corrections, sequences = self.rollouts()
        completions = sum(map(len, sequences))
        steps, evaluations = self._count(completions)
        state = self._shapes.update().sizes.device_bytes
        saving = state / self._assumed.saving / c.checkpoint.every
        return Timeline(
            machine=self._machine,
            mean_tokens=self._mean,
            attempts=attempts,
            corrections=corrections,
            weights=self._weights(),
            update=self._update(sequences),
            rest=completions * self._assumed.host_seconds + saving,
            evaluation=self._evaluation() if evaluations else 0.0,
            steps=steps,
            evaluations=evaluations,
        )

    def _lengths(self, prompts: int, samples: int) -> np.ndarray:
        """[prompts, samples]."""
        limit, sigma = self._config.data.max_completion_tokens, self._assumed.length_sigma
        lengths = completion_lengths(prompts * samples, self._mean, limit, sigma, self._rng)
        return lengths.reshape(prompts, samples)

    def _correction_prompts(self, quoted: np.ndarray) -> np.ndarray:
        """Tokens of the prompts that quote attempts of these lengths."""
        d, longest = self._config.data, self._shapes.policy.longest_correction_prompt
        template = max(0, longest - d.max_prompt_tokens - d.max_attempt_tokens)
        whole = self._prompt + template + np.minimum(quoted, d.max_attempt_tokens)
        return np.minimum(whole, longest)

    def _sample(self, prompts: np.ndarray, lengths: np.ndarray) -> Sampled:
        """On all hosts, each its share of the prompts."""
        c, a, hosts = self._config, self._assumed, self._machine.hosts
        mean = a.program_seconds if c.verifier.kind == "code" else a.judge_seconds
        limit, workers = c.verifier.timeout_seconds, c.verifier.workers or a.workers
        judging = judging_seconds(
            lengths.size, min(mean, limit), a.judge_sigma, a.hanging, limit, self._rng
        ).reshape(lengths.shape)
        rollouts: list[Rollout] = []
        judged = 0.0
        for host in range(hosts):
            own = share_of(len(prompts), host, hosts)
            if not own:
                continue
            part = slice(own.start, own.stop)
            rollout = simulate(
                self._settings,
                self._shards,
                self._shard,
                prompts[part].tolist(),
                lengths[part],
                a.turn_seconds,
            )
            rollouts.append(rollout)
            times = judged_at(
                rollout.finished.tolist(), judging[part].reshape(-1).tolist(), workers
            )
            judged = max(judged, *times)
        slowest = max(rollouts, key=lambda rollout: rollout.seconds)
        finished = np.concatenate([rollout.finished for rollout in rollouts])
        rows = sum(rollout.stats.row_steps for rollout in rollouts)
        return Sampled(
            seconds=slowest.seconds,
            waiting=max(0.0, judged - slowest.seconds),
            parts=slowest.parts,
            useful=sum(rollout.stats.sampled_tokens for rollout in rollouts) / rows,
            tail=slowest.seconds - float(np.quantile(finished, 0.9)),
            evictions=sum(rollout.stats.evictions for rollout in rollouts),
        )

    def _weights(self) -> float:
        """A chip gets its part of the weights, in the dtype that sampling reads."""
        model, mesh, _ = self._shapes.sampler
        if self._machine.chips == 1:
            return 0.0
        size = jnp.dtype(model.compute_dtype).itemsize * count_parameters(model)
        return size / mesh.shape["tensor"] / (self._assumed.links * self._machine.links)

    def _update(self, sequences: Sequence[np.ndarray]) -> Updated:
        """Args: sequences: [n] tokens of each sequence, of each stream."""
        c, policy, a, chips = self._config, self._shapes.policy, self._assumed, self._machine.chips
        model, b, axes = policy.model, self._config.batch, policy.mesh.shape
        rows = sum(len(pack_rows(lengths.tolist(), b.row_tokens)) for lengths in sequences)
        microbatches = b.minibatches * microbatch_count(
            -(-rows // b.minibatches), b.microbatch_rows
        )
        seen = np.concatenate([np.arange(1, n + 1) for lengths in sequences for n in lengths])
        fill = seen.size / (microbatches * b.microbatch_rows * b.row_tokens)
        forward = forward_flops(model, count_parameters(model), seen)
        speed = chips * a.products * self._machine.chip.flops
        compute = (3 * forward + repeated_flops(model, seen)) / fill / speed
        shards, tensor = axes["fsdp"] * axes["context"], axes["tensor"]
        weights = weights_over_links(model, shards, tensor)
        gradients = gradients_over_links(model, shards, tensor, axes["data"])
        seconds_a_byte = microbatches / (a.links * self._machine.links)
        links = seconds_a_byte * (weights + gradients)
        parts = {"products": b.epochs * compute}
        if links > compute:
            parts = {"links": b.epochs * links}
        # The frozen reference's log-probs, and the trainer's where an update has changed it.
        passes = int(c.algorithm.kl_coef > 0)
        if b.minibatches * b.epochs > 1:
            loss = policy_loss(c.algorithm, c.data.max_completion_tokens)
            passes += loss.needs_trainer_logprobs
        gathered = seconds_a_byte * weights / WEIGHT_PASSES
        parts["score"] = passes * max(forward / fill / speed, gathered)
        # State read and written, the gradient read.
        own = 2 * self._shapes.update().sizes.device_bytes
        own += 4 * count_parameters(model) // (shards * tensor)
        optimiser = own / (a.memory * self._machine.chip.bandwidth)
        parts["optimiser"] = b.minibatches * b.epochs * optimiser
        flops, seconds = 3 * b.epochs * forward, sum(parts.values())
        mfu = flops / (seconds * chips * self._machine.chip.flops)
        return Updated(seconds, parts, flops, mfu, int(seen.size), fill)

    def _evaluation(self) -> float:
        """Seconds of one: attempts at all problems, and the rounds of their corrections."""
        c, a = self._config, self._assumed
        problems = c.data.eval_problems or a.eval_problems
        lengths = self._lengths(problems, c.eval.samples)
        sampled = [self._sample(np.full(problems, self._prompt), lengths)]
        for _ in range(c.eval.correction_rounds if c.eval.corrected_attempts else 0):
            quoted = lengths[:, : c.eval.corrected_attempts].reshape(-1)
            lengths = self._lengths(len(quoted), 1)
            sampled.append(self._sample(self._correction_prompts(quoted), lengths))
        return self._weights() + sum(s.seconds + s.waiting for s in sampled)

    def _count(self, completions: int) -> tuple[int, int]:
        """Steps and evaluations of the run."""
        c, each = self._config, round(completions * self._mean)
        budget = Budget(c.num_steps, c.max_sampled_tokens, c.eval)
        step, evaluations = 0, int(budget.evaluation_is_due(0, 0, 0))
        while not budget.is_over(step, step * each):
            step += 1
            evaluations += budget.evaluation_is_due(step, step * each, each)
        return step, evaluations


def with_published_shape(config: Config) -> Config:
    """`config` for a model whose files are not here, see `policy/published`: its prompts are then
    counted in bytes, without a chat template, which is more than they have in tokens."""
    data = dataclasses.replace(config.data, tokenizer="bytes", chat_template=False)
    model = dataclasses.replace(config.model, source="")
    return dataclasses.replace(config, data=data, model=model)
