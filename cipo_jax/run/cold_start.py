"""Supervised warm-up: a policy that never succeeds gets no reward to learn from.

Demonstrations of answers and of corrections are imitated until the pass rate on held-out problems
reaches a threshold. The phase has checkpoints of its own, so it can be interrupted, and a finished
one serves later runs (`init_from`).
"""

import dataclasses
import time

import jax
import numpy as np
import optax
from tqdm import tqdm

from cipo_jax.config.keys import ColdStart, Config
from cipo_jax.data.datasets import DemonstrationSource, open_demonstrations
from cipo_jax.data.prompts import PromptWriter
from cipo_jax.data.tasks.generated import TrueLines
from cipo_jax.policy.model import Params
from cipo_jax.policy.random_keys import random_key
from cipo_jax.rl.losses import demonstration_loss
from cipo_jax.rl.optimizer import warmup_schedule
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.rl.train_step import Metrics
from cipo_jax.run.hosts.preemption import Preempted
from cipo_jax.run.parameters import fresh_parameters
from cipo_jax.run.parts import Parts
from cipo_jax.run.problems import line_checker, open_training
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.run.records.record import Record
from cipo_jax.run.update import BatchPlan, Policy, Update, configured_optimizer, not_finite
from cipo_jax.run.watch.heartbeat import time_left
from cipo_jax.types import BASE, CipoError, Prompt

WARMUP_STEPS = 20
LOG_EVERY = 10


@dataclasses.dataclass(frozen=True)
class Material:
    """What the phase learns from, the held-out prompts that measure it, and the checker of lines of
    attempts at them, where there is one."""

    demonstrations: DemonstrationSource
    held_out: list[Prompt]
    true_lines: TrueLines | None = None


def open_material(config: Config, prompts: PromptWriter) -> Material:
    """Opens both, so that mistakes in them are found before a run begins.

    Raises:
      CipoError: anything wrong with the files or the settings.
    """
    cs, d = config.cold_start, config.data
    true_lines = line_checker(d.train)
    if cs.stop_at_lines_true and true_lines is None:
        raise CipoError(
            f"config.cold_start.stop_at_lines_true: got {cs.stop_at_lines_true}, wanted 0 with "
            f"config.data.train={d.train!r}, of which no lines can be checked"
        )
    try:
        demonstrations = open_demonstrations(
            cs.demonstrations,
            config.seed,
            correction_share=cs.correction_share,
            right_share=cs.right_share,
            min_operations=d.min_operations,
            max_operations=d.max_operations,
            practice_share=cs.practice_share,
        )
        for demonstration in demonstrations.batch(0, cs.batch_size):
            prompts.demonstration(demonstration)
    except CipoError as error:
        if str(error).startswith("config."):
            raise
        raise CipoError(f"config.cold_start.demonstrations: {error}") from error
    held_out = open_training(config, prompts, "dev")
    problems = held_out.first(cs.check_problems, "cold_start.check_problems")
    asked = [prompts.base(problem) for problem in problems]
    return Material(demonstrations, asked, true_lines)


