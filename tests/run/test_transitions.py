"""What corrections did to the attempts they quote, by attempts made by hand."""

import numpy as np
import pytest

from cipo_jax.config.keys import Verifier
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.run.measures import find_metric
from cipo_jax.run.transitions import gradient_weight, transition, transitions, wrong_solved
from cipo_jax.types import (
    BASE,
    CORRECTION,
    Attempt,
    Completion,
    Outcome,
    Problem,
    Prompt,
    Verdict,
)


def attempt(
    outcome: Outcome,
    *,
    text: str = "text",
    extracted: str | None = None,
    anchor: Attempt | None = None,
) -> Attempt:
    return Attempt(
        Prompt(Problem("p", "1+1?", "2"), np.zeros(2, np.int32), anchor),
        Completion(np.zeros(3, np.int32), np.zeros(3, np.float32), True),
        text,
        Verdict(outcome, extracted),
    )


def test_transitions_by_hand():
    right = attempt(Outcome.CORRECT, text="so 2", extracted="2")
    wrong = attempt(Outcome.WRONG, text="so 3\n", extracted="3")
    silent = attempt(Outcome.NO_ANSWER, text="", extracted=None)
    corrections = [
        attempt(Outcome.CORRECT, text=" so 2 ", extracted="2", anchor=right),  # r2r, a copy
        attempt(Outcome.CORRECT, text="it is 2", extracted="2", anchor=right),  # r2r
        attempt(Outcome.WRONG, text="so 5", extracted="5", anchor=right),  # r2w, changed
        attempt(Outcome.CORRECT, text="so 2", extracted="2", anchor=wrong),  # w2r, changed
        attempt(Outcome.WRONG, text="so 3", extracted="3", anchor=wrong),  # w2w, a copy
        attempt(Outcome.TIMEOUT, text="hm", extracted=None, anchor=silent),  # w2w
        attempt(Outcome.WRONG, text="4", extracted="4", anchor=silent),  # w2w, changed
        attempt(Outcome.NO_ANSWER, text="?", extracted=None, anchor=wrong),  # w2w, changed
    ]
    assert [transition(c) for c in corrections] == [
        "r2r",
        "r2r",
        "r2w",
        "w2r",
        "w2w",
        "w2w",
        "w2w",
        "w2w",
    ]
    assert transitions(corrections) == pytest.approx(
        {
            "transition/r2r": 2 / 8,
            "transition/r2w": 1 / 8,
            "transition/w2r": 1 / 8,
            "transition/w2w": 4 / 8,
            "transition/r2r_count": 2,
            "transition/r2w_count": 1,
            "transition/w2r_count": 1,
            "transition/w2w_count": 4,
            "correction/fix_rate": 1 / 5,
            "correction/break_rate": 1 / 3,
            "correction/retention": 2 / 3,
            "correction/copy_rate": 2 / 8,
            "correction/answer_changed_frac": 4 / 8,
            "correction/copy_rate/right": 1 / 3,
            "correction/copy_rate/wrong": 1 / 5,
            "correction/same_answer/right": 2 / 3,
            "correction/same_answer/wrong": 1 / 3,  # of those that quote an answer
        }
    )


def test_rates_without_a_denominator_are_absent():
    right, wrong = attempt(Outcome.CORRECT), attempt(Outcome.WRONG)
    only_wrong = transitions([attempt(Outcome.CORRECT, anchor=wrong)])
    assert only_wrong["correction/fix_rate"] == 1
    assert not {"correction/retention", "correction/break_rate"} & only_wrong.keys()
    only_right = transitions([attempt(Outcome.WRONG, anchor=right)])
    assert only_right["correction/break_rate"] == 1 and only_right["correction/retention"] == 0
    assert "correction/fix_rate" not in only_right
    assert transitions([]) == {}
    with pytest.raises(ValueError, match="no anchor"):
        transitions([right])


def test_a_wrong_anchor_is_solved_by_one_right_correction():
    o = Outcome
    right, wrong = attempt(o.CORRECT), attempt(o.WRONG)
    outcomes = [
        (right, (o.CORRECT, o.CORRECT)),  # does not count
        (wrong, (o.WRONG, o.CORRECT)),
        (wrong, (o.WRONG, o.NO_ANSWER)),
        (wrong, (o.ERROR, o.WRONG)),
        (wrong, (o.ERROR, o.ERROR)),  # nothing is known of it
    ]
    corrections = [attempt(o, anchor=anchor) for anchor, group in outcomes for o in group]
    solved = wrong_solved(corrections, [2] * 5, Verifier())
    assert solved == {"correction/wrong_solved": 1 / 3}
    assert all(map(find_metric, [*solved, *transitions(corrections)]))
    assert wrong_solved(corrections[:2], [2], Verifier()) == {}
    # The second and the third are one group of one anchor.
    one = wrong_solved(corrections, [2, 4, 2, 2], Verifier())
    assert one == {"correction/wrong_solved": 1 / 2}


def sequence(advantage: float, tokens: int, group: int, stream: int = CORRECTION, trained=True):
    completion = np.zeros(tokens, np.int32)
    logprobs = np.zeros(tokens, np.float32)
    prompt = np.zeros(7, np.int32)
    return TrainSequence(prompt, completion, logprobs, advantage, stream, group, trained)


def test_the_weight_of_right_anchors_by_hand():
    right = np.array([True, False])
    sequences = [
        sequence(5.0, 9, group=0, stream=BASE),  # of the other stream
        sequence(-2.0, 3, group=0),
        sequence(0.5, 4, group=0),
        sequence(1.0, 2, group=1),
        sequence(9.0, 9, group=1, trained=False),
    ]

    def share(aggregation):
        return gradient_weight(sequences, right, aggregation)["correction/right_weight"]

    assert share("token_mean") == share("constant") == pytest.approx(8 / 10)
    assert share("sequence_mean") == pytest.approx(2.5 / 3.5)
    assert gradient_weight([sequence(0.0, 3, group=0)], right, "token_mean") == {}
