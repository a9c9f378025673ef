"""Dynamic sampling on an attempter whose groups are scripted; from verdicts to advantages."""

import dataclasses

import jax
import numpy as np
import pytest

from cipo_jax.config.keys import Algorithm, Replay, Verifier
from cipo_jax.config.method import Correction
from cipo_jax.rl.advantages import NORMS
from cipo_jax.rl.anchors import Selection
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.rl.replay import Retention
from cipo_jax.rl.rewards import reward_array, verified_array
from cipo_jax.rl.transfer import PARTS
from cipo_jax.run.streams import (
    AGAIN_KEY,
    base_sequences,
    by_part,
    choose_again,
    correction_sequences,
    eligible_array,
    judge_retention,
    sample_base,
    sample_corrections,
)
from cipo_jax.types import Attempt, Completion, Outcome, Problem, Prompt, Verdict

KEY = jax.random.key(0)


def done(tokens: int) -> Completion:
    return Completion(np.ones(tokens, np.int32), np.zeros(tokens, np.float32), True)


def prompt(name: str) -> Prompt:
    return Prompt(Problem(id=name, question=name, answer="1"), np.ones(1, np.int32))


VERDICTS = {
    "r": Verdict(Outcome.CORRECT),
    "w": Verdict(Outcome.WRONG),
    "c": Verdict(Outcome.WRONG),  # cut at the limit
    "e": Verdict(Outcome.ERROR),
    "t": Verdict(Outcome.TIMEOUT),
}


def spares(names: str):
    """Hands out prompts of these problems."""
    left = [prompt(name) for name in names]

    def take(count: int) -> list[Prompt]:
        taken = left[:count]
        del left[:count]
        return taken

    return take


def scripted(outcomes: dict[str, str]):
    """An attempter: `outcomes[problem]` is a string of `VERDICTS`, one letter per sample."""
    calls: list[list[str]] = []

    def attempt(params, prompts, samples, key, purpose):
        calls.append([p.problem.id for p in prompts])
        done = Completion(np.ones(1, np.int32), np.zeros(1, np.float32), True)
        cut = dataclasses.replace(done, finished=False)
        return [
            Attempt(
                p,
                cut if outcomes[p.problem.id][j] == "c" else done,
                "",
                VERDICTS[outcomes[p.problem.id][j]],
            )
            for p in prompts
            for j in range(samples)
        ]

    return attempt, calls


def problems_of(attempts: list[Attempt]) -> list[str]:
    return [a.problem.id for a in attempts[::2]]


def test_without_spares_every_group_stays() -> None:
    attempt, calls = scripted({"a": "rr", "b": "rw"})
    base = sample_base(attempt, None, [prompt("a"), prompt("b")], 2, KEY, Verifier())
    assert problems_of(base.attempts) == ["a", "b"]
    assert base.replaced == []
    assert calls == [["a", "b"]]


def test_groups_that_teach_nothing_are_replaced_by_mixed_ones() -> None:
    attempt, calls = scripted({"a": "rr", "b": "rw", "c": "ww", "d": "ww", "e": "wr", "f": "rw"})
    base = sample_base(
        attempt, None, [prompt(n) for n in "abc"], 2, KEY, Verifier(), spares=spares("def")
    )
    # First refill: d (all wrong) and e (mixed, takes a's place); second: f takes c's place.
    assert calls == [["a", "b", "c"], ["d", "e"], ["f"]]
    assert problems_of(base.attempts) == ["e", "b", "f"]
    assert sorted(problems_of(base.replaced)) == ["a", "c", "d"]


def test_what_cannot_be_replaced_stays() -> None:
    attempt, _ = scripted({"a": "rr", "b": "ww", "c": "ww"})
    base = sample_base(
        attempt, None, [prompt("a"), prompt("b")], 2, KEY, Verifier(), spares=spares("c")
    )
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
        base = sample_base(attempt, None, [prompt("a")], 2, KEY, verifier, spares=spares("b"))
        assert problems_of(base.attempts) == ["a"]
        assert problems_of(base.replaced) == replaced


