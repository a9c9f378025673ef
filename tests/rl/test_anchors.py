"""Anchor selection: what it may never do, and what it prefers."""

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipo_jax.rl.anchors import Selection, select_anchors


@dataclasses.dataclass(frozen=True)
class Case:
    """The arguments of one selection. `correct`, `eligible`: [N, G] bool."""

    correct: np.ndarray
    eligible: np.ndarray
    count: int
    success_share: float
    band: tuple[float, float] = (0.375, 0.75)
    max_per_problem: int = 2
    shortage: str = "other"
    seed: int = 0
    wrong_min_pass_rate: float = 0.0
    wrong_slots: int = 1
    balanced: bool = False

    def select(self) -> Selection:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values.setdefault("verified", values["eligible"])
        return select_anchors(rng=np.random.default_rng(values.pop("seed")), **values)

    @property
    def slots(self) -> tuple[int, int]:
        """Slots for (wrong, right) attempts."""
        wanted = self.success_share * self.count
        right = round(wanted)
        if 0 < wanted <= 0.5:  # drawn before anything else
            right = int(np.random.default_rng(self.seed).random() < wanted)
        return self.count - right, right

    def distance(self, i: int) -> Fraction:
        """How far the pass rate of problem i is from the band."""
        low, high = map(Fraction, self.band)
        known = int(self.eligible[i].sum())
        rate = Fraction(int((self.correct & self.eligible)[i].sum()), max(known, 1))
        return max(Fraction(0), low - rate, rate - high)


def case(correct: Any, **arguments: Any) -> Case:
    correct = np.asarray(correct, bool)
    return Case(correct, np.ones_like(correct), **arguments)


@st.composite
def cases(draw: Any) -> Case:
    N, G = draw(st.integers(0, 6)), draw(st.sampled_from([1, 2, 4, 8]))

    def bits(share: float) -> np.ndarray:
        seed = draw(st.integers(0, 2**32 - 1))
        return np.random.default_rng(seed).random((N, G)) < share

    # Eighths are exact in binary, so that the oracle's distances are those of the code.
    low, high = sorted(draw(st.tuples(st.integers(0, 8), st.integers(0, 8))))
    return Case(
        correct=bits(draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))),
        eligible=bits(draw(st.sampled_from([0.3, 1.0]))),
        count=draw(st.integers(0, 12)),
        success_share=draw(st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.8, 1.0])),
        band=(low / 8, high / 8),
        max_per_problem=draw(st.integers(1, 4)),
        shortage=draw(st.sampled_from(["other", "empty"])),
        seed=draw(st.integers(0, 5)),
    )


def chosen_of(selection: Selection) -> list[tuple[int, int]]:
    return list(zip(selection.problem.tolist(), selection.sample.tolist(), strict=True))


def left_over(c: Case, selection: Selection) -> dict[bool, list[tuple[int, int]]]:
    """By class: eligible attempts that were not chosen though their problem is below its cap."""
    chosen = set(chosen_of(selection))
    used = np.bincount(selection.problem, minlength=len(c.correct))
    free: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for i, j in np.argwhere(c.eligible).tolist():
        if (i, j) not in chosen and used[i] < c.max_per_problem:
            free[bool(c.correct[i, j])].append((i, j))
    return free


@given(cases())
def test_never_more_never_twice_never_ineligible(c: Case) -> None:
    selection = c.select()
    chosen = chosen_of(selection)
    assert len(selection) == len(chosen) <= c.count
    assert len(set(chosen)) == len(chosen)
    assert all(c.eligible[i, j] for i, j in chosen)
    assert max(np.bincount(selection.problem), default=0) <= c.max_per_problem
    assert selection.right.tolist() == [bool(c.correct[i, j]) for i, j in chosen]
    assert selection.in_band.tolist() == [c.distance(i) == 0 for i, _ in chosen]


@given(cases())
def test_slots_stay_empty_only_for_want_of_attempts(c: Case) -> None:
    selection = c.select()
    free = left_over(c, selection)
    if c.shortage == "other":
        assert len(selection) == c.count or not (free[False] or free[True])
        return
    for right in (False, True):
        taken = int((selection.right == right).sum())
        assert taken <= c.slots[right]
        assert taken == c.slots[right] or not free[right]


