"""The memory of difficulty, and the draw by it."""

import numpy as np

from cipo_jax.rl.difficulty import Difficulty, choose_learnable, remember


def test_running_mean_by_hand() -> None:
    memory = remember({}, ["a", "b"], np.array([1.0, 0.0]), decay=0.75)
    memory = remember(memory, ["a"], np.array([0.0]), decay=0.75)
    assert memory == {"a": Difficulty(0.75, 2), "b": Difficulty(0.0, 1)}


def test_the_memory_given_is_not_changed() -> None:
    before = {"a": Difficulty(0.5, 1)}
    remember(before, ["a"], np.array([1.0]), decay=0.5)
    assert before == {"a": Difficulty(0.5, 1)}


def test_medium_problems_are_drawn_most_and_no_problem_is_forgotten() -> None:
    memory = {"easy": Difficulty(1.0, 9), "medium": Difficulty(0.5, 9), "hard": Difficulty(0.1, 9)}
    ids = ["easy", "medium", "hard", "unseen"]
    drawn = np.zeros(4)
    for seed in range(4000):
        [i] = choose_learnable(memory, ids, 1, np.random.default_rng(seed))
        drawn[i] += 1
    weights = np.array([0.02, 0.25, 0.09, 0.25])
    np.testing.assert_allclose(drawn / 4000, weights / weights.sum(), atol=0.025)


def test_a_draw_is_without_replacement_and_repeats_with_its_seed() -> None:
    ids = [str(i) for i in range(20)]
    first = choose_learnable({}, ids, 12, np.random.default_rng([1, 2]))
    assert first == choose_learnable({}, ids, 12, np.random.default_rng([1, 2]))
    assert first != choose_learnable({}, ids, 12, np.random.default_rng([1, 3]))
    assert len(set(first)) == 12
    assert first == sorted(first)
