"""The hall: builds everything, then runs the loop. One iteration:

    1. rollout       sample a group of attempts for each problem, verify them     (base stream)
    2. anchors       choose attempts to put back, a share rho of them right
    3. correct       sample corrections of the anchors, verify them         (correction stream)
    4. advantages    group-relative, with risk-averse shaping of the correction rewards
    5. update        pack both streams, one compiled train step
    6. controller    rho follows retention
    7. report        metrics, samples on screen, evaluation, checkpoint

SIGTERM abandons the rollout or evaluation under way, saves the last finished step and ends the run.
On several hosts each runs this loop, with the same values: see `hosts`.

All that a resumed run needs is (seed, step), the TrainState and the controller's state: problems
are a function of (seed, step), sampling keys are folded from them, anchors are drawn from them.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cipo_jax.config.checks import check_training
from cipo_jax.config.keys import Config, Rollout
from cipo_jax.data.datasets import ProblemSource
from cipo_jax.policy.overview import parameter_table
from cipo_jax.rl.anchors import select_anchors
from cipo_jax.rl.difficulty import choose_learnable, remember, write_difficulty
from cipo_jax.rl.optimizer import make_schedule
from cipo_jax.rl.packing import pad_share
from cipo_jax.rl.replay import update_replay
from cipo_jax.rl.rewards import retention, reward_array
from cipo_jax.run.budget import evaluation_is_due, is_over, steps_left
from cipo_jax.run.cold_start import open_material
from cipo_jax.run.evaluate import evaluate, plain_values
from cipo_jax.run.hosts.preemption import Preempted
from cipo_jax.run.hosts.processes import open_hosts
from cipo_jax.run.measures import (
    anchor_metrics,
    of_streams_in_use,
    pass_rate_histogram,
    reduce_attempts,
    transitions,
)
from cipo_jax.run.parts import Parts, open_parts
from cipo_jax.run.problems import given_attempts, open_evaluation, open_training
from cipo_jax.run.records.checkpoint import Checkpoints, checkpoint_root, origin
from cipo_jax.run.records.directory import claim_workdir
from cipo_jax.run.records.record import Record
from cipo_jax.run.records.terminal import (
    format_step_line,
    print_evaluation,
    print_header,
    print_pair,
    print_summary,
)
from cipo_jax.run.start import HostState, check_run, frozen_reference, restore_or_begin
from cipo_jax.run.streams import (
    BaseStream,
    base_sequences,
    correct_array,
    correction_sequences,
    sample_base,
    sample_corrections,
    verified_array,
)
from cipo_jax.run.update import make_policy_update, num_anchors
from cipo_jax.run.watch.compiles import LEDGER_FILE, Ledger, open_compilation_cache
from cipo_jax.run.watch.health import check_health, health_rules
from cipo_jax.run.watch.profiling import Profile
from cipo_jax.run.watch.speed import PEAK_FLOPS, speeds, step_times, update_flops
from cipo_jax.types import STREAMS, CipoError, Prompt

EVAL_KEY, TRAIN_KEY = 2, 3  # folded into the run's key, like the cold start's
# The third part of the seeds of host-side draws.
ANCHOR_STREAM, CURRICULUM_STREAM, MINIBATCH_STREAM = 0, 1, 2


def train(config: Config, workdir: Path, provenance: dict[str, dict[str, Any]]) -> None:
    """Runs, or continues, the run in `workdir` to its last step.

    Raises:
      CipoError: a mistake in config or input; nothing of an existing run is lost.
    """
    began = time.monotonic()
    check_training(config)
    c, G, G_c = config, config.rollout.group_size, config.correction.group_size
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(open_hosts())
        parts = stack.enter_context(open_parts(c, hosts))
        train_set, eval_set = open_training(c, parts.tokenizer), open_evaluation(c)
        problems = train_set.source
        eval_prompts = [parts.base_prompt(p) for p in eval_set.source.first(c.data.eval_problems)]
        given = given_attempts(c, eval_prompts)
        o = c.optimizer
        schedule = make_schedule(
            o.schedule, o.learning_rate, o.warmup_steps, o.decay_steps, o.final_share
        )
        update = make_policy_update(c, parts, schedule)

        material = None
        if c.init_from:
            check_run(Path(c.init_from), c)
        elif c.cold_start.max_steps:
            material = open_material(c, parts)
        # Nothing is written before here: a run that cannot start leaves no directory behind.
        identity = {"data.train": train_set.fingerprints, "data.eval": eval_set.fingerprints}
        claim_workdir(workdir, config, provenance, identity, writes=hosts.first)
        root = checkpoint_root(workdir, c.checkpoint.directory)
        saved = Checkpoints(
            root / "checkpoints",
            c.checkpoint.keep,
            keep_best=c.checkpoint.keep_best,
            origin=origin(c),
        )
        checkpoints = stack.enter_context(saved)
        record = stack.enter_context(Record(workdir, c.log, writes=hosts.first))
        beat = parts.beat
        stack.enter_context(open_compilation_cache(c.log.compilation_cache, workdir))
        ledger = Ledger(workdir / LEDGER_FILE if hosts.first else None, c.log, beat)
        stack.enter_context(ledger)
        profile = Profile(workdir / "profile" if hosts.first else None, c.log.profile_steps)
        stack.enter_context(profile)
        record.text("parameters.txt", parameter_table(update.abstract.params))
        print_header(c, parts, workdir, update.abstract)
        print(f"saving   {checkpoints.describe(update.abstract)}", flush=True)

        beat.begin("start", "checkpoint, cold start or weights")
        state, host = restore_or_begin(c, parts, material, workdir, update, checkpoints, record)
        start = int(state.step)
        reference = None
        if c.algorithm.kl_coef:
            reference = frozen_reference(root, update, state.params, start)
        for phase in ("train", "health"):
            record.rewind(phase, start)
        record.rewind("eval", start if start else -1)
        run_key = jax.random.key(c.seed)
        eval_key = jax.random.fold_in(run_key, EVAL_KEY)
        train_key = jax.random.fold_in(run_key, TRAIN_KEY)
        rules = health_rules(c.health)
        parameters = sum(x.size for x in jax.tree.leaves(update.abstract.params))
        peak = PEAK_FLOPS.get(parts.mesh.devices.flat[0].device_kind)

        def save_now(score: float | None = None) -> None:
            beat.begin("checkpoint", "the disk")
            checkpoints.save(int(state.step), state, host.to_json(), score)
            beat.end()

        def evaluate_now(step: int) -> dict[str, float]:
            beat.begin("eval")
            estimates, attempts = evaluate(
                parts.attempt,
                state.params,
                eval_prompts,
                parts.correction_prompt,
                samples=c.eval.samples,
                pass_at=c.eval.pass_at,
                corrected_attempts=c.eval.corrected_attempts,
                given=given,
                key=eval_key,
            )
            parts.end_sampling()
            beat.end()
            results = plain_values(estimates)
            named = {f"eval/{k}": v for k, v in results.items()}
            record.keep("eval", step, attempts)
            record.write(step, named | {"time/eval": beat.take_times()["eval"]}, "eval")
            print_evaluation(step, results)
            return named

        stack.push(_saving_if_preempted(save_now))
        # A run that was asked to end during an evaluation has saved the state, and makes up for it.
        due = evaluation_is_due(c, start, host.sampled_tokens, host.step_tokens)
        if due and not hosts.first_says(record.has("eval", start)):
            evaluate_now(start)
        recent_seconds: list[float] = []
        end = start if is_over(c, start, host.sampled_tokens) else c.num_steps
        for step in range(start, end):
            ledger.step = step + 1
            profile.before(step + 1)
            key = jax.random.fold_in(train_key, step)

            # 1. rollout
            beat.begin("rollout")
            prompts, spares = _choose_prompts(c.rollout, parts, problems, host, c.seed, step)
            base = sample_base(parts.attempt, state.params, prompts, spares, G, key, c.verifier)
            attempts, correct = base.attempts, correct_array(base.attempts, G)

            # 2. anchors
            beat.begin("correct")
            anchors = select_anchors(
                correct,
                verified_array(attempts, G),
                num_anchors(c),
                host.replay.rho,
                (c.correction.band_low, c.correction.band_high),
                c.correction.max_per_problem,
                c.correction.shortage,
                np.random.default_rng([c.seed, step, ANCHOR_STREAM]),
            )
            places = zip(anchors.problem, anchors.sample, strict=True)
            quoted = [attempts[i * G + j] for i, j in places]

            # 3. correct
            correction_prompts = [parts.correction_prompt(a) for a in quoted]
            corrections = sample_corrections(
                parts.attempt, state.params, correction_prompts, G_c, key
            )
            corrected = correct_array(corrections, G_c)
            sampling = parts.end_sampling()  # the update needs the cache's memory

            # 4. advantages
            beat.begin("update", "the device")
            limit, risk = c.data.max_completion_tokens, c.correction.lambda_risk
            rewards = reward_array(attempts, G, c.verifier)
            corr_rewards = reward_array(corrections, G_c, c.verifier)
            sequences = base_sequences(attempts, rewards, c.algorithm, limit)
            sequences += correction_sequences(
                corrections, corr_rewards, anchors.right, risk, c.algorithm, limit
            )

            # 5. update
            batch = update.pack(sequences, np.random.default_rng([c.seed, step, MINIBATCH_STREAM]))
            if reference is not None:
                beat.begin("score", "the device")
                scored = update.reference_logprobs(reference, batch)
                batch = batch._replace(ref_logprobs=jax.block_until_ready(scored))
                beat.begin("update", "the device")
            gradient_stats = {}
            every = c.log.gradient_stats_every
            if every and (step + 1) % every == 0:
                gradient_stats = update.gradient_stats(state.params, batch)
            state, device_metrics = update.step(state, batch)
            device_metrics, gradient_stats = jax.device_get((device_metrics, gradient_stats))
            beat.end()
            profile.after(step + 1)
            if not math.isfinite(device_metrics["loss/total"]):
                raise CipoError(
                    f"step {step + 1}: the loss is not finite; the last checkpoint is that of step "
                    f"{checkpoints.latest_step()}. Lower optimizer.learning_rate = "
                    f"{c.optimizer.learning_rate} and continue from it in a new --workdir by "
                    f"--config.init_from={workdir}"
                )

            # 6. controller
            rho = host.replay.rho
            host = _next_host_state(host, c, base, retention(corrected, anchors.right))
            host = host.has_sampled(
                sum(len(a.completion.tokens) for a in (*attempts, *base.replaced, *corrections))
            )

            # 7. report
            taken = step + 1
            scalars = {
                **reduce_attempts(attempts, G, "base", rewards),
                **reduce_attempts(corrections, G_c, "correction", corr_rewards),
                **pass_rate_histogram(correct),
                **sampling,
                **transitions(corrections),
                **anchor_metrics(anchors, correction_prompts),
                **of_streams_in_use(device_metrics),
                **{name: float(value) for name, value in gradient_stats.items()},
                "replay/rho": rho,
                "rollout/replaced_groups": float(len(base.replaced) // G),
                "learning_rate": float(schedule(step * c.batch.minibatches * c.batch.epochs)),
                "tokens/sampled": float(host.step_tokens),
                "tokens/trained": float(sum(device_metrics[f"{s}/tokens"] for s in STREAMS)),
                "tokens/pad_share": pad_share(batch),
                **step_times(beat.take_times()),
                **ledger.measures(),
            }
            flops = update_flops(parts.model, parameters, batch, c.batch.epochs)
            scalars |= speeds(scalars, parts.mesh.size, flops, peak)
            record.keep("train", taken, [*attempts, *corrections])
            record.write(taken, scalars, "train")
            recent_seconds = [*recent_seconds, scalars["time/step"]][-20:]
            left = steps_left(c, taken, host.sampled_tokens)
            seconds_left = float(np.median(recent_seconds)) * left
            print(format_step_line(taken, c.num_steps, scalars, seconds_left), flush=True)
            if c.log.show_samples_every and taken % c.log.show_samples_every == 0:
                print_pair(corrections or attempts)

            ledger.check(start)
            streaks, firings = check_health(rules, host.streaks, scalars, c.health.patience)
            host = dataclasses.replace(host, streaks=streaks)
            for firing in firings:
                print(f"health  {firing}; {c.health.action}", flush=True)
                record.write(taken, {f"health/{firing.rule.name}": firing.value}, "health")
            ill = bool(firings) and c.health.action != "warn"
            stop = ill and c.health.action == "stop"
            last = is_over(c, taken, host.sampled_tokens) or stop
            if last or evaluation_is_due(c, taken, host.sampled_tokens, host.step_tokens):
                scalars |= evaluate_now(taken)
                record.report()
            checkpoints.check()
            if last or ill or taken % c.checkpoint.every == 0:
                save_now(scalars.get(c.checkpoint.best_metric))
            if last:
                break

        if host.difficulty and hosts.first:
            write_difficulty(workdir / "difficulty.jsonl", host.difficulty)
        print_summary(workdir, record.report(), time.monotonic() - began)


def _saving_if_preempted(save: Callable[[], None]) -> Callable[..., None]:
    """For an ExitStack: saves the state of the last finished step, if there is one."""

    def leave(kind: type[BaseException] | None, *_: object) -> None:
        if kind is Preempted:
            save()

    return leave


def _next_host_state(
    host: HostState, config: Config, base: BaseStream, step_retention: float | None
) -> HostState:
    """The controller and the difficulty memory after a step's two streams."""
    r, replay = config.replay, host.replay
    if r.adaptive:
        replay = update_replay(
            replay,
            step_retention,
            target=r.target_retention,
            minimum=r.minimum,
            maximum=r.maximum,
            gap_weight=r.gap_weight,
            drop_weight=r.drop_weight,
            streak_weight=r.streak_weight,
        )
    G = config.rollout.group_size
    seen = [*base.attempts, *base.replaced]
    difficulty = remember(
        host.difficulty,
        [a.problem.id for a in seen[::G]],
        correct_array(seen, G).mean(axis=1),
        config.rollout.pass_rate_decay,
    )
    return dataclasses.replace(host, replay=replay, difficulty=difficulty)


def _choose_prompts(
    rollout: Rollout,
    parts: Parts,
    problems: ProblemSource,
    host: HostState,
    seed: int,
    step: int,
) -> tuple[list[Prompt], list[Prompt]]:
    """The step's prompts, and the spares of dynamic sampling: a function of (seed, step, host)."""
    wanted = rollout.problems_per_step * (1 + rollout.max_refills)
    if rollout.curriculum == "learnability":
        candidates = problems.batch(step, wanted * rollout.curriculum_candidates)
        chosen = choose_learnable(
            host.difficulty,
            [p.id for p in candidates],
            wanted,
            np.random.default_rng([seed, step, CURRICULUM_STREAM]),
        )
        drawn = [candidates[i] for i in chosen]
    else:
        drawn = problems.batch(step, wanted)
    prompts = [parts.base_prompt(p) for p in drawn]
    return prompts[: rollout.problems_per_step], prompts[rollout.problems_per_step :]
