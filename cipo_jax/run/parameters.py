"""The parameters that a mode starts from: where they are, whether they fit, and loading them.

    a run         its newest RL checkpoint, else that of its cold start, or a step that is named
    a model       the weights of `model.source`
    a seed        random ones

Every mode finds them here. What a checkpoint holds is decided in `records/checkpoint.py`; how a run
continues from its own state, optimiser included, in `start.py`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from etils import epath
from jax.sharding import Mesh

from cipo_jax.config import keys
from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import read_values
from cipo_jax.policy import model
from cipo_jax.policy.huggingface import load as huggingface
from cipo_jax.policy.huggingface.hub import is_hub_id, model_directory
from cipo_jax.policy.model import ModelConfig, Params
from cipo_jax.policy.random_keys import random_key
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.records.checkpoint import Checkpoints, checkpoint_root
from cipo_jax.run.records.directory import model_differences
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.update import Policy
from cipo_jax.types import CipoError

_PHASES = ("checkpoints", "cold_start")  # directories, in order of preference


@dataclasses.dataclass(frozen=True)
class Place:
    """A checkpoint of a run.

    Attributes:
      directory: of the checkpoints of one phase.
      step: of the RL steps, or of the cold start's.
    """

    directory: epath.Path
    step: int

    def __str__(self) -> str:
        return f"{self.directory}, step {self.step}"

    @property
    def name(self) -> str:
        """As part of a file name: "step-000080", "cold_start-000350"."""
        phase = "step" if self.directory.name == "checkpoints" else self.directory.name
        return f"{phase}-{self.step:06d}"


def find_parameters(config: Config, workdir: Path, step: str = "latest") -> Place | None:
    """The checkpoint of the run in `workdir`; None for the parameters of `model.source`, where
    `workdir` holds no run.

    Args:
      step: "latest", "best" (by pass@1 of the run's own evaluations) or a number of steps. In
        place of a damaged one, "latest" is the one before it and "best" the next best.

    Raises:
      CipoError: neither a run nor a model, a run of another model, no such checkpoint, or a
        damaged one where it was named by its number.
    """
    found = _candidates(config, workdir, step)
    return None if found is None else _first_intact(*found)


def check_parameters(config: Config, workdir: Path, step: str = "latest") -> None:
    """Refuses at once what is not there. Damage is not looked for, and nothing is downloaded.

    Args:
      step: as in `find_parameters`.

    Raises:
      CipoError: as `find_parameters`, but for damage; or `model.source` is a directory that holds
        no model.
    """
    source = config.model.source
    if _candidates(config, workdir, step) is None and not is_hub_id(source):
        huggingface.require_weights(model_directory(source))


def _candidates(config: Config, workdir: Path, step: str) -> tuple[epath.Path, list[int]] | None:
    """The checkpoints that may be taken, the first choice first: their directory and steps; None as
    `find_parameters`, which says the rest."""
    if step not in ("latest", "best") and not step.isdecimal():
        raise CipoError(f"--step: got {step!r}, wanted 'latest', 'best' or a number of steps")
    if not (workdir / "config.json").is_file():
        if config.model.source:
            return None
        raise CipoError(
            f"--workdir={workdir}: is not a run directory (no config.json); give one, or set "
            "--config.model.source to a Hugging Face model"
        )
    check_fits(workdir, config)
    found = _newest_phase(workdir, config.checkpoint.directory)
    if found is None:
        raise CipoError(f"--workdir={workdir}: holds no finished checkpoint")
    directory, steps = found
    return directory, _by_preference(workdir, steps, step)


def check_fits(workdir: Path, config: Config, key: str = "--workdir") -> None:
    """Refuses a run whose parameters have other shapes than `config`'s.

    Args:
      key: what named `workdir`.

    Raises:
      CipoError: it is no run, or one of another model; with the keys that differ.
    """
    file = workdir / "config.json"
    if not file.is_file():
        raise CipoError(
            f"{key}: {workdir} is not a run directory (no config.json); wanted the --workdir of a "
            "run, such as runs/demo"
        )
    if differences := model_differences(file, config):
        raise CipoError(
            f"{key}: the run in {workdir} has another model than this config:"
            + "".join(
                f"\n  config.{name}: {theirs!r} there, {ours!r} here"
                for name, (theirs, ours) in differences.items()
            )
        )


def load_parameters(config: Config, policy: Policy, place: Place | None) -> Params:
    """The parameters at `place`, on the devices of the policy's mesh; without one, those before any
    training."""
    if place is None:
        return fresh_parameters(config.model, config.seed, policy)
    return restored_parameters(place, policy.model, policy.mesh)


def fresh_parameters(section: keys.Model, seed: int, policy: Policy) -> Params:
    """Parameters before any training: those of `model.source`, or random ones from the seed."""
    if section.source:
        directory = model_directory(section.source)
        return huggingface.load_params(directory, policy.model, policy.mesh)
    return model.init_params(policy.model, random_key(seed), policy.mesh)


def newest_parameters(run: Path, policy: Policy) -> Params:
    """The newest parameters of another run: after RL, else after its cold start.

    Raises:
      CipoError: it holds none, or none that is intact.
    """
    found = _newest_phase(run, "")
    if found is None:
        raise CipoError(f"config.init_from: {run} holds no finished checkpoint")
    place = _first_intact(found[0], _by_preference(run, found[1], "latest"))
    print(f"starting from the parameters of {place}")
    return restored_parameters(place, policy.model, policy.mesh)


def _newest_phase(run: Path, directory: str) -> tuple[epath.Path, list[int]] | None:
    """The checkpoints of the latest phase that has any, and their steps, as the first host sees
    them: a run that is still going on saves meanwhile. Called by all hosts.

    Args:
      directory: where checkpoints are; "": where the run's own config says.
    """
    directory = directory or read_values(run / "config.json").get("checkpoint.directory", "")
    root = checkpoint_root(run, directory)
    found: dict[str, list[int]] = {}
    for phase in _PHASES:
        if not found and (root / phase).is_dir():
            with Checkpoints(root / phase, keep=1, read_only=True) as saved:
                found = {phase: steps} if (steps := saved.all_steps()) else {}
    for phase, steps in Hosts().first_says(found).items():
        return root / phase, steps
    return None


def _by_preference(workdir: Path, steps: Sequence[int], wanted: str) -> list[int]:
    """Those of `steps` that may be taken for `wanted`, the first choice first."""
    if wanted == "latest":
        return sorted(steps, reverse=True)
    if wanted == "best":
        scores = {r["step"]: r["eval/pass@1"] for r in read_metrics(workdir) if "eval/pass@1" in r}
        known = [step for step in steps if step in scores]
        if not known:
            raise CipoError(f"--step=best: no checkpoint of {workdir} was evaluated; kept: {steps}")
        return sorted(known, key=lambda step: scores[step], reverse=True)
    if int(wanted) not in steps:
        raise CipoError(
            f"--step: got {wanted!r}, wanted 'latest', 'best' or one of the steps kept: {steps}"
        )
    return [int(wanted)]


def _first_intact(directory: epath.Path, steps: Sequence[int]) -> Place:
    """The first of `steps` whose parameters are those that were saved; says which are not.

    Raises:
      CipoError: none is.
    """
    with Checkpoints(directory, keep=1, read_only=True) as saved:
        for step in steps:
            damage = saved.find_damage(step, ("params",))
            if damage is None:
                return Place(directory, step)
            print(f"{directory}: the checkpoint of step {step} is damaged ({damage})", flush=True)
        others = sorted(set(saved.all_steps()) - set(steps))
    several = len(steps) > 1
    known = ", ".join(map(str, steps))
    choice = f"choose another by --step: {others}" if others else "begin a new run: it has no other"
    raise CipoError(
        f"{directory}: the checkpoint{'s' * several} of step{'s' * several} {known} "
        f"{'are' if several else 'is'} damaged; restore the files from a copy, or {choice}"
    )


def restored_parameters(place: Place, config: ModelConfig, mesh: Mesh) -> Params:
    """The parameters at `place`, which was found to be intact, on the devices of `mesh`.

    Raises:
      CipoError: they are not those of a model of this config.
    """
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        model.abstract_params(config),
        model.param_shardings(config, mesh),
    )
    with Checkpoints(place.directory, keep=1, read_only=True) as saved:
        return saved.restore_params(abstract, place.step, intact=True)
