"""Streams of generated problems: the same for the same seed, splits apart, for every task."""

import collections
import hashlib
import pickle
import time

import numpy as np
import pytest

from cipo_jax.data.datasets import GENERATED
from cipo_jax.data.tasks.generated import GeneratedDemonstrations, GeneratedProblems, split_of
from cipo_jax.types import CipoError

ARITHMETIC, PROGRAMS = GENERATED["arithmetic"], GENERATED["programs"]


@pytest.fixture(params=[ARITHMETIC, PROGRAMS], ids=["arithmetic", "programs"])
def task(request):
    return request.param


def digest(drawn) -> str:
    return hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]


# Literals: were they to change, a run would not continue as it began, and a checkpoint would be
# tested on problems it was trained on.
@pytest.mark.parametrize(
    ("task", "split", "batch", "first"),
    [
        (ARITHMETIC, "train", "afef7ae6d8033003", "57e45fcc64080a05"),
        (ARITHMETIC, "dev", "f9c915898ccf0bcd", "7d99d9a3c09ed9f3"),
        (ARITHMETIC, "test", "67c4b90e7606c5a6", "f6cfd5cd8673d1d2"),
        (PROGRAMS, "train", "9b450217460d11cb", "c19a72fcdc79b39a"),
        (PROGRAMS, "dev", "02951a6c5e66fce3", "81bb33850c61667c"),
        (PROGRAMS, "test", "2ee8ed550e6702cc", "bfad73b03959ba8b"),
    ],
)
def test_what_a_seed_draws_never_changes(task, split, batch, first):
    source = GeneratedProblems(task, 3, split, 1, 5)
    assert (digest(source.batch(7, 40)), digest(source.first(40))) == (batch, first)


@pytest.mark.parametrize(
    ("task", "batch"), [(ARITHMETIC, "2859fbe059c61d7b"), (PROGRAMS, "d483226642bbe4f8")]
)
def test_what_a_seed_demonstrates_never_changes(task, batch):
    source = GeneratedDemonstrations(task, 3, 0.7, 0.3, 1, 5)
    assert digest(source.batch(7, 200)) == batch
    assert source.batch(2, 30) != source.batch(3, 30)


def test_splits_are_disjoint_and_of_the_documented_size():
    splits = [split_of(f"({a}+1)") for a in range(1, 10)]
    assert splits == ["train"] * 3 + ["test", "dev"] + ["train"] * 4
    rng = np.random.default_rng(1)
    drawn = {ARITHMETIC.make_problem(rng, 2, 5).id for _ in range(8000)}
    counts = collections.Counter(split_of(problem_id) for problem_id in drawn)
    shares = {split: count / len(drawn) for split, count in counts.items()}
    assert shares == pytest.approx({"train": 13 / 16, "dev": 1 / 16, "test": 1 / 8}, abs=0.02)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_every_problem_is_of_the_split_that_was_asked_for(task, split):
    problems = GeneratedProblems(task, 0, split).first(50)
    problems += GeneratedProblems(task, 3, split).batch(7, 50)
    assert {split_of(p.id) for p in problems} == {split}


def test_a_batch_is_a_function_of_seed_split_and_step(task):
    def ids(seed, split, step):
        return [p.id for p in GeneratedProblems(task, seed, split).batch(step, 20)]

    assert ids(0, "train", 5) == ids(0, "train", 5)
    others = [ids(1, "train", 5), ids(0, "train", 6), ids(0, "test", 5)]
    assert all(other != ids(0, "train", 5) for other in others)
    assert len(set(ids(0, "train", 5))) == 20


def test_evaluation_problems_are_distinct_nested_and_the_same_for_every_seed(task):
    many = [p.id for p in GeneratedProblems(task, 0, "test").first(300)]
    assert len(set(many)) == 300
    assert [p.id for p in GeneratedProblems(task, 9, "test").first(100)] == many[:100]


def test_nothing_trained_on_is_a_test_problem(task):
    test = {p.id for p in GeneratedProblems(task, 0, "test", 2, 2).first(200)}
    source = GeneratedProblems(task, 0, "train", 2, 2)
    demonstrations = GeneratedDemonstrations(task, 0, 0.5, 0.3, 2, 2)
    for step in range(20):
        assert not test & {p.id for p in source.batch(step, 64)}
        assert not test & {d.problem.id for d in demonstrations.batch(step, 64)}


def test_tasks_with_the_same_seed_draw_from_streams_of_their_own():
    uses = ("train", "dev", "test", "demonstrations")
    streams = [task.stream(use) for task in GENERATED.values() for use in uses]
    assert len(set(streams)) == len(streams)


def test_share_limits_mean_never_and_always(task):
    never = GeneratedDemonstrations(task, 0, correction_share=0, right_share=0.5).batch(0, 50)
    always = GeneratedDemonstrations(task, 0, correction_share=1, right_share=1).batch(0, 50)
    assert all(d.previous_attempt is None for d in never)
    assert all(d.previous_attempt == d.solution for d in always)


def test_problems_survive_pickling_to_worker_processes(task):
    problem = GeneratedProblems(task, 0, "train").batch(0, 1)[0]
    assert pickle.loads(pickle.dumps(problem)) == problem


def test_generation_is_fast(task):
    start = time.process_time()
    GeneratedProblems(task, 0, "train").batch(0, 1000)
    GeneratedDemonstrations(task, 0, 1.0, 0.0).batch(0, 1000)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeneratedProblems(ARITHMETIC, 0, "valid"), "split.*'valid'.*train, dev, test"),
        (lambda: GeneratedProblems(ARITHMETIC, 0, "train", 5, 2), "min_operations.*5, 2"),
        (lambda: GeneratedProblems(PROGRAMS, 0, "train", 0, 2), "min_operations.*0, 2"),
        (lambda: GeneratedDemonstrations(PROGRAMS, 0, 1.5, 0.3), "correction_share.*1.5"),
        (lambda: GeneratedDemonstrations(ARITHMETIC, 0, 0.5, -0.1), "right_share.*-0.1"),
        (
            lambda: GeneratedProblems(ARITHMETIC, 0, "test").first(0),
            "got 0 arithmetic problems, wanted a number > 0",
        ),
        (
            lambda: GeneratedProblems(ARITHMETIC, 0, "dev", 1, 1).first(500),
            "asked for 500 different arithmetic problems.*'dev'.*fewer",
        ),
        (
            lambda: GeneratedProblems(PROGRAMS, 0, "dev", 1, 1).first(500),
            "asked for 500 different small programs.*'dev'.*fewer",
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(CipoError, match=message):
        make()


def test_practice_is_a_share_of_the_demonstrations_of_tasks_that_have_it():
    guess = GENERATED["guess"]

    def solved(task, share: float) -> int:
        source = GeneratedDemonstrations(task, 0, 0.0, 0.0, 2, 3, practice_share=share)
        return sum(
            d.solution == task.solution(d.problem)
            for d in source.batch(0, 100)
            if d.problem.question.startswith(("Find", "Compute"))
        )

    assert solved(guess, 0.0) == 100 and solved(guess, 1.0) == 0
    assert 30 < solved(guess, 0.5) < 70
    assert solved(ARITHMETIC, 1.0) == 100