def cold_start(
    config: Config, parts: Parts, material: Material, run: Checkpoints, record: Record
) -> Params:
    """Runs the phase, or what is left of it, and returns its parameters.

    1. Imitate a batch of demonstrations (both streams' prompts, one token-mean loss).
    2. Every `check_every` steps: sample held-out problems, stop if the pass rate is reached, and
       the share of true lines.

    Args:
      run: the run's checkpoints; those of this phase are beside them.

    Raises:
      CipoError: the loss, the gradient or the parameters are not finite; they are not saved.
      Preempted: the run was asked to end. The last finished step is saved; during a check, the last
        checked one.
    """
    cs = config.cold_start
    schedule = warmup_schedule(cs.learning_rate, WARMUP_STEPS)
    update = make_imitation_update(config, parts.policy, schedule)
    key = jax.random.fold_in(random_key(config.seed), 1)

    with run.beside("cold_start", keep=1) as checkpoints:
        # A damaged one is set aside, and the phase is done again.
        if checkpoints.newest_intact() is None:
            params = fresh_parameters(config.model, config.seed, parts.policy)
            state, done = update.init(params), False
        else:
            state, host = checkpoints.restore(update.abstract)
            done = host["done"]
        start = int(state.step)
        record.rewind("cold_start", start)
        if done:
            return state.params

        began, pass_rate, lines_true, taken = time.monotonic(), 0.0, 0.0, start
        device_metrics: Metrics = {}  # of the last step of this process

        def progress() -> str:
            left = time_left(taken - start, cs.max_steps - start, time.monotonic() - began)
            return f"step {taken} of {cs.max_steps}{left}"

        parts.heartbeat.begin("cold start")
        with (
            parts.heartbeat.waiting(progress),
            tqdm(total=cs.max_steps, initial=start, desc="cold start", disable=None) as bar,
        ):
            for step in range(start, cs.max_steps):
                if parts.hosts.any_says(parts.hosts.notice.given):
                    if step:
                        if device_metrics:
                            _require_finite(step, device_metrics, cs.learning_rate)
                        checkpoints.save(step, state, {"done": False, "pass_rate": pass_rate})
                    raise Preempted
                # The batch is made while the device computes the step before, but no further ahead:
                # a request to end would wait behind all that is queued.
                batch = material.demonstrations.batch(step, cs.batch_size)
                sequences = [
                    TrainSequence(prompt, completion, np.zeros(len(completion)), 1.0, BASE)
                    for prompt, completion in map(parts.prompts.demonstration, batch)
                ]
                packed = update.pack(sequences)
                jax.block_until_ready(device_metrics)
                state, device_metrics = update.step(state, packed)
                bar.update()
                taken, last = step + 1, step + 1 == cs.max_steps
                check = taken % cs.check_every == 0 or last
                if not (check or taken % LOG_EVERY == 0):
                    continue
                _require_finite(taken, device_metrics, cs.learning_rate)
                loss = float(device_metrics["loss/base"])
                scalars = {"loss/demonstration": loss, "learning_rate": float(schedule(step))}
                if check:
                    attempts = parts.attempt(state.params, material.held_out, 1, key, "check")
                    parts.end_sampling()
                    judged = sum(a.judged for a in attempts)
                    pass_rate = sum(a.correct for a in attempts) / max(judged, 1)
                    scalars |= {"pass_rate": pass_rate} if judged else {}
                    scalars["error"] = 1 - judged / len(attempts)
                    told = f"pass@1 {pass_rate:.3f}"
                    if check_lines := material.true_lines:
                        found = [t for a in attempts for t in check_lines(a.problem, a.text)]
                        lines_true = sum(found) / max(len(found), 1)
                        scalars |= {"lines_true": lines_true} if found else {}
                        told += f"  lines true {lines_true:.3f}"
                record.write(taken, scalars, "cold_start")
                if check:
                    print(
                        f"cold start  step {taken}/{cs.max_steps}  loss {loss:.3f}  "
                        f"{told}  {time.monotonic() - began:.0f}s",
                        flush=True,
                    )
                    parts.heartbeat.said()
                    done = last or is_enough(cs, pass_rate, lines_true)
                    checkpoints.save(taken, state, {"done": done, "pass_rate": pass_rate})
                if done:
                    break
        return state.params


def make_imitation_update(config: Config, policy: Policy, schedule: optax.Schedule) -> Update:
    """The update of the phase, by the run's optimiser."""
    batch, size = config.batch, config.cold_start.batch_size
    return Update(
        policy,
        demonstration_loss,
        configured_optimizer(config.optimizer, schedule, policy.model.param_dtype, config.seed),
        stream_weights=(1.0, 0.0),
        # Corrections are demonstrations like others here; any of them may be the longest kind.
        plan=BatchPlan((0, size), batch.microbatch_rows, batch.row_tokens),
    )


def is_enough(cold_start: ColdStart, pass_rate: float, lines_true: float) -> bool:
    """Whether a check ends the phase: both shares are reached."""
    enough_right = pass_rate >= cold_start.stop_at_pass_rate
    return enough_right and lines_true >= cold_start.stop_at_lines_true


def _require_finite(step: int, measures: Metrics, learning_rate: float) -> None:
    """Raises `CipoError` if an update is not finite."""
    if name := not_finite(measures):
        raise CipoError(
            f"cold start, step {step}: {name} is not finite; what was saved before is. Lower "
            f"config.cold_start.learning_rate = {learning_rate}, in another --workdir"
        )
