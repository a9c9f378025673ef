"""Where a run stands when it begins or continues: its state, from a checkpoint or from another run.

Decides what is looked for in which order, and what the loop remembers between steps. What a
checkpoint is and which config may continue it is decided in `checkpoint`.
"""

import dataclasses
from pathlib import Path
from typing import Any

from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import read_resolved
from cipo_jax.policy.model import Params
from cipo_jax.rl.difficulty import Difficulty
from cipo_jax.rl.replay import ReplayState
from cipo_jax.rl.train_step import TrainState
from cipo_jax.run.budget import is_over
from cipo_jax.run.cold_start import Material, cold_start
from cipo_jax.run.parts import Parts, fresh_params
from cipo_jax.run.records.checkpoint import Checkpoints, checkpoint_root
from cipo_jax.run.records.directory import model_differences
from cipo_jax.run.records.record import Record
from cipo_jax.run.update import Update
from cipo_jax.types import CipoError


@dataclasses.dataclass(frozen=True)
class HostState:
    """What the loop remembers between steps besides the TrainState; part of every checkpoint.

    Attributes:
      replay: the controller of rho.
      difficulty: running pass rate per problem id.
      streaks: how long each health rule has been broken.
      sampled_tokens: in all steps so far.
      step_tokens: in the last step.
    """

    replay: ReplayState
    difficulty: dict[str, Difficulty] = dataclasses.field(default_factory=dict)
    streaks: dict[str, int] = dataclasses.field(default_factory=dict)
    sampled_tokens: int = 0
    step_tokens: int = 0

    def has_sampled(self, tokens: int) -> "HostState":
        """The state after a step that sampled `tokens`."""
        return dataclasses.replace(
            self, sampled_tokens=self.sampled_tokens + tokens, step_tokens=tokens
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "HostState":
        return cls(
            replay=ReplayState(**raw["replay"]),
            difficulty={k: Difficulty(**v) for k, v in raw["difficulty"].items()},
            streaks=dict(raw["streaks"]),
            sampled_tokens=raw.get("sampled_tokens", 0),
            step_tokens=raw.get("step_tokens", 0),
        )


def restore_or_begin(
    config: Config,
    parts: Parts,
    material: Material | None,
    workdir: Path,
    update: Update,
    checkpoints: Checkpoints,
    record: Record,
) -> tuple[TrainState, HostState]:
    """Where the run stands. In this order:

    1. the newest RL checkpoint in `workdir`;
    2. the parameters of another run (`init_from`);
    3. the cold start, from where it stands;
    4. the parameters of `model.source`, or random ones.
    """
    root = checkpoint_root(workdir, config.checkpoint.directory)
    if (step := parts.hosts.first_says(checkpoints.latest_step())) is not None:
        state, host = checkpoints.restore(update.abstract)
        restored, step = HostState.from_json(host), int(state.step)
        if step >= config.num_steps:
            print(f"{workdir} has done its {config.num_steps} steps; raise num_steps to go on")
        elif is_over(config, step, restored.sampled_tokens):
            print(f"{workdir} has sampled its tokens; raise max_sampled_tokens to go on")
        else:
            print(f"continuing {workdir} after step {step}")
        return state, restored
    if config.init_from:
        params = _params_of_run(Path(config.init_from), update.abstract.params)
    elif material is not None:
        params = cold_start(config, parts, material, root, record)
    else:
        params = fresh_params(config, parts)
    return update.init(params), HostState(replay=ReplayState(rho=config.replay.initial))


def frozen_reference(root: Path, update: Update, params: Params, step: int) -> Params:
    """The frozen parameters of the KL term: those before the first update, kept in the run."""
    with Checkpoints(root / "reference", keep=1) as saved:
        if step == 0:
            saved.save_params(params)
        return saved.restore_params(update.abstract.params)


def check_run(run: Path, config: Config) -> None:
    """Raises `CipoError` unless `run` is a run directory whose parameters fit `config`."""
    if not (run / "config.json").is_file():
        raise CipoError(
            f"config.init_from: {run} is not a run directory (no config.json); wanted the "
            "--workdir of another run, such as runs/demo"
        )
    for name, (theirs, ours) in model_differences(run / "config.json", config).items():
        raise CipoError(
            f"config.init_from: the run in {run} has {name} = {theirs!r}, this one {ours!r}; "
            "they must be equal to share parameters"
        )


def _params_of_run(run: Path, like: Params) -> Params:
    """The newest parameters of another run directory: after RL, else after its cold start."""
    theirs = read_resolved(run / "config.json").get("checkpoint", {})
    root = checkpoint_root(run, theirs.get("directory", ""))
    for phase in ("checkpoints", "cold_start"):
        if (root / phase).is_dir():
            with Checkpoints(root / phase, keep=1, read_only=True) as saved:
                if saved.latest_step() is not None:
                    print(f"starting from the parameters of {root / phase}")
                    return saved.restore_params(like)
    raise CipoError(f"config.init_from: {run} holds no finished checkpoint")
