"""Dynamic sampling on a fake attempter whose groups are scripted."""

import jax
import numpy as np

from cipo_jax.streams import sample_base, sample_corrections
from cipo_jax.types import Attempt, Completion, Outcome, Problem, Prompt, Verdict

KEY = jax.random.key(0)


def prompt(name: str) -> Prompt:
    return Prompt(Problem(id=name, question=name, answer="1"), np.ones(1, np.int32))


def scripted(outcomes: dict[str, str]):
    """An attempter: `outcomes[problem]` is a string of r (right) and w (wrong), one per sample."""
    calls: list[list[str]] = []

    def attempt(params, prompts, samples, key, purpose):
        calls.append([p.problem.id for p in prompts])
        done = Completion(np.ones(1, np.int32), np.zeros(1, np.float32), True)
        verdict = {"r": Verdict(Outcome.CORRECT), "w": Verdict(Outcome.WRONG)}
        return [
            Attempt(p, done, "", verdict[outcomes[p.problem.id][j]])
            for p in prompts
            for j in range(samples)
        ]

    return attempt, calls


def problems_of(attempts: list[Attempt]) -> list[str]:
    return [a.problem.id for a in attempts[::2]]


def test_without_spares_every_group_stays() -> None:
    attempt, calls = scripted({"a": "rr", "b": "rw"})
    base = sample_base(attempt, None, [prompt("a"), prompt("b")], [], 2, KEY)
    assert problems_of(base.attempts) == ["a", "b"]
    assert base.replaced == []
    assert calls == [["a", "b"]]


def test_groups_that_teach_nothing_are_replaced_by_mixed_ones() -> None:
    attempt, calls = scripted({"a": "rr", "b": "rw", "c": "ww", "d": "ww", "e": "wr", "f": "rw"})
    spares = [prompt(name) for name in "def"]
    base = sample_base(attempt, None, [prompt(n) for n in "abc"], spares, 2, KEY)
    # First refill: d (all wrong) and e (mixed, takes a's place); second: f takes c's place.
    assert calls == [["a", "b", "c"], ["d", "e"], ["f"]]
    assert problems_of(base.attempts) == ["e", "b", "f"]
    assert sorted(problems_of(base.replaced)) == ["a", "c", "d"]


def test_what_cannot_be_replaced_stays() -> None:
    attempt, _ = scripted({"a": "rr", "b": "ww", "c": "ww"})
    base = sample_base(attempt, None, [prompt("a"), prompt("b")], [prompt("c")], 2, KEY)
    assert problems_of(base.attempts) == ["a", "b"]
    assert problems_of(base.replaced) == ["c"]


def test_no_anchors_no_sampling() -> None:
    attempt, calls = scripted({})
    assert sample_corrections(attempt, None, [], 2, KEY) == []
    assert calls == []