@given(cases())
def test_success_share_is_met_when_both_classes_have_enough(c: Case) -> None:
    c = dataclasses.replace(c, max_per_problem=c.correct.shape[1])  # the cap binds nowhere
    available = [int((c.eligible & (c.correct == right)).sum()) for right in (False, True)]
    wrong, right = c.slots
    selection = c.select()
    if available[False] >= wrong and available[True] >= right:
        assert (len(selection), int(selection.right.sum())) == (c.count, right)
    elif c.shortage == "empty":
        assert int(selection.right.sum()) == min(right, available[True])
        assert len(selection) == min(right, available[True]) + min(wrong, available[False])


@pytest.mark.parametrize(("count", "share"), [(8, 0.05), (10, 0.05), (1, 0.3), (2, 0.0)])
def test_less_than_half_a_slot_is_one_slot_in_that_share_of_the_steps(
    count: int, share: float
) -> None:
    """Else the controller would never hear of retention again."""
    mixed = case(np.tile([True, False], (16, 4)), count=count, success_share=share)
    selections = [dataclasses.replace(mixed, seed=seed).select() for seed in range(600)]
    assert {len(s) for s in selections} == {count}
    rights = [int(s.right.sum()) for s in selections]
    assert set(rights) <= {0, 1}
    assert np.mean(rights) == pytest.approx(count * share, abs=0.06)


@given(cases())
def test_nearest_to_the_band_first_and_problems_take_turns(c: Case) -> None:
    selection = c.select()
    free = left_over(c, selection)
    for right in (False, True):
        chosen = selection.problem[selection.right == right].tolist()
        for i in chosen:
            for other, _ in free[right]:
                assert c.distance(i) <= c.distance(other)
                if c.distance(i) == c.distance(other):
                    assert chosen.count(i) <= chosen.count(other) + 1


@given(cases())
def test_the_generator_decides_and_inputs_are_left_alone(c: Case) -> None:
    correct, eligible = c.correct.copy(), c.eligible.copy()
    assert chosen_of(c.select()) == chosen_of(c.select())
    np.testing.assert_array_equal(c.correct, correct)
    np.testing.assert_array_equal(c.eligible, eligible)


def test_ties_are_broken_by_the_generator() -> None:
    tie = case(np.tile([True, False], (8, 2)), count=2, success_share=0.5)
    selections = [dataclasses.replace(tie, seed=seed).select() for seed in range(40)]
    for i in (0, 1):  # the wrong one, the right one
        assert len({int(s.problem[i]) for s in selections}) >= 6
    # Of one problem, any attempt of the class.
    assert {int(s.sample[s.right][0]) for s in selections} == {0, 2}
    assert {int(s.sample[~s.right][0]) for s in selections} == {1, 3}


# Pass rates 1/8 (distance 0.25), 2/8 (0.125), 4/8 (in the band), 8/8 (0.25).
RATES = np.arange(8) < np.array([[1], [2], [4], [8]])


def test_selection_by_hand() -> None:
    selection = case(RATES, count=4, success_share=0.5).select()
    # 7 right attempts fit under the caps, and as many wrong ones would but for the last problem: 6.
    # So the wrong ones choose first and take the medium problem up to its cap; the right ones go
    # to the next nearest problem.
    assert selection.problem.tolist() == [2, 2, 1, 1]
    assert selection.right.tolist() == [False, False, True, True]
    assert selection.in_band.tolist() == [True, True, False, False]
    wider = case(RATES, count=4, success_share=0.5, max_per_problem=8).select()
    assert wider.problem.tolist() == [2, 2, 2, 2]
    assert sorted(wider.right.tolist()) == [False, False, True, True]


@given(cases())
def test_the_scarcer_class_gets_all_it_can(c: Case) -> None:
    """Whatever the other one takes: rare right attempts sit in problems with many wrong ones."""
    c = dataclasses.replace(c, shortage="empty")
    takeable = [
        int(np.minimum((c.eligible & (c.correct == right)).sum(1), c.max_per_problem).sum())
        for right in (False, True)
    ]
    spare = [takeable[right] - c.slots[right] for right in (False, True)]
    scarcer = spare[True] < spare[False]
    taken = int((c.select().right == scarcer).sum())
    assert taken == min(takeable[scarcer], c.slots[scarcer])