@pytest.mark.parametrize(
    ("group", "verifier", "overlong", "refilled"),
    [
        ("re", Verifier(), "keep", True),
        ("ee", Verifier(), "keep", True),
        ("re", Verifier(left_out=()), "keep", False),
        ("rt", Verifier(), "keep", False),
        ("rt", Verifier(left_out=("error", "timeout")), "keep", True),
        ("rc", Verifier(), "keep", False),
        ("rc", Verifier(), "mask", True),
    ],
)
def test_what_is_left_out_makes_no_group_worth_keeping(
    group: str, verifier: Verifier, overlong: str, refilled: bool
) -> None:
    attempt, _ = scripted({"a": group, "b": "rw"})
    base = sample_base(attempt, None, [prompt("a")], 2, KEY, verifier, overlong, spares=spares("b"))
    assert problems_of(base.attempts) == ["b" if refilled else "a"]


def of_corrections(
    attempts: list[Attempt],
    rewards: np.ndarray,
    right: list[bool],
    algorithm: Algorithm | None = None,
    verifier: Verifier | None = None,
    held: bool = False,
    wrong_slots: int = 1,
    **correction,
) -> list[TrainSequence]:
    """The training sequences of corrections of anchors that were `right`."""
    places = np.zeros(len(right), int)
    anchors = Selection(places, places, np.array(right), np.array(right), wrong_slots)
    section = Correction(**{"right_limits": ()} | correction)
    return correction_sequences(
        attempts,
        rewards,
        anchors,
        section,
        held,
        algorithm or Algorithm(),
        verifier or Verifier(),
        max_tokens=8,
    )


def test_what_is_left_out_is_measured_without_an_advantage() -> None:
    attempts = [Attempt(prompt("a"), done(2), "", VERDICTS[letter]) for letter in "rwet"]
    for left_out, counted in ((("error",), [0, 1, 3]), (("error", "timeout"), [0, 1])):
        verifier = Verifier(left_out=left_out)
        rewards = reward_array(attempts, 4, verifier)
        for sequences in (
            base_sequences(attempts, rewards, Algorithm(), verifier, 8),
            of_corrections(attempts, rewards, [True], verifier=verifier),
        ):
            assert [i for i, s in enumerate(sequences) if s.trained] == counted
            others = [s.advantage for s in sequences if not s.trained]
            assert others == [0.0] * len(others)
            # The others' mean does not see them.
            assert sum(s.advantage for s in sequences) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_overlong_penalties_never_end_a_step(norm: str) -> None:
    """Right and overlong, wrong and short: the penalty makes up for the reward."""
    verdicts, lengths = [VERDICTS["r"], VERDICTS["w"], VERDICTS["w"], VERDICTS["w"]], (8, 1, 1, 1)
    attempts = [
        Attempt(prompt("a"), done(n), "", v) for v, n in zip(verdicts, lengths, strict=True)
    ]
    algorithm = Algorithm(correction_advantage_norm=norm, overlong="soft", overlong_buffer=4)
    rewards = reward_array(attempts, 4, Verifier())
    sequences = of_corrections(attempts, rewards, [True], algorithm)
    assert max(abs(s.advantage) for s in sequences) < 2


def test_cut_attempts_are_eligible_only_by_choice() -> None:
    attempts = [Attempt(prompt("a"), done(1), "", VERDICTS["r"]) for _ in range(2)]
    completion = dataclasses.replace(attempts[1].completion, finished=False)
    attempts[1] = dataclasses.replace(attempts[1], completion=completion)
    verified = verified_array(attempts, 2, Verifier())
    assert eligible_array(verified, attempts, cut=False).tolist() == [[True, False]]
    assert eligible_array(verified, attempts, cut=True).tolist() == [[True, True]]
    assert not eligible_array(~verified, attempts, cut=True).any()


def as_prompt(anchor: Attempt) -> Prompt:
    return dataclasses.replace(anchor.prompt, anchor=anchor)


