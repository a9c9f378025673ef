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
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cipo_jax.archive import AttemptArchive
from cipo_jax.build import (
    Parts,
    Update,
    fresh_params,
    make_policy_update,
    open_parts,
    open_split,
)
from cipo_jax.checkpoint import Checkpoints, claim_workdir, config_differences
from cipo_jax.cold_start import Material, cold_start, open_material
from cipo_jax.config import Config, Rollout
from cipo_jax.data.batching import pad_share
from cipo_jax.data.datasets import ProblemSource
from cipo_jax.evaluate import evaluate
from cipo_jax.health import check_health, health_rules
from cipo_jax.metrics import (
    MetricWriter,
    anchor_metrics,
    format_step_line,
    of_streams_in_use,
    pass_rate_histogram,
    reduce_attempts,
    transitions,
)
from cipo_jax.policy.model import Params
from cipo_jax.report import write_report
from cipo_jax.rl.anchors import select_anchors
from cipo_jax.rl.corrections import retention
from cipo_jax.rl.difficulty import Difficulty, choose_learnable, remember, write_difficulty
from cipo_jax.rl.optimizer import make_schedule
from cipo_jax.rl.replay import ReplayState, update_replay
from cipo_jax.rl.train_step import TrainState
from cipo_jax.streams import (
    BaseStream,
    base_sequences,
    correct_array,
    correction_sequences,
    sample_base,
    sample_corrections,
    verified_array,
)
from cipo_jax.terminal import print_evaluation, print_header, print_pair, print_summary
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
    c, G, G_c = config, config.rollout.group_size, config.correction.group_size
    with contextlib.ExitStack() as stack:
        parts = stack.enter_context(open_parts(c))
        problems = open_split(c, "train")
        eval_prompts = [
            parts.base_prompt(p) for p in open_split(c, "test").first(c.data.eval_problems)
        ]
        num_anchors = 0
        if c.correction.weight > 0:
            num_anchors = round(c.correction.replay_fraction * c.rollout.problems_per_step)
        o = c.optimizer
        schedule = make_schedule(
            o.schedule, o.learning_rate, o.warmup_steps, o.decay_steps, o.final_share
        )
        update = make_policy_update(c, parts, schedule, num_anchors)

        material = None
        if c.init_from:
            _check_run(Path(c.init_from), c)
        elif c.cold_start.max_steps:
            material = open_material(c, parts)
        # Nothing is written before here: a run that cannot start leaves no directory behind.
        claim_workdir(workdir, config, provenance)
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", c.checkpoint.keep))
        metrics = stack.enter_context(contextlib.closing(MetricWriter(workdir, c.log.tensorboard)))
        archive = AttemptArchive(workdir)
        print_header(c, parts, workdir, update.abstract)

        state, host = _restore_or_begin(c, parts, material, workdir, update, checkpoints, metrics)
        start = int(state.step)
        reference = None
        if c.algorithm.kl_coef:
            reference = _reference(workdir, update, state.params, start)
        for phase in ("train", "health"):
            metrics.rewind(phase, start)
        metrics.rewind("eval", start if start else -1)
        run_key = jax.random.key(c.seed)
        eval_key = jax.random.fold_in(run_key, EVAL_KEY)
        train_key = jax.random.fold_in(run_key, TRAIN_KEY)
        rules = health_rules(c.health)

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
            print_evaluation(step, results)
            write_report(workdir, c.log.report_pairs)

        if start == 0:
            evaluate_now(0)
        recent_seconds: list[float] = []
        for step in range(start, c.num_steps):
            clock = [time.monotonic()]
            key = jax.random.fold_in(train_key, step)

            # 1. rollout
            prompts, spares = _choose_prompts(c.rollout, parts, problems, host, c.seed, step)
            base = sample_base(parts.attempt, state.params, prompts, spares, G, key)
            attempts, correct = base.attempts, correct_array(base.attempts, G)
            clock.append(time.monotonic())

            # 2. anchors
            anchors = select_anchors(
                correct,
                verified_array(attempts, G),
                num_anchors,
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
            clock.append(time.monotonic())

            # 4. advantages
            limit = c.data.max_completion_tokens
            sequences = base_sequences(attempts, G, c.algorithm, limit) + correction_sequences(
                corrections, G_c, anchors.right, c.correction.lambda_risk, c.algorithm, limit
            )

            # 5. update
            batch = update.pack(sequences, np.random.default_rng([c.seed, step, MINIBATCH_STREAM]))
            if reference is not None:
                batch = batch._replace(ref_logprobs=update.reference_logprobs(reference, batch))
            gradient_stats = {}
            every = c.log.gradient_stats_every
            if every and (step + 1) % every == 0:
                gradient_stats = update.gradient_stats(state.params, batch)
            state, device_metrics = update.step(state, batch)
            device_metrics, gradient_stats = jax.device_get((device_metrics, gradient_stats))
            clock.append(time.monotonic())
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

            # 7. report
            taken = step + 1
            scalars = {
                **reduce_attempts(attempts, G, "base"),
                **reduce_attempts(corrections, G_c, "correction"),
                **pass_rate_histogram(correct),
                **transitions(corrections),
                **anchor_metrics(anchors, correction_prompts),
                **of_streams_in_use(device_metrics),
                **{name: float(value) for name, value in gradient_stats.items()},
                "replay/rho": rho,
                "rollout/replaced_groups": float(len(base.replaced) // G),
                "learning_rate": float(schedule(step * c.batch.minibatches * c.batch.epochs)),
                "tokens/sampled": float(
                    sum(len(a.completion.tokens) for a in (*attempts, *base.replaced, *corrections))
                ),
                "tokens/trained": float(sum(device_metrics[f"{s}/tokens"] for s in STREAMS)),
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

            streaks, firings = check_health(rules, host.streaks, scalars, c.health.patience)
            host = dataclasses.replace(host, streaks=streaks)
            for firing in firings:
                print(f"health  {firing}; {c.health.action}", flush=True)
                metrics.write(taken, {f"health/{firing.rule.name}": firing.value}, "health")
            ill = bool(firings) and c.health.action != "warn"
            stop = ill and c.health.action == "stop"
            last = taken == c.num_steps or stop
            if last or (c.eval.every and taken % c.eval.every == 0):
                evaluate_now(taken)
            if last or ill or taken % c.checkpoint.every == 0:
                checkpoints.save(taken, state, host.to_json())
            if stop:
                break

        if host.difficulty:
            write_difficulty(workdir / "difficulty.jsonl", host.difficulty)
        report = write_report(workdir, c.log.report_pairs)
    print_summary(workdir, report, time.monotonic() - began)


@dataclasses.dataclass(frozen=True)
class HostState:
    """What the loop remembers between steps besides the TrainState; part of every checkpoint.

    Attributes:
      replay: the controller of rho.
      difficulty: running pass rate per problem id.
      streaks: how long each health rule has been broken.
    """

    replay: ReplayState
    difficulty: dict[str, Difficulty] = dataclasses.field(default_factory=dict)
    streaks: dict[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "HostState":
        return cls(
            replay=ReplayState(**raw["replay"]),
            difficulty={k: Difficulty(**v) for k, v in raw["difficulty"].items()},
            streaks=dict(raw["streaks"]),
        )


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


def _restore_or_begin(
    config: Config,
    parts: Parts,
    material: Material | None,
    workdir: Path,
    update: Update,
    checkpoints: Checkpoints,
    metrics: MetricWriter,
) -> tuple[TrainState, HostState]:
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
        return state, HostState.from_json(host)
    if config.init_from:
        params = _params_of_run(Path(config.init_from), update.abstract.params)
    elif material is not None:
        params = cold_start(config, parts, material, workdir, metrics)
    else:
        params = fresh_params(config, parts)
    return update.init(params), HostState(replay=ReplayState(rho=config.replay.initial))


def _reference(workdir: Path, update: Update, params: Params, step: int) -> Params:
    """The frozen parameters of the KL term: those before the first update, kept in the run."""
    with Checkpoints(workdir / "reference", keep=1) as saved:
        if step == 0:
            saved.save_params(params)
        return saved.restore_params(update.abstract.params)


def _check_run(run: Path, config: Config) -> None:
    """Raises `CipoError` unless `run` is a run directory whose parameters fit `config`."""
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


def _params_of_run(run: Path, like: Params) -> Params:
    """The newest parameters of another run directory: after RL, else after its cold start."""
    for phase in ("checkpoints", "cold_start"):
        if (run / phase).is_dir():
            with Checkpoints(run / phase, keep=1) as saved:
                if saved.latest_step() is not None:
                    print(f"starting from the parameters of {run}/{phase}")
                    return saved.restore_params(like)
    raise CipoError(f"config.init_from: {run} holds no finished checkpoint")