@pytest.mark.parametrize(("shortage", "right", "wrong"), [("other", 1, 5), ("empty", 1, 3)])
def test_shortage_of_right_attempts(shortage: str, right: int, wrong: int) -> None:
    only_one = np.zeros((4, 4), bool)
    only_one[1, 2] = True
    selection = case(only_one, count=6, success_share=0.5, shortage=shortage).select()
    assert (int(selection.right.sum()), int((~selection.right).sum())) == (right, wrong)
    assert (1, 2) in chosen_of(selection)


@pytest.mark.parametrize("shortage", ["other", "empty"])
@pytest.mark.parametrize("correct", [np.zeros((3, 4), bool), np.ones((3, 4), bool)])
def test_one_class_is_empty(correct: np.ndarray, shortage: str) -> None:
    selection = case(correct, count=4, success_share=0.25, shortage=shortage).select()
    of_this_class = 1 if correct.any() else 3
    assert len(selection) == (4 if shortage == "other" else of_this_class)
    assert (selection.right == correct.any()).all()


def test_nothing_to_choose_from() -> None:
    nothing = [
        case(np.zeros((0, 4), bool), count=3, success_share=0.5),
        case(np.ones((2, 4), bool), count=0, success_share=0.5),
        Case(np.ones((2, 4), bool), np.zeros((2, 4), bool), count=3, success_share=0.5),
    ]
    for c in nothing:
        selection = c.select()
        assert len(selection) == 0
        assert selection.right.shape == selection.in_band.shape == (0,)
        assert selection.right.dtype == selection.in_band.dtype == bool


def test_pass_rates_are_of_all_verdicts_whoever_may_be_an_anchor() -> None:
    """Half of the first problem's attempts are right: it is in the band, though only right ones may
    be anchors. All of the second one's are."""
    correct = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    verified = np.ones_like(correct)
    eligible = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
    rng = np.random.default_rng(0)
    anchors = select_anchors(correct, verified, eligible, 2, 1.0, (0.375, 0.75), 2, "other", rng)
    assert anchors.problem.tolist() == [0, 0] and anchors.in_band.all()


# What bounds right anchors, and larger groups for wrong ones.


@given(cases(), st.integers(1, 4), st.booleans())
def test_slots_are_never_more_than_there_are(c: Case, wrong_slots: int, balanced: bool) -> None:
    c = dataclasses.replace(c, wrong_slots=wrong_slots, balanced=balanced)
    selection = c.select()
    assert selection.slots.sum() == len(selection.in_slots()) <= c.count
    assert selection.slots.tolist() == [1 if right else wrong_slots for right in selection.right]
    assert list(dict.fromkeys(selection.in_slots())) == chosen_of(selection)
    assert max(np.bincount(selection.problem), default=0) <= c.max_per_problem
    if balanced:
        assert selection.right.sum() <= (~selection.right).sum()


def test_balance_gives_the_slots_of_right_anchors_to_wrong_ones() -> None:
    mixed = case(np.tile([True, False], (8, 4)), count=12, success_share=0.75)
    assert mixed.select().right.sum() == 9
    balanced = dataclasses.replace(mixed, balanced=True)
    assert (balanced.select().right.sum(), len(balanced.select())) == (6, 12)
    thrice = dataclasses.replace(balanced, wrong_slots=3).select()
    assert (thrice.right.sum(), (~thrice.right).sum()) == (3, 3)
    # Where wrong ones are few, slots stay empty.
    few = np.ones((8, 8), bool)
    few[3, 4] = few[5, 1] = False
    few_wrong = case(few, count=12, success_share=0.25, balanced=True).select()
    assert (few_wrong.right.sum(), len(few_wrong)) == (2, 4)


def test_wrong_anchors_of_problems_that_are_never_solved_can_be_left_out() -> None:
    anywhere = case(RATES, count=32, success_share=0.0, shortage="empty", max_per_problem=8)
    assert set(anywhere.select().problem.tolist()) == {0, 1, 2}
    for rate, problems in ((1 / 8, {0, 1, 2}), (0.2, {1, 2}), (0.5, {2}), (0.6, set())):
        chosen = dataclasses.replace(anywhere, wrong_min_pass_rate=rate).select()
        assert set(chosen.problem.tolist()) == problems
    # Right ones stay.
    rights = dataclasses.replace(anywhere, wrong_min_pass_rate=1.0, success_share=1.0).select()
    assert set(rights.problem.tolist()) == {0, 1, 2, 3}
