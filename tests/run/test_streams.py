"""Dynamic sampling on an attempter whose groups are scripted; from verdicts to advantages."""

import jax
import numpy as np

from cipo_jax.config.keys import Algorithm, Verifier
from cipo_jax.rl.rewards import reward_array
from cipo_jax.run.streams import (
    base_sequences,
    correction_sequences,
    sample_base,
    sample_corrections,
)
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
    base = sample_base(attempt, None, [prompt("a"), prompt("b")], [], 2, KEY, Verifier())
    assert problems_of(base.attempts) == ["a", "b"]
    assert base.replaced == []
    assert calls == [["a", "b"]]


def test_groups_that_teach_nothing_are_replaced_by_mixed_ones() -> None:
    attempt, calls = scripted({"a": "rr", "b": "rw", "c": "ww", "d": "ww", "e": "wr", "f": "rw"})
    spares = [prompt(name) for name in "def"]
    base = sample_base(attempt, None, [prompt(n) for n in "abc"], spares, 2, KEY, Verifier())
    # First refill: d (all wrong) and e (mixed, takes a's place); second: f takes c's place.
    assert calls == [["a", "b", "c"], ["d", "e"], ["f"]]
    assert problems_of(base.attempts) == ["e", "b", "f"]
    assert sorted(problems_of(base.replaced)) == ["a", "c", "d"]


def test_what_cannot_be_replaced_stays() -> None:
    attempt, _ = scripted({"a": "rr", "b": "ww", "c": "ww"})
    base = sample_base(attempt, None, [prompt("a"), prompt("b")], [prompt("c")], 2, KEY, Verifier())
    assert problems_of(base.attempts) == ["a", "b"]
    assert problems_of(base.replaced) == ["c"]


def test_a_group_teaches_something_if_its_rewards_differ() -> None:
    """Partial credit tells wrong programs apart; the same group teaches nothing without it."""

    def attempt(params, prompts, samples, key, purpose):
        done = Completion(np.ones(1, np.int32), np.zeros(1, np.float32), True)
        scores = [0.0, 0.5] if prompts[0].problem.id == "a" else [0.5, 0.5]
        verdicts = [Verdict(Outcome.WRONG, score=s) for s in scores]
        return [Attempt(prompts[0], done, "", v) for v in verdicts]

    for partial_credit, replaced in ((True, []), (False, ["b"])):
        verifier = Verifier(partial_credit=partial_credit)
        base = sample_base(attempt, None, [prompt("a")], [prompt("b")], 2, KEY, verifier)
        assert problems_of(base.attempts) == ["a"]
        assert problems_of(base.replaced) == replaced


def test_no_anchors_no_sampling() -> None:
    attempt, calls = scripted({})
    assert sample_corrections(attempt, None, [], 2, KEY) == []
    assert calls == []


VERIFIER = Verifier(reward_no_answer=-0.5, reward_timeout=-0.25, partial_credit=True)
GROUP = [
    Verdict(Outcome.CORRECT, score=1.0),
    Verdict(Outcome.WRONG, score=0.25),
    Verdict(Outcome.NO_ANSWER),
    Verdict(Outcome.TIMEOUT, score=0.6),
]
REWARDS = np.array([1, 0.25, -0.5, -0.25 + 0.6 * 1.25])


def verified(*verdicts: Verdict) -> list[Attempt]:
    done = Completion(np.ones(2, np.int32), np.zeros(2, np.float32), True)
    return [Attempt(prompt("a"), done, "", v) for v in verdicts]


def test_advantages_come_from_the_rewards_of_the_config() -> None:
    attempts = verified(*GROUP)
    rewards = reward_array(attempts, 4, VERIFIER)
    np.testing.assert_allclose(rewards, [REWARDS])
    sequences = base_sequences(attempts, rewards, Algorithm(), 8)
    expected = (REWARDS - REWARDS.mean()) / (REWARDS.std() + 1e-6)
    np.testing.assert_allclose([s.advantage for s in sequences], expected, rtol=1e-5)


def test_the_risk_penalty_adds_to_partial_credit_and_the_unshaped_rewards_give_the_scale() -> None:
    attempts = verified(*GROUP)
    rewards = reward_array(attempts, 4, VERIFIER)
    right = np.array([True])
    sequences = correction_sequences(attempts, rewards, right, 0.5, Algorithm(), 8)
    shaped = REWARDS - 0.5 * np.array([0, 1, 1, 1])
    expected = (shaped - shaped.mean()) / (REWARDS.std() + 1e-6)
    np.testing.assert_allclose([s.advantage for s in sequences], expected, rtol=1e-5)


def test_by_default_only_right_attempts_earn_anything() -> None:
    attempts = verified(*GROUP, Verdict(Outcome.ERROR), Verdict(Outcome.WRONG, score=0.9))
    np.testing.assert_array_equal(reward_array(attempts, 3, Verifier()), [[1, 0, 0], [0, 0, 0]])