def test_no_anchors_no_sampling() -> None:
    attempt, calls = scripted({})
    assert sample_corrections(attempt, None, as_prompt, 2, KEY, []) == []
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
    sequences = base_sequences(attempts, rewards, Algorithm(), VERIFIER, 8)
    expected = (REWARDS - REWARDS.mean()) / (REWARDS.std() + 1e-6)
    np.testing.assert_allclose([s.advantage for s in sequences], expected, rtol=1e-5)


def test_the_risk_penalty_adds_to_partial_credit_and_the_bare_outcomes_give_the_scale() -> None:
    attempts = verified(*GROUP)
    rewards = reward_array(attempts, 4, VERIFIER)
    sequences = of_corrections(attempts, rewards, [True], verifier=VERIFIER)
    shaped = REWARDS - 0.5 * np.array([0, 1, 1, 1])
    expected = (shaped - shaped.mean()) / (np.std([1, 0, -0.5, -0.25]) + 1e-6)
    np.testing.assert_allclose([s.advantage for s in sequences], expected, rtol=1e-5)


def test_by_default_only_right_attempts_earn_anything() -> None:
    attempts = verified(*GROUP, Verdict(Outcome.ERROR), Verdict(Outcome.WRONG, score=0.9))
    np.testing.assert_array_equal(reward_array(attempts, 3, Verifier()), [[1, 0, 0], [0, 0, 0]])


# Corrections of right and of wrong attempts.


def outcomes(letters: str) -> list[Attempt]:
    return [Attempt(prompt("a"), done(2), "", VERDICTS[letter]) for letter in letters]


@pytest.mark.parametrize("norm", NORMS)
def test_the_slots_of_a_wrong_anchor_are_one_group(norm: str) -> None:
    """Its first slot has no right correction and teaches nothing by itself."""
    attempts = outcomes("rw" + "ww" + "wr" + "ww" + "rr")
    algorithm = Algorithm(correction_advantage_norm=norm)
    rewards = reward_array(attempts, 2, Verifier())
    sequences = of_corrections(
        attempts, rewards, [True, False, False], algorithm, wrong_slots=2, lambda_risk=0.0
    )
    assert [s.group for s in sequences] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    got = np.array([s.advantage for s in sequences])
    assert got[2] < 0 and got[2] == got[3] == got[4]
    assert got[5] == pytest.approx(-got[2:5].sum(), rel=1e-5)
    if norm != "stream":  # its scale is that of the whole stream
        alone = of_corrections(
            attempts[2:6], rewards[1:3].reshape(1, 4), [False], algorithm, lambda_risk=0.0
        )
        np.testing.assert_allclose(got[2:6], [s.advantage for s in alone], rtol=1e-6)


@pytest.mark.parametrize(
    ("limits", "held", "right_scale"),
    [
        ((), True, 1.0),
        (("count",), True, 1.0),  # of the choice of anchors
        (("retention",), False, 1.0),
        (("retention",), True, 0.0),
        (("weight",), True, 1 / 2),  # two groups of right anchors, one of wrong ones
        (("weight", "retention"), True, 0.0),
        (("weight", "retention"), False, 1 / 2),
    ],
)
def test_limits_scale_the_advantages_of_right_anchors_alone(limits, held, right_scale) -> None:
    attempts = outcomes("rw" + "rw" + "wr" + "ww")
    rewards, right = reward_array(attempts, 2, Verifier()), [True, True, False, False]

    def advantages(limits) -> np.ndarray:
        sequences = of_corrections(
            attempts, rewards, right, held=held, lambda_risk=0.0, right_limits=limits
        )
        assert all(s.trained for s in sequences)  # so that the normaliser stays
        return np.array([s.advantage for s in sequences])

    free = advantages(())
    np.testing.assert_allclose(advantages(limits)[:4], right_scale * free[:4], rtol=1e-6)
    np.testing.assert_array_equal(advantages(limits)[4:], free[4:])


def test_where_wrong_anchors_teach_nothing_right_ones_do_not_either() -> None:
    attempts = outcomes("rw" + "ww")
    rewards = reward_array(attempts, 2, Verifier())
    limited = of_corrections(attempts, rewards, [True, False], right_limits=("weight",))
    assert [s.advantage for s in limited] == [0.0] * 4


