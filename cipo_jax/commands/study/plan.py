"""What a study is, which runs it has, and with which arguments each of them is started.

A study's config file (`configs/studies/*.py`) defines `STUDY`, and `get_config(run)` of it, so that
`--config=FILE:TASK/METHOD` is an ordinary config. Seed, starting parameters and the budget of
matched methods are arguments of a run: they depend on runs that are finished by then. How runs are
done is decided in `run.py`.
"""

import dataclasses
import fnmatch
import itertools
import json
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cipo_jax.config.ranges import did_you_mean
from cipo_jax.config.resolve import read_values, resolve
from cipo_jax.run.comparison import training_steps
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.types import CipoError

COLD = "cold"  # the method that is the cold-started model itself
# In a run's directory: the last evaluation, and the file that is written when it is complete.
FINAL = "evaluations/final"
RESULTS = f"{FINAL}/results.json"
# Likewise: the command, the seconds that it took, and how it was evaluated.
TIMING = "study.json"
# Matched methods end by tokens; their steps are bounded by this multiple of the base config's.
_MOST_STEPS = 10


def without_extras(c: ConfigDict) -> None:
    """Leaves out, in place, what a study uses of no run: checkpoints besides the last ones,
    TensorBoard's files, and pairs on screen."""
    c.checkpoint.keep_best = 0
    c.log.tensorboard = False
    c.log.show_samples_every = 0


@dataclasses.dataclass(frozen=True)
class Method:
    """A method of a study.

    Attributes:
      change: changes the base config, in place.
      matched: which budget it has. "": the number of steps of the base config. "steps": more steps,
        until it has sampled as many tokens as the reference's run of the same task and seed.
        "samples": likewise, with groups larger by the ratio of that run's tokens to those of its
        base stream, so that a step costs as many tokens as the reference's.
      tasks: those that it is run on; () means all.
    """

    change: Callable[[ConfigDict], None]
    matched: str = ""
    tasks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """What is compared; a study's config file defines one as `STUDY`.

    Attributes:
      base: makes the config that tasks and methods change.
      tasks: name -> function that changes the config, in place.
      methods: name -> method; the cold-started model is always one more.
      seeds: of the runs; a seed has one cold start, test problems are the same for all.
      reference: the method that others are matched to and compared with.
      samples, pass_at, corrected_attempts, correction_rounds: of the last evaluation, see `Eval` in
        `config/keys.py`.
    """

    base: Callable[[], ConfigDict]
    tasks: Mapping[str, Callable[[ConfigDict], None]]
    methods: Mapping[str, Method]
    seeds: tuple[int, ...]
    reference: str = "cipo"
    samples: int = 64
    pass_at: tuple[int, ...] = (1, 4, 16, 64)
    corrected_attempts: int = 4
    correction_rounds: int = 1

    def config(self, run: str) -> ConfigDict:
        """The config of "task/method", before seed, parameters and budget are set.

        Raises:
          CipoError: no such task or method.
        """
        task, _, name = run.partition("/")
        if task not in self.tasks or name not in (COLD, *self.methods):
            raise CipoError(
                f"run of a study: got {run!r}, wanted TASK/METHOD of the tasks "
                f"{', '.join(self.tasks)} and the methods {', '.join((COLD, *self.methods))}"
            )
        c = self.base()
        self.tasks[task](c)
        if name == COLD:
            c.num_steps = 0
            return c
        self.methods[name].change(c)
        if self.methods[name].matched:
            c.num_steps *= _MOST_STEPS
        return c


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a study; `directory` is an ordinary run directory, made when the run starts."""

    task: str
    method: str
    seed: int
    directory: Path

    @property
    def name(self) -> str:
        return f"{self.task}/{self.method}-{self.seed}"

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.directory.with_name(f"{self.directory.name}.log")

    @property
    def evaluated(self) -> bool:
        return (self.directory / RESULTS).is_file()

    def beside(self, method: str) -> "PlannedRun":
        """The run of another method, of the same task and seed."""
        directory = self.directory.with_name(f"{method}-{self.seed}")
        return dataclasses.replace(self, method=method, directory=directory)


def load_study(file: Path) -> Study:
    """The study that a config file defines.

    Raises:
      CipoError: it defines none, or one that cannot be run.
    """
    study = runpy.run_path(str(file)).get("STUDY")
    if not isinstance(study, Study):
        raise CipoError(f"--config={file}: defines no STUDY; see configs/studies/quick.py")
    if study.reference not in study.methods or study.methods[study.reference].matched:
        raise CipoError(
            f"{file}: STUDY.reference: got {study.reference!r}, wanted a method that is not "
            "matched to another"
        )
    for name, method in study.methods.items():
        if method.matched not in ("", "steps", "samples") or name == COLD or "/" in name:
            raise CipoError(
                f"{file}: STUDY.methods: {name!r} with matched={method.matched!r}; wanted '', "
                f"'steps' or 'samples', and a name other than {COLD!r} without '/'"
            )
        if set(method.tasks) - set(study.tasks) or (method.tasks and name == study.reference):
            raise CipoError(
                f"{file}: STUDY.methods: {name!r} with tasks={method.tasks!r}; wanted some of "
                f"{', '.join(study.tasks)}, and () for the reference"
            )
    for task in study.tasks:
        for name in (COLD, *study.methods):
            resolve(study.config(f"{task}/{name}"))
    return study


def plan(study: Study, workdir: Path, only: str = "*") -> list[PlannedRun]:
    """The runs in the order in which they are done: by seed, then by task, the cold start and the
    reference first.

    Args:
      only: patterns of names, separated by commas; what the chosen runs need is added.

    Raises:
      CipoError: one of the patterns matches no run.
    """
    order = dict.fromkeys((COLD, study.reference, *study.methods))
    patterns = only.split(",")
    names, runs = list[str](), list[PlannedRun]()
    for seed, task in itertools.product(study.seeds, study.tasks):
        of_task = [
            PlannedRun(task, method, seed, workdir / task / f"{method}-{seed}")
            for method in order
            if method == COLD or task in (study.methods[method].tasks or study.tasks)
        ]
        names += [run.name for run in of_task]
        named = [run for run in of_task if any(fnmatch.fnmatchcase(run.name, p) for p in patterns)]
        wanted = {*named, *(need for run in named for need in needs(study, run))}
        runs += [run for run in of_task if run in wanted]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise CipoError(
                f"--only={only!r}: {pattern!r} matches no run; they are named TASK/METHOD-SEED, of "
                f"the tasks {', '.join(study.tasks)}, the methods {', '.join(order)} and the seeds "
                f"{', '.join(map(str, study.seeds))}{did_you_mean(pattern, names)}"
            )
    return runs


def needs(study: Study, run: PlannedRun) -> list[PlannedRun]:
    """The runs that have to be finished before this one starts."""
    if run.method == COLD:
        return []
    methods = (COLD, study.reference) if study.methods[run.method].matched else (COLD,)
    return [run.beside(method) for method in methods]


def run_arguments(study: Study, file: Path, run: PlannedRun, overrides: Sequence[str]) -> list[str]:
    """The arguments of the run's training command, from the finished runs that it needs."""
    arguments = [
        f"--config={file}:{run.task}/{run.method}",
        f"--workdir={run.directory}",
        *overrides,
        f"--config.seed={run.seed}",
    ]
    if run.method == COLD:
        return arguments
    arguments.append(f"--config.init_from={run.beside(COLD).directory}")
    if matched := study.methods[run.method].matched:
        reference = run.beside(study.reference).directory
        tokens, ratio = sampled_tokens(reference)
        arguments.append(f"--config.max_sampled_tokens={tokens}")
        if matched == "samples":
            theirs = read_values(reference / "config.json")["rollout.group_size"]
            arguments.append(f"--config.rollout.group_size={round(ratio * theirs)}")
    return arguments


