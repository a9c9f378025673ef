"""When a run evaluates and saves, which score its checkpoints get, and what is not saved."""

import dataclasses
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cipo_jax.config.keys import Checkpoint, Config, Eval, Health, Log
from cipo_jax.policy.sharding import make_mesh
from cipo_jax.rl.replay import ReplayState
from cipo_jax.rl.train_step import TrainState
from cipo_jax.run.host_state import HostState
from cipo_jax.run.hosts.preemption import Preempted
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.run.records.record import Record
from cipo_jax.run.records.scores import Preservation
from cipo_jax.run.training import Training
from cipo_jax.types import CipoError

MESH = make_mesh(1, 8, 1)
CONFIG = Config(
    num_steps=9,
    eval=Eval(every=2, at_start=False),
    checkpoint=Checkpoint(every=5, keep=1, keep_best=1),
    log=Log(tensorboard=False),
)
FINITE = {"loss/total": 0.5, "grad_norm": 1.0, "param_norm": 2.0}


class Scored(Training):
    """Training whose evaluations have the scores `SCORES`, and may be interrupted."""

    interrupted = False

    def evaluate(self) -> dict[str, float]:
        if self.interrupted:
            raise Preempted
        named = {"eval/pass@1": SCORES[self.step]}
        self.record.write(self.step, named, "eval")
        return named


SCORES = {2: 0.5, 3: 0.75, 4: 0.25, 6: 0.75, 8: 0.5, 9: 0.25}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Scored]:
    with opened(tmp_path, 0) as training:
        yield training


class opened:
    """The run in a directory, at a step, without anything that samples."""

    def __init__(self, workdir: Path, step: int, config: Config = CONFIG):
        sharding = NamedSharding(MESH, P())
        array = jax.device_put(np.ones((8, 8), np.float32), sharding)
        keep, best = config.checkpoint.keep, config.checkpoint.keep_best
        self.checkpoints = Checkpoints(workdir / "checkpoints", keep, keep_best=best)
        self.record = Record(workdir, config.log, lambda *_: workdir / "report.html")
        heart = types.SimpleNamespace(begin=lambda *_: None, end=lambda: None)
        policy = types.SimpleNamespace(mesh=MESH)
        parts: Any = types.SimpleNamespace(policy=policy, heartbeat=heart, hosts=Hosts())
        unused: Any = types.SimpleNamespace(check=lambda *_: None)
        values = dict.fromkeys((f.name for f in dataclasses.fields(Training)), unused) | {
            "config": config,
            "parts": parts,
            "checkpoints": self.checkpoints,
            "record": self.record,
            "state": TrainState(jnp.asarray(step, jnp.int32), {"w": array}, (array,)),
            "host": HostState(ReplayState(rho=0.5)),
        }
        self.training = Scored(**values)

    def __enter__(self) -> Scored:
        return self.training

    def __exit__(self, *_: object) -> None:
        self.record.__exit__(None)
        self.checkpoints.close()


def step(training: Scored) -> None:
    training.step += 1
    training.require_finite(FINITE)
    training.conclude_step({})


def test_an_evaluation_that_improves_saves(run: Scored) -> None:
    saved = []
    for _ in range(9):
        step(run)
        saved.append(run.checkpoints.all_steps())
    # Evaluated at 2, 4, 6, 8 and at the end; saved every five steps.
    assert saved == [[], [2], [2], [2], [2, 5], [6], [6], [6], [6, 9]]


def test_an_interrupted_evaluation_gives_its_score_after_the_restart(tmp_path: Path) -> None:
    with opened(tmp_path, 1) as training:
        training.interrupted = True
        with pytest.raises(Preempted):
            step(training)
        training.save()  # as at the end of `open_run`
    with opened(tmp_path, 2) as training:
        training.evaluate_if_due()
    assert score(tmp_path, 2) == 0.5
    # Killed between the evaluation and its score: the line is there.
    (tmp_path / "checkpoints" / "step_2" / "score.json").unlink()
    with opened(tmp_path, 2) as training:
        training.interrupted = True
        training.evaluate_if_due()
    assert score(tmp_path, 2) == 0.5


def test_a_run_that_a_health_rule_stops_ends_after_its_interrupted_evaluation(
    tmp_path: Path,
) -> None:
    config = dataclasses.replace(CONFIG, health=Health(action="stop"))
    for over in (True, False):  # started once more, it goes on
        with opened(tmp_path, 3, config) as training:
            training.record.write(3, {"health/entropy_floor": 0.0}, "health")
            training.evaluate_if_due()
            assert training.is_over == over
        # No rule had stopped it after step 1.
        with opened(tmp_path, 1, config) as training:
            training.interrupted = True
            training.evaluate_if_due()
            assert not training.is_over


def score(workdir: Path, of_step: int) -> float | None:
    kept = Preservation(1, 1)
    with Checkpoints(workdir / "checkpoints", keep=1, read_only=True) as saved:
        kept.read_scores(saved.directory, Hosts())
    return kept.scores.get(of_step)


@pytest.mark.parametrize(
    ("name", "what"),
    [("loss/total", "the loss"), ("grad_norm", "the gradient"), ("param_norm", "the parameters")],
)
def test_what_is_not_finite_is_not_saved(run: Scored, name: str, what: str) -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(CipoError, match=f"step 0: {what} .*start again in another --workdir"):
            run.require_finite(FINITE | {name: bad})
    step(run)
    step(run)
    run.step += 1
    advice = r"last checkpoint, of step 2, .* another --workdir by --config.init_from="
    with pytest.raises(CipoError, match=f"step 3: {what} .*learning_rate.*{advice}"):
        run.require_finite(FINITE | {name: float("nan")})
