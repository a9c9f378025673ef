"""A run in progress: its parts, its state, and what is done around its steps.

Decides when a run is evaluated, saved, watched and ended. The steps themselves are in `train.py`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from cipo_jax.config.keys import Config
from cipo_jax.data.datasets import ProblemSource
from cipo_jax.policy.model import Params
from cipo_jax.policy.random_keys import random_key
from cipo_jax.rl.train_step import TrainState
from cipo_jax.run.budget import Budget
from cipo_jax.run.evaluate import EVAL_KEY, evaluate, plain_values
from cipo_jax.run.first_wrong import follow
from cipo_jax.run.host_state import HostState
from cipo_jax.run.parts import Parts
from cipo_jax.run.problems import line_checker
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.run.records.record import Record
from cipo_jax.run.records.terminal import (
    format_step_line,
    print_evaluation,
    print_findings,
    print_gain,
    print_pair,
)
from cipo_jax.run.update import Update, not_finite
from cipo_jax.run.watch.compiles import Ledger
from cipo_jax.run.watch.health import check_health, health_rules
from cipo_jax.run.watch.learning import FIRST_STEPS
from cipo_jax.run.watch.profiling import Profile
from cipo_jax.run.watch.speed import PEAK_FLOPS
from cipo_jax.types import Attempt, CipoError, Prompt

# Without which an update is of no use, in the order in which they fail.
FINITE = {
    "loss/total": "the loss is",
    "grad_norm": "the gradient is",
    "param_norm": "the parameters are",
}
TRAIN_KEY = 3  # folded into the run's key, like the cold start's and the evaluation's


@dataclasses.dataclass
class Training:
    """A run in progress.

    Attributes:
      eval_prompts: of the problems it is evaluated on.
      given: attempts that are not its own, to be corrected in evaluations.
      reference: frozen parameters of the KL term; None without one.
      first_step, step: the steps done when this process began, and now.
      state, host: after `step` steps.
      is_over: there is nothing left to do.
    """

    config: Config
    parts: Parts
    problems: ProblemSource
    eval_prompts: list[Prompt]
    given: list[Attempt]
    update: Update
    schedule: optax.Schedule
    checkpoints: Checkpoints
    record: Record
    ledger: Ledger
    profile: Profile
    reference: Params | None
    state: TrainState
    host: HostState

    def __post_init__(self) -> None:
        c = self.config
        self.step = self.first_step = int(self.state.step)
        run_key = random_key(c.seed)
        self.eval_key = jax.random.fold_in(run_key, EVAL_KEY)
        self.train_key = jax.random.fold_in(run_key, TRAIN_KEY)
        self.peak_flops = PEAK_FLOPS.get(self.parts.policy.mesh.devices.flat[0].device_kind)
        self._budget = Budget(c.num_steps, c.max_sampled_tokens, c.eval)
        self._rules = health_rules(c.health)
        self._recent_seconds: list[float] = []
        self.is_over = self._budget.is_over(self.step, self.host.sampled_tokens)

    def save(self, score: float | None = None) -> None:
        """Saves the state after the last finished step; `score` chooses the best checkpoints."""
        self.parts.heartbeat.begin("checkpoint", "the disk")
        self.checkpoints.save(self.step, self.state, self.host.to_json(), score)
        self.parts.heartbeat.end()

    def evaluate(self) -> dict[str, float]:
        """Evaluates the policy as it is; returns the metrics as they are written."""
        c, parts = self.config, self.parts
        parts.heartbeat.begin("eval")
        estimates, attempts = evaluate(
            parts.attempt,
            self.state.params,
            self.eval_prompts,
            parts.prompts.correction,
            samples=c.eval.samples,
            pass_at=c.eval.pass_at,
            corrected_attempts=c.eval.corrected_attempts,
            correction_rounds=c.eval.correction_rounds,
            given=self.given,
            true_lines=line_checker(c.data.eval),
            key=self.eval_key,
        )
        first, followed, corrections = follow(
            self.host.first_wrong,
            self.step,
            estimates,
            attempts,
            parts.attempt,
            self.state.params,
            self.eval_prompts,
            parts.prompts.correction,
            self.eval_key,
        )
        self.host = dataclasses.replace(self.host, first_wrong=first)
        parts.end_sampling()
        parts.heartbeat.end()
        results = plain_values(estimates | followed)
        named = {f"eval/{k}": v for k, v in results.items()}
        self.record.keep("eval", self.step, attempts, corrections)
        seconds = parts.heartbeat.take_times()["eval"]
        self.record.write(self.step, named | {"time/eval": seconds}, "eval")
        print_evaluation(self.step, results)
        print_gain(estimates)
        parts.heartbeat.said()
        return named

    def evaluate_if_due(self) -> None:
        """Before the first step of this process: a run that was asked to end during an evaluation
        has saved the state, and repeats the evaluation. The checkpoint gets its score; and if a
        health rule had stopped the run, for which that was the last evaluation, it ends now."""
        c, lines = self.config, {p: self.record.find(p, self.step) for p in ("eval", "health")}
        lines = self.parts.hosts.first_says(lines)
        stopped = c.health.action == "stop" and lines["health"] is not None
        if not (stopped or self._evaluation_is_due()):
            return
        measures = lines["eval"]
        if measures is None:
            measures = self.evaluate()
            self.is_over |= stopped
        if self.checkpoints.latest_step() == self.step:
            self.save(measures.get(c.checkpoint.best_metric))

    def require_finite(self, measures: Mapping[str, Any]) -> None:
        """Raises CipoError if a step's update is not finite, before its state is saved.

        Args:
          measures: the update's metrics.
        """
        name = not_finite(measures)
        if name is None:
            return
        what = FINITE[name]
        saved, o = self.checkpoints.latest_step(), self.config.optimizer
        again = "start again in another --workdir"
        if saved is not None:
            again = (
                f"continue from the last checkpoint, of step {saved}, whose parameters are finite, "
                f"in another --workdir by --config.init_from={self.record.workdir}"
            )
        raise CipoError(
            f"step {self.step}: {what} not finite, so it is not saved. Lower "
            f"config.optimizer.learning_rate = {o.learning_rate} or config.optimizer.grad_clip = "
            f"{o.grad_clip}, and {again}"
        )

    def print_step(self, measures: dict[str, float], attempts: list[Attempt]) -> None:
        """The step's line, and now and then an attempt beside its correction."""
        self._recent_seconds = [*self._recent_seconds, measures["time/step"]][-20:]
        left = self._budget.steps_left(self.step, self.host.sampled_tokens)
        seconds_left = float(np.median(self._recent_seconds)) * left
        line = format_step_line(self.step, self.config.num_steps, measures, seconds_left)
        print(line, flush=True)
        self.parts.heartbeat.said()
        if 1 < self.step <= FIRST_STEPS:  # those of the first were named before its update
            print_findings(measures)
        every = self.config.log.show_samples_every
        if every and self.step % every == 0:
            print_pair(attempts)

    def conclude_step(self, measures: dict[str, float]) -> None:
        """What follows from a step: health rules, an evaluation, a checkpoint, the end."""
        c = self.config
        self.ledger.check(self.first_step)
        streaks, firings = check_health(self._rules, self.host.streaks, measures, c.health.patience)
        self.host = dataclasses.replace(self.host, streaks=streaks)
        for firing in firings:
            print(f"health  {firing}; {c.health.action}", flush=True)
            self.record.write(self.step, {f"health/{firing.rule.name}": firing.value}, "health")
        unhealthy = bool(firings) and c.health.action != "warn"
        self.is_over = self._budget.is_over(self.step, self.host.sampled_tokens)
        self.is_over |= unhealthy and c.health.action == "stop"
        is_best = False
        if self.is_over or self._evaluation_is_due():
            measures = measures | self.evaluate()
            is_best = self.checkpoints.improves(measures.get(c.checkpoint.best_metric))
            self.record.report()
        self.checkpoints.check()
        if self.is_over or unhealthy or is_best or self.step % c.checkpoint.every == 0:
            self.save(measures.get(c.checkpoint.best_metric))

    def _evaluation_is_due(self) -> bool:
        host = self.host
        return self._budget.evaluation_is_due(self.step, host.sampled_tokens, host.step_tokens)
