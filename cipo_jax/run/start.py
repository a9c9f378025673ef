"""The state of a run when it begins or continues, from a checkpoint or from another run.

Decides the order in which they are looked for. Where parameters are found is decided in
`parameters.py`, which config may continue a checkpoint in `records/checkpoint.py`.
"""

from pathlib import Path

from cipo_jax.config.keys import Config, Eval
from cipo_jax.config.ranges import did_you_mean
from cipo_jax.policy.model import Params
from cipo_jax.rl.replay import ReplayState
from cipo_jax.rl.train_step import TrainState
from cipo_jax.run.budget import Budget
from cipo_jax.run.cold_start import Material, cold_start
from cipo_jax.run.host_state import HostState
from cipo_jax.run.measures import METRICS, find_metric
from cipo_jax.run.parameters import fresh_parameters, newest_parameters
from cipo_jax.run.parts import Parts
from cipo_jax.run.problems import check_places
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.run.records.record import Record
from cipo_jax.run.update import Update
from cipo_jax.types import CipoError


def check_start(config: Config) -> None:
    """Refuses what can be seen to be wrong before anything that takes time.

    Raises:
      CipoError: a source does not exist, or the run does not measure `checkpoint.best_metric`.
    """
    check_places(config)
    name = config.checkpoint.best_metric
    if not config.checkpoint.keep_best or _is_measured(name, config.eval):
        return
    where = f"config.checkpoint.best_metric: got {name!r}, wanted"
    if find_metric(name) is None:
        hint = did_you_mean(name, [metric.name for metric in METRICS])
        raise CipoError(f"{where} a name of docs/metrics.md{hint}")
    raise CipoError(
        f"{where} a metric that the steps of this run or its evaluations have (eval.pass_at, "
        "eval.corrected_attempts and eval.given_attempts say which), or checkpoint.keep_best=0"
    )


def _is_measured(name: str, evaluation: Eval) -> bool:
    """Whether training steps, or evaluations with these settings, have the metric called `name`."""
    metric = find_metric(name)
    if metric is None or metric.section in ("Cold start", "Health"):
        return False
    if metric.name.startswith("eval/pass@"):
        return name.partition("@")[2].partition("_")[0] in map(str, evaluation.pass_at)
    if metric.name.startswith(("eval/correction/", "eval/first_wrong/")):
        return evaluation.corrected_attempts > 0
    return evaluation.given_attempts > 0 or not metric.name.startswith("eval/given/")


def restore_or_begin(
    config: Config,
    parts: Parts,
    material: Material | None,
    update: Update,
    checkpoints: Checkpoints,
    record: Record,
) -> tuple[TrainState, HostState]:
    """The state of the run, from the first of these that there is:

    1. its newest RL checkpoint;
    2. the parameters of another run (`init_from`);
    3. the cold start, or what is left of it;
    4. the parameters of `model.source`, or random ones.

    Raises:
      CipoError: the run's checkpoints are damaged, all of them, or those of another run.
    """
    if parts.hosts.first_says(checkpoints.latest_step()) is not None:
        state, host = checkpoints.restore(update.abstract)
        step = int(state.step)
        restored = HostState.from_json(host, config.rollout, step)
        budget = Budget(config.num_steps, config.max_sampled_tokens, config.eval)
        if step >= config.num_steps:
            print(f"{record.workdir} has done its {step} steps; raise num_steps to continue")
        elif budget.is_over(step, restored.sampled_tokens):
            print(f"{record.workdir} has sampled its tokens; raise max_sampled_tokens to continue")
        else:
            print(f"continuing {record.workdir} after step {step}")
        return state, restored
    if config.init_from:
        params = newest_parameters(Path(config.init_from), parts.policy)
    elif material is not None:
        params = cold_start(config, parts, material, checkpoints, record)
    else:
        params = fresh_parameters(config.model, config.seed, parts.policy)
    return update.init(params), HostState(replay=ReplayState(rho=config.replay.initial))


def frozen_reference(checkpoints: Checkpoints, update: Update, params: Params, step: int) -> Params:
    """The frozen parameters of the KL term: those before the first update, kept beside the run's
    checkpoints.

    Args:
      params: the run's, after `step` steps. Before the first step they are the reference, whatever
        an earlier start has left: `init_from` may have gone on since.

    Raises:
      CipoError: after a step, if they are not there or damaged.
    """
    if step == 0:
        with checkpoints.beside("reference", keep=1) as saved:
            saved.save_params(params)
    with checkpoints.beside("reference", keep=1, read_only=True) as saved:
        try:
            return saved.restore_params(update.abstract.params, 0)
        except CipoError as error:
            raise CipoError(
                f"the reference of the KL term (config.algorithm.kl_coef) cannot be read: {error}. "
                "It was saved before the first step and cannot be made again; restore the "
                "directory, or start from the run's parameters in another --workdir by "
                "--config.init_from"
            ) from error
