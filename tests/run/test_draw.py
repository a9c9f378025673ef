"""Each problem at most once in a step, and none drawn that is not used."""

import itertools
from collections.abc import Iterator

import pytest

from cipo_jax.config.keys import Replay, Rollout, Verifier
from cipo_jax.data.datasets import ListedProblems, Placed
from cipo_jax.data.mixture import Part, TaskSplit, open_mixture
from cipo_jax.data.tasks.arithmetic import TASK
from cipo_jax.data.tasks.generated import GeneratedProblems
from cipo_jax.rl.difficulty import Difficulty
from cipo_jax.rl.replay import ReplayState, Retention
from cipo_jax.run.draw import Draw, check_enough
from cipo_jax.run.host_state import HostState
from cipo_jax.run.streams import BaseStream
from cipo_jax.types import CipoError, Problem

SEED = 3


def listed(count: int, prefix: str = "p") -> ListedProblems:
    return ListedProblems([Problem(f"{prefix}{i}", "?", "1") for i in range(count)], SEED)


def mixed() -> object:
    placed = tuple(Placed("", Problem(f"small{i}", "?", "1")) for i in range(5))
    return open_mixture(
        [Part("small", 0.5, placed), Part("arithmetic", 0.5, None)], SEED, TaskSplit("train")
    )


SOURCES = {"list": listed(23), "generator": GeneratedProblems(TASK, SEED, "train"), "mix": mixed()}


def draw(source, rollout: Rollout, step: int = 0, drawn: int = 0, memory=None) -> Draw:
    return Draw(source, rollout, memory or {}, [SEED, step, 1], step, drawn)


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_on_offer_begins_with_the_batch_of_the_step(name: str) -> None:
    source = SOURCES[name]
    for step in (0, 2, 5):
        offered = list(itertools.islice(source.offer(step, 9 * step), 9))
        assert offered == source.batch(step, 9)


@pytest.mark.parametrize("curriculum", ["uniform", "learnability"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_problem_is_in_a_step_once_refills_included(name: str, curriculum: str) -> None:
    rollout = Rollout(problems_per_step=6, max_refills=2, curriculum=curriculum)
    drawn = 0
    for step in range(8):
        one = draw(SOURCES[name], rollout, step, drawn)
        taken = [*one.take(6), *one.take(4), *one.take(100)]
        assert len({p.id for p in taken}) == len(taken) == 18
        drawn = one.drawn


def test_what_a_step_does_not_use_comes_in_the_next() -> None:
    """Over an epoch every problem is drawn once, however many spares the steps use."""
    rollout, drawn, seen = Rollout(problems_per_step=4, max_refills=3), 0, []
    for step, spares in enumerate((0, 3, 5)):
        one = draw(listed(20), rollout, step, drawn)
        seen += [*one.take(4), *(one.take(spares) if spares else [])]
        drawn = one.drawn
    assert drawn == len(seen) == 20 and len({p.id for p in seen}) == 20


def test_a_step_takes_what_there_is_and_no_more() -> None:
    one = draw(listed(7), Rollout(problems_per_step=5, max_refills=4))
    assert len(one.take(5)) == 5 and len(one.take(5)) == 2 and one.take(5) == []
    few = GeneratedProblems(TASK, SEED, "train", 1, 1)
    everything = draw(few, Rollout(problems_per_step=10, max_refills=10_000))
    assert len(everything.take(10)) == 10
    assert 10 < len(everything.take(99_990)) < 1000 and everything.take(1) == []


class Repeated(GeneratedProblems):
    """As a mixture with a generator that has few different problems: it goes on without end."""

    def offer(self, step: int, drawn: int) -> Iterator[Problem]:
        return itertools.cycle(Problem(f"{i}", "?", "1") for i in range(7))


def test_a_mixture_without_further_problems_comes_to_an_end() -> None:
    source = Repeated(TASK, SEED, "train")
    one = draw(source, Rollout(problems_per_step=5, max_refills=4))
    assert len(one.take(5)) == 5 and len(one.take(5)) == 2 and one.take(5) == []
    with pytest.raises(CipoError, match="problems_per_step: got 8, wanted at most 7"):
        draw(source, Rollout(problems_per_step=8)).take(8)


def test_the_curriculum_prefers_what_is_uncertain() -> None:
    memory = {f"p{i}": Difficulty(0.5 if i < 10 else 1.0, 1) for i in range(40)}
    rollout = Rollout(problems_per_step=8, curriculum="learnability", curriculum_candidates=5)
    taken = draw(listed(40), rollout, memory=memory).take(8)
    assert sum(p.id in {f"p{i}" for i in range(10)} for p in taken) >= 6


def test_fewer_problems_than_a_step_has_are_refused() -> None:
    with pytest.raises(CipoError, match="problems_per_step: got 8, wanted at most 7"):
        check_enough(listed(7), 8)
    check_enough(listed(8), 8)
    check_enough(SOURCES["generator"], 10**6)
    with pytest.raises(CipoError, match="problems_per_step: got 9000, wanted at most"):
        draw(GeneratedProblems(TASK, SEED, "train", 1, 1), Rollout(problems_per_step=9000)).take(
            9000
        )


def test_how_many_were_drawn_is_kept_and_known_of_older_checkpoints() -> None:
    state = HostState(ReplayState(0.3)).after_step(
        Rollout(), Replay(), Verifier(), BaseStream([], []), Retention(None, None), 0, drawn=41
    )
    rollout = Rollout(problems_per_step=4, max_refills=1)
    saved = state.to_json()
    assert HostState.from_json(saved, rollout, 5) == state
    del saved["drawn"]
    assert HostState.from_json(saved, rollout, 5).drawn == 5 * 4 * 2
    learning = Rollout(problems_per_step=4, curriculum="learnability", curriculum_candidates=3)
    assert HostState.from_json(saved, learning, 5).drawn == 5 * 4 * 3