def sampled_tokens(directory: Path) -> tuple[int, float]:
    """(the tokens that a run has sampled, their ratio to those of its base stream).

    Raises:
      CipoError: there are none, or not all of its steps are in its metrics.jsonl.
    """
    lines = training_steps(directory, read_metrics(directory))
    config = read_values(directory / "config.json")
    attempts = config["rollout.problems_per_step"] * config["rollout.group_size"]
    total = sum(line["tokens/sampled"] for line in lines)
    base = sum(line["base/length/mean"] for line in lines) * attempts
    if not base:
        raise CipoError(f"{directory}: has sampled nothing that others could be matched to")
    return round(total), total / base


def read_timing(directory: Path) -> dict[str, Any]:
    """{"command", "seconds", "evaluated"} of a run that a study has started, the last once it was;
    {} without."""
    return read_object(directory / TIMING)


def read_results(directory: Path) -> dict[str, Any]:
    """The results of a run's last evaluation: "step", and "suites" by name.

    Raises:
      CipoError: there are none, or the file is damaged.
    """
    results = read_object(directory / RESULTS)
    if not isinstance(results.get("step"), int):
        raise CipoError(
            f"{directory / RESULTS}: is not what an evaluation writes; remove {directory / FINAL}, "
            "and the study evaluates the run again"
        )
    return results


def read_object(file: Path) -> dict[str, Any]:
    """The json object in a file; {} where there is none."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