def test_retention_and_what_it_is_compared_with() -> None:
    attempts = outcomes("rrww" + "rwww")  # a right one has a third, or none, right beside it
    places, right = np.array([0, 0, 1]), np.array([True, False, True])
    anchors = Selection(places, np.zeros(3, int), right, right, wrong_slots=2)
    corrections = outcomes("rr" + "rwww" + "re")

    def judged(target: str, anchors: Selection, corrections: list[Attempt]) -> Retention:
        replay = Replay(target=target, target_retention=0.75)
        return judge_retention(attempts, corrections, anchors, (4, 2), replay, Verifier())

    assert judged("constant", anchors, corrections) == Retention(1.0, 0.75)
    # Two corrections with a verdict at the first problem, one at the second.
    assert judged("fresh", anchors, corrections) == Retention(1.0, pytest.approx(2 / 9))
    none = Selection(*(array[:0] for array in (places, places, right, right)))
    assert judged("fresh", none, []) == Retention(None, None)
    assert judged("constant", none, []) == Retention(None, 0.75)


# Corrections of corrections.

# Problem a: right half of the time; b: never; c: of it nothing is corrected.
FIRST = {"a": "rwrw", "b": "wwww", "c": "rrrr"}


def step_with(corrections: str) -> tuple[list[Attempt], list[Attempt], Selection]:
    """A step's attempts; two corrections of each of three anchors: a right and a wrong one of
    problem a, and one of b. Each has a text of its own."""
    attempts = [
        Attempt(prompt(name), done(2), f"{name}{j}", VERDICTS[letter])
        for name, letters in FIRST.items()
        for j, letter in enumerate(letters)
    ]
    places = [(0, 0), (0, 1), (1, 0)]
    problem, sample = np.array(places).T
    right = np.array([True, False, False])
    anchors = Selection(problem, sample, right, np.array([True, True, False]))
    quoted = [attempts[i * 4 + j] for i, j in places for _ in range(2)]
    made = [
        Attempt(as_prompt(anchor), done(2), f"c{k}", VERDICTS[letter])
        for k, (anchor, letter) in enumerate(zip(quoted, corrections, strict=True))
    ]
    return attempts, made, anchors


def again(
    corrections: list[Attempt], count: int = 4, share: float = 0.5, **changes
) -> tuple[Selection, list[str]]:
    """What is chosen of a step's corrections; and the texts."""
    attempts, _, anchors = step_with("rwrwrw")
    chosen, quoted = choose_again(
        attempts,
        corrections,
        anchors,
        (4, 2),
        count,
        share,
        Correction(**changes),
        Verifier(),
        np.random.default_rng(0),
    )
    return chosen, [a.text for a in quoted]


def test_corrections_are_put_back_by_the_rules_for_attempts() -> None:
    _, made, anchors = step_with("rwrwrw")
    chosen, texts = again(made)
    # Problem a is in the band, by its attempts; two of it at most, then b.
    assert sorted(texts) == ["c1", "c3", "c4", "c5"]
    assert sorted(again(made, count=2, share=1.0)[1]) == ["c0", "c2"]
    assert chosen.is_correction.tolist() == [False] * 3 + [True] * 4
    by_text = {a.text: a for a in made}
    assert [by_text[t].correct for t in texts] == chosen.right[3:].tolist()
    assert [["a", "b"].index(by_text[t].problem.id) for t in texts] == chosen.problem[3:].tolist()
    # Only wrong ones; of problems that were solved in the step; in larger groups.
    wrong = {"share": 0.0, "shortage": "empty"}
    assert sorted(again(made, **wrong)[1]) == ["c1", "c3", "c5"]
    assert sorted(again(made, wrong_min_pass_rate=0.25, **wrong)[1]) == ["c1", "c3"]
    twice, texts = again(made, wrong_group_multiple=2, **wrong)
    assert len(twice) == 5 and [texts[0]] * 2 + [texts[2]] * 2 == texts
    assert anchors.problem.tolist() == twice.problem[:3].tolist()


