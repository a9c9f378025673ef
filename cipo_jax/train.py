"""Training: opens everything, then runs the loop. One iteration:

    1. rollout       sample a group of attempts for each problem, verify them     (base stream)
    2. anchors       choose attempts to put back, a share rho of them right
    3. correct       sample and verify corrections, on request of these too (correction stream)
    4. advantages    group-relative, with risk-averse shaping of the correction rewards
    5. update        pack both streams, one compiled train step
    6. controller    rho follows retention
    7. report        metrics, samples on screen, evaluation, checkpoint

SIGTERM abandons the current rollout or evaluation, saves the last finished step and ends the run.
On several hosts each runs this loop, with the same values: see `run/hosts`.

A resumed run continues from its checkpoint (parameters, optimiser, and the host state: controller,
difficulty of problems, health rules, sampled tokens). The rest, problems, sampling keys and the
draw of anchors, is a function of (seed, step).
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cipo_jax.config.checks import check_training
from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config
from cipo_jax.policy.overview import parameter_table
from cipo_jax.report.page import write_report
from cipo_jax.rl.optimizer import make_schedule
from cipo_jax.rl.packing import pad_share
from cipo_jax.rl.rewards import reward_array
from cipo_jax.run import streams
from cipo_jax.run.cold_start import open_material
from cipo_jax.run.draw import Draw, check_enough
from cipo_jax.run.hosts.preemption import Preempted
from cipo_jax.run.hosts.processes import connect, open_hosts
from cipo_jax.run.measures import device_measures, stream_measures
from cipo_jax.run.parameters import check_fits, check_parameters
from cipo_jax.run.parts import open_parts
from cipo_jax.run.problems import evaluation_prompts, open_evaluation, open_training
from cipo_jax.run.records.checkpoint import Checkpoints, checkpoint_root
from cipo_jax.run.records.difficulty_file import write_difficulty
from cipo_jax.run.records.files import explained
from cipo_jax.run.records.identity import claim_run
from cipo_jax.run.records.lock import DirectoryLock
from cipo_jax.run.records.origin import origin
from cipo_jax.run.records.record import Record, check_records
from cipo_jax.run.records.starts import this_start
from cipo_jax.run.records.terminal import print_findings, print_header, print_summary
from cipo_jax.run.remat import with_remat
from cipo_jax.run.start import check_start, frozen_reference, restore_or_begin
from cipo_jax.run.training import Training
from cipo_jax.run.update import make_policy_update
from cipo_jax.run.verdict import verdicts
from cipo_jax.run.watch.compiles import LEDGER_FILE, Ledger, open_compilation_cache
from cipo_jax.run.watch.profiling import Profile
from cipo_jax.run.watch.speed import speeds, step_times, update_flops
from cipo_jax.types import Prompt

# The last part of the seeds of host-side draws.
ANCHOR_STREAM, CURRICULUM_STREAM, MINIBATCH_STREAM = 0, 1, 2


def command(invocation: Invocation) -> None:
    """The mode `train`, on this host or as one of several."""
    provenance = invocation.provenance()
    names = ("coordinator", "num_processes", "process_id", "connect_timeout")
    connect(*(invocation.flags[name] for name in names))
    train(invocation.config, invocation.workdir, provenance)


def train(config: Config, workdir: Path, provenance: dict[str, dict[str, Any]]) -> None:
    """Runs, or continues, the run in `workdir` to its last step.

    Raises:
      CipoError: a mistake in config or input; nothing of an existing run is lost.
    """
    began = time.monotonic()
    check_training(config)
    with open_run(config, workdir, provenance) as run:
        run.evaluate_if_due()
        while not run.is_over:
            take_step(run)
        if run.parts.hosts.first:  # others may have no run directory, or an old one
            if run.host.difficulty:
                write_difficulty(workdir / "difficulty.jsonl", run.host.difficulty)
            report = run.record.report()
            print_summary(workdir, report, verdicts(workdir), time.monotonic() - began)


def take_step(run: Training) -> None:
    """One iteration, as at the head of this file."""
    c, parts, heartbeat, step = run.config, run.parts, run.parts.heartbeat, run.step
    G, G_c, verifier = c.rollout.group_size, c.correction.group_size, c.verifier
    key = jax.random.fold_in(run.train_key, step)
    run.ledger.step = taken = step + 1
    run.profile.before(taken)

    # 1. rollout
    heartbeat.begin("rollout")
    seed = [c.seed, step, CURRICULUM_STREAM]
    draw = Draw(run.problems, c.rollout, run.host.difficulty, seed, step, run.host.drawn)

    def written(count: int) -> list[Prompt]:
        return list(map(parts.prompts.base, draw.take(count)))

    base = streams.sample_base(
        parts.attempt,
        run.state.params,
        written(c.rollout.problems_per_step),
        G,
        key,
        verifier,
        c.algorithm.overlong,
        spares=written,
    )
    attempts = base.attempts

    # 2. anchors
    heartbeat.begin("correct")
    rho, rng = run.host.replay.rho, np.random.default_rng([c.seed, step, ANCHOR_STREAM])
    rules, (count, again) = (rho, c.correction, verifier, rng), c.anchor_counts
    anchors = streams.choose_anchors(attempts, G, count, *rules)
    quoted = [attempts[i * G + j] for i, j in anchors.in_slots()]

    # 3. correct
    asked, sizes = (parts.attempt, run.state.params, parts.prompts.correction, G_c, key), (G, G_c)
    corrections = streams.sample_corrections(*asked, quoted)
    if again:
        known = attempts, corrections, anchors, sizes
        anchors, quoted = streams.choose_again(*known, again, *rules)
        corrections += streams.sample_corrections(*asked, quoted, streams.AGAIN_KEY)
    sampling = parts.end_sampling()  # the update needs the cache's memory

    # 4. advantages
    heartbeat.begin("update", "the device")
    limit = c.data.max_completion_tokens
    kept = streams.judge_retention(attempts, corrections, anchors, sizes, c.replay, verifier)
    rewards = reward_array(attempts, G, verifier)
    correction_rewards = reward_array(corrections, G_c, verifier)
    sequences = streams.base_sequences(attempts, rewards, c.algorithm, verifier, limit)
    sequences += streams.correction_sequences(
        corrections,
        correction_rewards,
        anchors,
        c.correction,
        kept.is_held,
        c.algorithm,
        verifier,
        limit,
    )

    # 5. update
    sampled = base.sampled if c.rollout.max_refills else None
    streamed = stream_measures(
        attempts, sampled, corrections, sizes, anchors, sequences, verifier, c.algorithm
    )
    if step == 0:
        print_findings(streamed)
    batch = run.update.pack(sequences, np.random.default_rng([c.seed, step, MINIBATCH_STREAM]))
    if run.reference is not None:
        heartbeat.begin("score", "the device")
        scored = run.update.reference_logprobs(run.reference, batch)
        batch = batch._replace(ref_logprobs=jax.block_until_ready(scored))
        heartbeat.begin("update", "the device")
    gradient_stats = {}
    if c.log.gradient_stats_every and taken % c.log.gradient_stats_every == 0:
        members = streams.by_part(sequences, anchors, attempts, G, verifier)
        gradient_stats = run.update.gradient_stats(run.state.params, members, run.reference)
    run.state, on_device = run.update.step(run.state, batch)
    on_device = jax.device_get(on_device)
    heartbeat.end()
    run.profile.after(taken)
    run.step = taken
    run.require_finite(on_device)

    # 6. controller
    tokens = sum(len(a.completion.tokens) for a in (*base.sampled, *corrections))
    run.host = run.host.after_step(c.rollout, c.replay, verifier, base, kept, tokens, draw.drawn)

    # 7. report
    measures = {
        **streamed,
        **sampling,
        **device_measures(on_device),
        **gradient_stats,
        "replay/rho": rho,
        **({} if kept.target is None else {"replay/target": kept.target}),
        "rollout/replaced_groups": float(len(base.replaced) // G),
        "learning_rate": float(run.schedule(step * c.num_updates)),
        "tokens/sampled": float(tokens),
        "tokens/pad_share": pad_share(batch),
        **step_times(heartbeat.take_times()),
        **run.ledger.measures(),
    }
    learning = run.update.learning_microbatches(batch)
    flops = update_flops(
        parts.policy.model, run.update.sizes.parameters, batch, learning, c.batch.epochs
    )
    measures |= speeds(measures, parts.policy.mesh.size, flops, run.peak_flops)
    run.record.keep("train", taken, [*base.sampled, *corrections])
    run.record.write(taken, measures, "train")
    run.print_step(measures, corrections or attempts)
    run.conclude_step(measures)


@contextlib.contextmanager
def open_run(
    config: Config, workdir: Path, provenance: dict[str, dict[str, Any]]
) -> Iterator[Training]:
    """Opens the run in `workdir` at its last finished step, which is saved on SIGTERM.

    Raises:
      CipoError: as `train`. Nothing is written before everything has been checked.
    """
    c = config
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(open_hosts())
        stack.enter_context(explained(f"{workdir}, or the output"))
        lock = stack.enter_context(DirectoryLock(workdir, takes=hosts.first))
        if hosts.first:
            check_records(workdir, c.log)
        check_start(c)
        if c.init_from:
            check_fits(Path(c.init_from), c, "config.init_from")
        parts = stack.enter_context(open_parts(with_remat(c, hosts), hosts))
        train_set, eval_set = open_training(c, parts.prompts), open_evaluation(c)
        check_enough(train_set.source, c.rollout.problems_per_step)
        eval_prompts, given = evaluation_prompts(c, eval_set, parts.prompts)
        o = c.optimizer
        schedule = make_schedule(
            o.schedule, o.learning_rate, o.warmup_steps, o.decay_steps, o.final_share
        )
        update = make_policy_update(parts.config, parts.policy, schedule)
        material = None
        if c.model.source and not c.init_from and not (workdir / "config.json").is_file():
            check_parameters(c, workdir)
        if c.cold_start.max_steps and not c.init_from:
            material = open_material(c, parts.prompts)

        # Nothing is written before here: a run that cannot start leaves no directory behind.
        identity = {"data.train": train_set.fingerprints, "data.eval": eval_set.fingerprints}
        lock.take()
        begun = hosts.first_says(claim_run(workdir, c, provenance, identity, writes=hosts.first))
        checkpoints = stack.enter_context(
            Checkpoints(
                checkpoint_root(workdir, c.checkpoint.directory) / "checkpoints",
                keep=c.checkpoint.keep,
                keep_best=c.checkpoint.keep_best,
                origin=origin(c),
                config_agrees=begun,
            )
        )
        parts.heartbeat.begin("start", "where metrics go")  # a service may let wait
        record = stack.enter_context(Record(workdir, c.log, write_report, writes=hosts.first))
        stack.enter_context(open_compilation_cache(c.log.compilation_cache, workdir))
        ledger_file = workdir / LEDGER_FILE if hosts.first else None
        ledger = stack.enter_context(Ledger(ledger_file, c.log, parts.heartbeat))
        traces = workdir / "profile" if hosts.first else None
        profile = stack.enter_context(Profile(traces, c.log.profile_steps))
        record.text("parameters.txt", parameter_table(update.abstract.params))
        record.start(this_start(parts.policy.mesh, update.sizes.parameters))
        print_header(parts.config, parts, workdir, update)
        print(f"saving   {checkpoints.describe(update.abstract)}", flush=True)

        parts.heartbeat.begin("start", "checkpoint, cold start or weights")
        state, host = restore_or_begin(parts.config, parts, material, update, checkpoints, record)
        step, kl = int(state.step), c.algorithm.kl_coef
        reference = frozen_reference(checkpoints, update, state.params, step) if kl else None
        for phase in ("train", "health"):
            record.rewind(phase, step)
        record.rewind("eval", step if step else -1)
        run = Training(
            config=c,
            parts=parts,
            problems=train_set.source,
            eval_prompts=eval_prompts,
            given=given,
            update=update,
            schedule=schedule,
            checkpoints=checkpoints,
            record=record,
            ledger=ledger,
            profile=profile,
            reference=reference,
            state=state,
            host=host,
        )
        try:
            yield run
        except Preempted:
            run.save()
            raise
