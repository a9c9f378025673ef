"""The embedded word problems: the words mean what the solution computes, wrong solutions are wrong.

`READINGS` reads the sentences once more, without the formulas of the stories.
"""

import hashlib
import itertools
import operator
import re
from collections.abc import Callable

import numpy as np
import pytest

from cipo_jax.data.tasks.generated import GeneratedDemonstrations, GeneratedProblems, split_of
from cipo_jax.data.tasks.story_parts import PEOPLE
from cipo_jax.data.tasks.word_problems import (
    LARGEST,
    MOST_OPERATIONS,
    STORIES,
    TASK,
    corrupt,
    make_problem,
    solution,
)
from cipo_jax.types import CipoError, Problem
from cipo_jax.verifiers.math.answer import verify_math

# A pattern of a sentence, and what the sentence makes of the amounts so far and its own numbers.
# The first pattern that is found counts.
READINGS: list[tuple[str, Callable[[list[int], list[int]], int]]] = [
    # A number that nobody needs.
    (r"years old|Park Street|children|people|opened|way to the shop|coat", lambda v, n: v[-1]),
    (r"Last year|A year ago|tank|degrees|workers|\brent\b", lambda v, n: v[-1]),
    # Questions, and what is said before them.
    (r"do they have together\?", lambda v, n: v[-2] + v[-1]),
    (r"together\?", lambda v, n: v[0] + v[-1]),
    (r"in \d+ weeks\?|does this on|sells all|is sold for", lambda v, n: v[-1] * n[0]),
    (r"\?$|every week", lambda v, n: v[-1]),
    (r"wants to have|wanted to|orders|had \d+ \w+ before", lambda v, n: n[0] - v[-1]),
    (r"hands over|is to go", lambda v, n: n[0] - v[-1]),
    (r"equally|into (bowls|piles|crates)|litre|same number", lambda v, n: v[-1] // n[0]),
    # Openings and events.
    (r"Each of them costs|^There are \d+ \w+ in each", lambda v, n: v[-1] * n[0]),
    (r"times as many", lambda v, n: v[-1] * n[0]),
    (r"[Hh]alf (of|off|as many)|halves", lambda v, n: v[-1] // 2),
    (r"same way back", lambda v, n: v[-1] * 2),
    (r"fewer \w+ than|less than", lambda v, n: v[-1] - n[0]),
    (r"gives (away )?\d+|loses|coupon|are sold|customer|damaged", lambda v, n: v[-1] - n[0]),
    (r"\beach\b|\bper\b|a day", lambda v, n: (v or [0])[-1] + n[0] * n[1]),
    (r"", lambda v, n: (v or [0])[-1] + sum(n)),
]


def read(question: str) -> int:
    """The answer of a question, from its words."""
    amounts: list[int] = []
    for sentence in re.split(r"(?<=[.?]) ", question):
        numbers = [int(n) for n in re.findall(r"\d+", sentence)]
        reading = next(value for pattern, value in READINGS if re.search(pattern, sentence))
        amounts.append(reading(amounts, numbers))
    return amounts[-1]


def work(text: str) -> tuple[list[tuple[int, str, int, int]], int]:
    """(left, sign, right, result) of each line of a solution, and the boxed number."""
    *lines, last = text.split("\n")
    found = [re.fullmatch(r"[A-Z][\w ]*: (\d+) ([-+*/]) (\d+) = (\d+)", line) for line in lines]
    (boxed,) = re.findall(r"^The answer is \\boxed\{(\d+)\}\.$", last)
    return [(int(m[1]), m[2], int(m[3]), int(m[4])) for m in found], int(boxed)


def value(left: int, sign: str, right: int) -> float:
    apply = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    return apply[sign](left, right)


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    rng = np.random.default_rng(0)
    return [make_problem(rng, 1, MOST_OPERATIONS) for _ in range(2500)]


def test_example_of_the_docstring():
    problem = Problem("collection: boxes 3 8, gain 5, count", "")
    lines = ("In the boxes: 3 * 8 = 24", "With the new ones: 24 + 5 = 29")
    assert solution(problem) == "\n".join([*lines, "The answer is \\boxed{29}."])


def test_the_words_of_every_story_lead_to_the_answer(problems):
    told = {name: set() for name in STORIES}
    for problem in problems:
        assert str(read(problem.question)) == problem.answer, problem.question
        name, parts = problem.id.split(": ")
        told[name] |= {part.split()[0] for part in parts.split(", ")}
    for name, story in STORIES.items():
        parts = (*story.openings, *story.events, *story.questions, *story.idle)
        assert told[name] == {part.name for part in parts}, "some sentence was never read"


def test_no_pronoun_follows_a_sentence_with_another_person(problems):
    names, seen = {name for name, *_ in PEOPLE}, 0
    for problem in problems:
        sentences = re.split(r"(?<=[.?]) ", problem.question)
        told = [word for word in re.findall(r"\w+", problem.question) if word in names]
        for before, after in itertools.pairwise(sentences):
            if names.intersection(re.findall(r"\w+", before)) - {*told[:1]}:
                seen += 1
                assert not re.search(r"\b(?:[Ss]?he|her|him)\b", after), f"{before} {after}"
    assert seen > 20


def test_texts_are_complete(problems):
    for problem in problems:
        assert not re.search(r"[{}]|  ", problem.question)
        sentences = re.split(r"(?<=[.?]) ", problem.question)
        assert all(s[0].isupper() or s[0].isdigit() for s in sentences), problem.question
        assert problem.question.count("?") == 1 and problem.question.endswith("?")


def test_solutions_are_exact_and_of_the_asked_length(problems):
    lengths, idle = set(), 0
    for problem in problems:
        lines, boxed = work(solution(problem))
        assert len(lines) == problem.meta["operations"]
        lengths.add(len(lines))
        assert str(boxed) == problem.answer == str(lines[-1][3])
        numbers = {int(n) for n in re.findall(r"\d+", problem.question)} | {2}
        assert max(numbers) <= LARGEST[len(lines)]
        for i, (left, sign, right, result) in enumerate(lines):
            assert value(left, sign, right) == result and 1 <= result <= LARGEST[len(lines)]
            assert {left, right} <= numbers | {line[3] for line in lines[:i]}
        story = STORIES[problem.meta["story"]]
        parts = {part.split()[0] for part in problem.id.split(": ")[1].split(", ")}
        has_idle = bool(parts & {part.name for part in story.idle})
        assert not (has_idle and len(lines) < 3)
        idle += has_idle
    assert lengths == set(range(1, MOST_OPERATIONS + 1))
    assert 0.28 < idle / len(problems) < 0.39, "half of those with three operations and more"


def test_the_verifier_tells_right_solutions_from_wrong_ones(problems):
    rng = np.random.default_rng(1)
    for problem in problems[:150]:
        assert verify_math(solution(problem), problem.answer).correct
        assert not verify_math(corrupt(problem, rng), problem.answer).correct


def test_corruptions_are_one_error_with_its_consequences(problems):
    rng = np.random.default_rng(2)
    kinds = dict.fromkeys(("slip", "sign", "number", "dropped"), 0)
    for problem in problems:
        right, answer = work(solution(problem))
        wrong, boxed = work(corrupt(problem, rng))
        assert boxed != answer and boxed == wrong[-1][3]
        assert all(0 <= n <= 9999 for left, _, other, n in wrong for n in (left, other, n))
        slips = sum(value(*line[:3]) != line[3] for line in wrong)
        if len(wrong) < len(right):
            assert len(wrong) == len(right) - 1 and not slips
            kinds["dropped"] += 1
        elif slips:
            assert slips == 1
            assert [line[1] for line in wrong] == [line[1] for line in right]
            kinds["slip"] += 1
        elif signs := sum(a[1] != b[1] for a, b in zip(wrong, right, strict=True)):
            assert signs == 1
            kinds["sign"] += 1
        else:
            kinds["number"] += 1
    shares = {kind: count / len(problems) for kind, count in kinds.items()}
    assert shares["slip"] > 0.5 and min(shares.values()) > 0.05, shares


def test_splits_hold_other_numbers_and_nothing_twice():
    test = GeneratedProblems(TASK, 0, "test", 1, 3).first(200)
    train = [
        problem
        for step in range(4)
        for problem in GeneratedProblems(TASK, 5, "train", 1, 3).batch(step, 100)
    ]
    train += [d.problem for d in GeneratedDemonstrations(TASK, 5, 0.5, 0.5, 1, 3).batch(0, 100)]
    assert {split_of(p.id) for p in test} == {"test"}
    assert {split_of(p.id) for p in train} == {"train"}
    # Names and things follow from the id, which holds story and numbers: no test problem has only
    # other names than a training problem.
    assert not {p.question for p in test} & {p.question for p in train}
    assert len({p.question for p in test}) == 200
    by_id = {p.id: p for p in train}
    assert len({p.question for p in by_id.values()}) == len(by_id)
    assert all(by_id[p.id] == p for p in train)


def test_what_a_seed_draws_never_changes():
    """A literal, as in test_generated.py: runs continue, and splits stay what they were."""

    def digest(drawn: list) -> str:
        return hashlib.sha256(repr(drawn).encode()).hexdigest()[:16]

    problems = GeneratedProblems(TASK, 3, "train", 1, 6).batch(7, 40)
    demonstrations = GeneratedDemonstrations(TASK, 3, 0.7, 0.3, 1, 6).batch(7, 40)
    assert (digest(problems), digest(demonstrations)) == ("46ec2b0209db04f5", "ae8e993286d0afff")


@pytest.mark.parametrize(
    "problem_id",
    ["(1+2)", "collection: have 3, count more", "collection: fly 3, count", "voyage: far 3, count"],
)
def test_what_is_no_problem_of_the_task_is_refused(problem_id):
    with pytest.raises(ValueError, match="is not a word problem"):
        solution(Problem(problem_id, ""))


def test_more_operations_than_a_story_has_are_refused():
    with pytest.raises(CipoError, match="config.data.max_operations: got 7, wanted at most 6"):
        GeneratedProblems(TASK, 0, "train", 2, 7).batch(0, 1)