@pytest.mark.parametrize("why", ["it repeats", "it was cut", "it has no verdict"])
def test_what_is_no_new_attempt_is_not_put_back(why: str) -> None:
    _, made, _ = step_with("rwrwrw")
    for k in (0, 3, 4):
        if why == "it repeats":
            made[k] = dataclasses.replace(made[k], text=f" {made[k].prompt.anchor.text}\n")
        elif why == "it was cut":
            cut = dataclasses.replace(made[k].completion, finished=False)
            made[k] = dataclasses.replace(made[k], completion=cut)
        else:
            made[k] = dataclasses.replace(made[k], verdict=VERDICTS["e"])
    chosen, texts = again(made, count=6, max_per_problem=6)
    assert sorted(texts) == ["c1", "c2", "c5"] and len(chosen) == 6
    if why == "it was cut":
        assert len(again(made, count=6, max_per_problem=6, cut_anchors=True)[0]) == 9


def test_nothing_is_put_back_where_nothing_was_corrected() -> None:
    chosen, texts = again([dataclasses.replace(a, verdict=VERDICTS["e"]) for a in made_wrong()])
    assert texts == [] and len(chosen) == 3 and not chosen.is_correction.any()


def made_wrong() -> list[Attempt]:
    return step_with("wwwwww")[1]


def test_corrections_are_parted_by_what_they_quote() -> None:
    attempts, made, anchors = step_with("rwrwrw")
    rewards = reward_array(made, 2, Verifier())
    args = Algorithm(), Verifier(), 8
    sequences = base_sequences(attempts, reward_array(attempts, 4, Verifier()), *args)
    sequences += correction_sequences(made, rewards, anchors, Correction(), False, *args)
    parts = by_part(sequences, anchors, attempts, 4, Verifier())
    assert parts["base"] == sequences[:12]
    assert parts["right"] == sequences[12:14] and parts["solved"] == sequences[14:16]
    assert parts["unsolved"] == sequences[16:] and set(parts) == set(PARTS)
    # One without a verdict that says something solves nothing.
    unknown = [dataclasses.replace(a, verdict=VERDICTS["w"]) for a in attempts]
    assert by_part(sequences, anchors, unknown, 4, Verifier()).keys() == {
        "base",
        "right",
        "unsolved",
    }


def test_both_rounds_are_one_stream() -> None:
    """Groups are numbered through; retention is of all right anchors, and what it is compared with
    counts all attempts at a correction's problem."""
    attempts, made, _ = step_with("rwrwrw")
    anchors, texts = again(made, count=2, share=1.0, shortage="empty", max_per_problem=1)
    assert anchors.right.tolist() == [True, False, False, True, True]
    by_text = {a.text: a for a in made}
    keys = []

    def attempt(params, prompts, samples, key, purpose):
        keys.append(jax.random.key_data(key).tolist())
        return [Attempt(p, done(1), "", VERDICTS["rw"[j]]) for p in prompts for j in range(samples)]

    quoted = [by_text[t] for t in texts]
    sample_corrections(attempt, None, as_prompt, 2, KEY, quoted)
    more = sample_corrections(attempt, None, as_prompt, 2, KEY, quoted, AGAIN_KEY)
    assert keys[0] != keys[1] and [c.prompt.anchor.text for c in more[::2]] == texts
    corrections = [*made, *more]
    rewards = reward_array(corrections, 2, Verifier())
    sequences = correction_sequences(
        corrections, rewards, anchors, Correction(), False, Algorithm(), Verifier(), 8
    )
    assert [s.group for s in sequences] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    replay = Replay(target="fresh")
    kept = judge_retention(attempts, corrections, anchors, (4, 2), replay, Verifier())
    # One other of three is right beside the first anchor; of all four, half; of b's, none.
    rates = {0: 1 / 2, 1: 0.0}
    wanted = (1 / 3 + sum(rates[i] for i in anchors.problem[3:].tolist())) / 3
    assert kept == Retention(0.5, pytest.approx(wanted))
