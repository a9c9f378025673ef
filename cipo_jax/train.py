"""The hall: builds everything, then runs the loop. One iteration:

    1. rollout       sample a group of attempts for each problem, verify them     (base stream)
    2. anchors       choose attempts to put back, a share rho of them right
    3. correct       sample corrections of the anchors, verify them         (correction stream)
    4. advantages    group-relative, with risk-averse shaping of the correction rewards
    5. update        pack both streams, one compiled train step
    6. controller    rho follows retention
    7. report        metrics, samples on screen, evaluation, checkpoint

All that a resumed run needs is (seed, step), the TrainState and the controller's state: problems
are a function of (seed, step), sampling keys are folded from them, anchors are drawn from them.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cipo_jax.archive import AttemptArchive
from cipo_jax.build import Parts, Update, fresh_params, make_update, open_parts, open_split
from cipo_jax.checkpoint import Checkpoints, claim_workdir, config_differences
from cipo_jax.cold_start import cold_start
from cipo_jax.config import Config
from cipo_jax.data.batching import TrainSequence, pad_share
from cipo_jax.evaluate import evaluate
from cipo_jax.metrics import MetricWriter, format_step_line, reduce_attempts, transitions
from cipo_jax.policy.model import Params
from cipo_jax.report import write_report
from cipo_jax.rl import corrections as correction_rewards
from cipo_jax.rl.advantages import group_advantages
from cipo_jax.rl.anchors import Selection, select_anchors
from cipo_jax.rl.replay import ReplayState, update_replay
from cipo_jax.rl.train_step import PolicyLoss, make_optimizer, warmup_schedule
from cipo_jax.terminal import print_header, print_pair, print_summary
from cipo_jax.types import BASE, CORRECTION, STREAMS, Attempt, CipoError, Outcome, Prompt

EVAL_KEY, TRAIN_KEY = 2, 3  # folded into the run's key, like the cold start's


def train(config: Config, workdir: Path, provenance: dict[str, dict[str, Any]]) -> None:
    """Runs, or continues, the run in `workdir` to its last step.

    Raises:
      CipoError: a mistake in config or input; nothing of an existing run is lost.
    """
    began = time.monotonic()
    c, G = config, config.rollout.group_size
    with contextlib.ExitStack() as stack:
        parts = stack.enter_context(open_parts(c))
        problems = open_split(c, "train")
        eval_prompts = [
            parts.base_prompt(p) for p in open_split(c, "test").first(c.data.eval_problems)
        ]

        num_anchors = round(c.correction.replay_fraction * c.rollout.problems_per_step)
        if c.correction.weight == 0:
            num_anchors = 0
        schedule = warmup_schedule(c.optimizer.learning_rate, c.optimizer.warmup_steps)
        update = make_update(
            c,
            parts,
            PolicyLoss(c.algorithm.clip_low, c.algorithm.clip_high, c.algorithm.kl_coef),
            make_optimizer(
                schedule,
                c.optimizer.b1,
                c.optimizer.b2,
                c.optimizer.weight_decay,
                c.optimizer.grad_clip,
            ),
            stream_weights=(1.0, c.correction.weight),
            sequences=(
                c.rollout.problems_per_step * G,
                num_anchors * c.correction.group_size,
            ),
        )

        # Nothing is written before here: a run that cannot start leaves no directory behind.
        claim_workdir(workdir, config, provenance)
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", c.checkpoint.keep))
        metrics = stack.enter_context(contextlib.closing(MetricWriter(workdir, c.log.tensorboard)))
        archive = AttemptArchive(workdir)
        print_header(c, parts.model, parts.mesh, workdir, update.abstract)

        state, replay = _restore_or_begin(c, parts, workdir, update, checkpoints, metrics)
        start = int(state.step)
        reference = (
            _reference(workdir, update, state.params, start) if c.algorithm.kl_coef else None
        )
        metrics.rewind("train", start)
        metrics.rewind("eval", start if start else -1)
        run_key = jax.random.key(c.seed)
        eval_key = jax.random.fold_in(run_key, EVAL_KEY)
        train_key = jax.random.fold_in(run_key, TRAIN_KEY)

        def evaluate_now(step: int) -> None:
            results, attempts = evaluate(
                parts.attempt,
                state.params,
                eval_prompts,
                parts.correction_prompt,
                samples=c.eval.samples,
                pass_at=c.eval.pass_at,
                corrected_attempts=c.eval.corrected_attempts,
                key=eval_key,
            )
            metrics.write(step, {f"eval/{k}": v for k, v in results.items()}, "eval")
            if c.log.archive:
                archive.write("eval", step, attempts)
            shown = {k: v for k, v in results.items() if not k.endswith("_stderr")}
            print(f"eval  step {step}  " + "  ".join(f"{k} {v:.3f}" for k, v in shown.items()))
            write_report(workdir, c.log.report_pairs)

        if start == 0:
            evaluate_now(0)
        recent_seconds: list[float] = []
        for step in range(start, c.num_steps):
            clock = [time.monotonic()]
            key = jax.random.fold_in(train_key, step)

            # 1. rollout
            prompts = [
                parts.base_prompt(p) for p in problems.batch(step, c.rollout.problems_per_step)
            ]
            attempts = parts.attempt(state.params, prompts, G, key, "rollout")
            correct = _correct(attempts, G)
            clock.append(time.monotonic())

            # 2. anchors
            anchors = select_anchors(
                correct,
                # A verdict that the verifier never reached says nothing about the attempt.
                _outcomes(attempts, G) != Outcome.ERROR,
                num_anchors,
                replay.rho,
                (c.correction.band_low, c.correction.band_high),
                c.correction.max_per_problem,
                c.correction.shortage,
                np.random.default_rng([c.seed, step]),
            )
            quoted = [
                attempts[i * G + j] for i, j in zip(anchors.problem, anchors.sample, strict=True)
            ]

            # 3. correct
            correction_prompts = [parts.correction_prompt(a) for a in quoted]
            G_c = c.correction.group_size
            corrections = (
                parts.attempt(
                    state.params, correction_prompts, G_c, jax.random.fold_in(key, 1), "correct"
                )
                if correction_prompts
                else []
            )
            clock.append(time.monotonic())

            # 4. advantages
            base_advantages = group_advantages(correct, c.algorithm.advantage_norm)
            corrected = _correct(corrections, G_c)
            shaped = correction_rewards.shaped_rewards(
                corrected, anchors.right, c.correction.lambda_risk
            )
            correction_advantages = group_advantages(
                shaped, c.algorithm.correction_advantage_norm, unshaped_rewards=corrected
            )

            # 5. update
            batch = update.pack(
                [
                    *_sequences(attempts, base_advantages, BASE),
                    *_sequences(corrections, correction_advantages, CORRECTION),
                ]
            )
            if reference is not None:
                batch = batch._replace(ref_logprobs=update.reference_logprobs(reference, batch))
            state, device_metrics = update.step(state, batch)
            device_metrics = jax.device_get(device_metrics)
            clock.append(time.monotonic())
            if not math.isfinite(device_metrics["loss/total"]):
                raise CipoError(
                    f"step {step + 1}: the loss is not finite; the last checkpoint is that of step "
                    f"{checkpoints.latest_step()}. Lower optimizer.learning_rate = "
                    f"{c.optimizer.learning_rate} and continue from it in a new --workdir by "
                    f"--config.init_from={workdir}"
                )

            # 6. controller
            retention = correction_rewards.retention(corrected, anchors.right)
            rho = replay.rho
            if c.replay.adaptive:
                replay = update_replay(
                    replay,
                    retention,
                    target=c.replay.target_retention,
                    minimum=c.replay.minimum,
                    maximum=c.replay.maximum,
                    gap_weight=c.replay.gap_weight,
                    drop_weight=c.replay.drop_weight,
                    streak_weight=c.replay.streak_weight,
                )

            # 7. report
            taken = step + 1
            scalars = {
                **reduce_attempts(attempts, G, "base"),
                **reduce_attempts(corrections, G_c, "correction"),
                **transitions(corrections),
                **_anchor_metrics(anchors, correction_prompts),
                **_of_streams_in_use(device_metrics),
                "replay/rho": rho,
                "learning_rate": float(schedule(step)),
                "tokens/sampled": float(
                    sum(len(a.completion.tokens) for a in (*attempts, *corrections))
                ),
                "tokens/pad_share": pad_share(batch),
                "time/rollout": clock[1] - clock[0],
                "time/correct": clock[2] - clock[1],
                "time/update": clock[3] - clock[2],
                "time/step": clock[3] - clock[0],
            }
            metrics.write(taken, scalars, "train")
            if c.log.archive:
                archive.write("train", taken, [*attempts, *corrections])
            recent_seconds = [*recent_seconds, scalars["time/step"]][-20:]
            seconds_left = float(np.median(recent_seconds)) * (c.num_steps - taken)
            print(format_step_line(taken, c.num_steps, scalars, seconds_left), flush=True)
            if c.log.show_samples_every and taken % c.log.show_samples_every == 0:
                print_pair(corrections or attempts)
            last = taken == c.num_steps
            if last or (c.eval.every and taken % c.eval.every == 0):
                evaluate_now(taken)
            if last or taken % c.checkpoint.every == 0:
                checkpoints.save(taken, state, {"replay": dataclasses.asdict(replay)})

        report = write_report(workdir, c.log.report_pairs)
    print_summary(workdir, report, time.monotonic() - began)


def _restore_or_begin(
    config: Config,
    parts: Parts,
    workdir: Path,
    update: Update,
    checkpoints: Checkpoints,
    metrics: MetricWriter,
) -> tuple[Any, ReplayState]:
    """Where the run stands. In this order:

    1. the newest RL checkpoint in `workdir`;
    2. the parameters of another run (`init_from`);
    3. the cold start, from where it stands;
    4. the parameters of `model.source`, or random ones.
    """
    if (step := checkpoints.latest_step()) is not None:
        if step >= config.num_steps:
            print(f"{workdir} has done its {config.num_steps} steps; raise num_steps to go on")
        else:
            print(f"continuing {workdir} after step {step}")
        state, host = checkpoints.restore(update.abstract)
        return state, ReplayState(**host["replay"])
    replay = ReplayState(rho=config.replay.initial)
    if config.init_from:
        params = _params_of_run(Path(config.init_from), config, update.abstract.params)
    elif config.cold_start.max_steps:
        params = cold_start(config, parts, workdir, metrics)
    else:
        params = fresh_params(config, parts)
    return update.init(params), replay


def _reference(workdir: Path, update: Update, params: Params, step: int) -> Params:
    """The frozen parameters of the KL term: those before the first update, kept in the run."""
    with Checkpoints(workdir / "reference", keep=1) as saved:
        if step == 0:
            saved.save_params(params)
        return saved.restore_params(update.abstract.params)


def _params_of_run(run: Path, config: Config, like: Params) -> Params:
    """The newest parameters of another run directory: after RL, else after its cold start."""
    if not (run / "config.json").is_file():
        raise CipoError(f"config.init_from: {run} is not a run directory (no config.json)")
    for prefix in ("model.", "data.tokenizer"):
        for name, (theirs, ours) in config_differences(
            run / "config.json", config, only=prefix
        ).items():
            if name.startswith(("model.remat", "model.compute_dtype", "model.param_dtype")):
                continue
            raise CipoError(
                f"config.init_from: the run in {run} has {name} = {theirs!r}, this one {ours!r}; "
                "they must be equal to share parameters"
            )
    for phase in ("checkpoints", "cold_start"):
        if (run / phase).is_dir():
            with Checkpoints(run / phase, keep=1) as saved:
                if saved.latest_step() is not None:
                    print(f"starting from the parameters of {run}/{phase}")
                    return saved.restore_params(like)
    raise CipoError(f"config.init_from: {run} holds no finished checkpoint")


def _correct(attempts: Sequence[Attempt], group_size: int) -> np.ndarray:
    """[N, G] bool."""
    return np.array([a.correct for a in attempts], bool).reshape(-1, group_size)


def _outcomes(attempts: Sequence[Attempt], group_size: int) -> np.ndarray:
    """[N, G] of `Outcome`."""
    return np.array([a.verdict.outcome for a in attempts], object).reshape(-1, group_size)


def _sequences(
    attempts: Sequence[Attempt], advantages: np.ndarray, stream: int
) -> list[TrainSequence]:
    """Attempts with their advantages ([N, G], in the attempts' order), ready to be packed."""
    return [
        TrainSequence(a.prompt.tokens, a.completion.tokens, a.completion.logprobs, adv, stream)
        for a, adv in zip(attempts, advantages.reshape(-1).tolist(), strict=True)
    ]


def _anchor_metrics(anchors: Selection, prompts: Sequence[Prompt]) -> dict[str, float]:
    """What was put back; nothing without anchors."""
    if not len(anchors):
        return {}
    return {
        "anchor/count": float(len(anchors)),
        "anchor/realised_success_share": float(anchors.right.mean()),
        "anchor/fallback_frac": float(1 - anchors.in_band.mean()),
        "anchor/trimmed_frac": float(np.mean([p.trimmed for p in prompts])),
    }


def _of_streams_in_use(device_metrics: dict[str, Any]) -> dict[str, float]:
    """Drops the entries of a stream that had no tokens."""
    empty = [s for s in STREAMS if device_metrics[f"{s}/tokens"] == 0]
    return {
        name: float(value)
        for name, value in device_metrics.items()
        if not any(name.startswith(f"{s}/") or name == f"loss/{s}" for s in empty)
    }
