"""The embedded list task: right solutions are right, wrong ones wrong."""

import re

import numpy as np
import pytest

from cipo_jax.data.tasks.digit_lists import PHRASES, TASK, corrupt, make_problem, solution
from cipo_jax.data.tasks.generated import GeneratedDemonstrations
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.types import Problem


def apply(name: str, digits: list[int]) -> list[int]:
    """The operations as the docstring words them, on numbers."""
    first, *middle, last = digits
    match name:
        case "sort":
            return sorted(digits)
        case "back":
            return list(reversed(digits))
        case "flip":
            return [10 - d for d in digits]
        case "turn":
            return [*middle, last, first]
        case "next":
            return [1 if d == 9 else d + 1 for d in digits]
        case "swap":
            return [last, *middle, first]
    raise AssertionError(name)


def boxed(text: str) -> str:
    (found,) = re.findall(r"\n\\boxed\{([1-9]{5})\}$", text)
    return found


def test_example_of_the_docstring():
    problem = Problem("47291: sort, flip, turn", "Compute 47291: sort, flip, turn.", "86319")
    assert solution(problem) == "sort 12479\nflip 98631\nturn 86319\n\\boxed{86319}"


def test_problems_are_legal_and_their_solutions_exact():
    rng = np.random.default_rng(0)
    lengths, used = set(), set()
    for _ in range(500):
        problem = make_problem(rng, 2, 6)
        assert problem.question == f"Compute {problem.id}."
        start, names = problem.id.split(": ")
        names = names.split(", ")
        used |= set(names)
        lengths.add(len(names))
        assert problem.meta == {"operations": len(names)}
        assert all(a != b for a, b in zip(names, names[1:], strict=False))
        digits = [int(d) for d in start]
        *lines, _ = text = solution(problem).split("\n")
        for name, line in zip(names, lines, strict=True):
            digits = apply(name, digits)
            assert line == f"{name} {''.join(map(str, digits))}"
        assert boxed("\n".join(text)) == problem.answer == "".join(map(str, digits))
    assert lengths == {2, 3, 4, 5, 6} and len(used) == 6


def test_corruptions_are_wrong_and_of_every_kind():
    rng = np.random.default_rng(1)
    shorter = exchanged = 0
    for _ in range(500):
        problem = make_problem(rng, 1, 5)
        text, right = corrupt(problem, rng), solution(problem)
        assert boxed(text) != problem.answer
        lines, wanted = text.split("\n"), right.split("\n")
        shorter += len(lines) < len(wanted)
        if len(lines) == len(wanted):
            assert [line[:4] for line in lines[:-1]] == [line[:4] for line in wanted[:-1]]
            # After the first wrong line everything follows from it.
            first = next(i for i, (a, b) in enumerate(zip(lines, wanted, strict=True)) if a != b)
            exchanged += sorted(lines[first]) == sorted(wanted[first])
            for before, after in zip(lines[first:-1], lines[first + 1 : -1], strict=False):
                assert list(map(int, after[5:])) == apply(after[:4], list(map(int, before[5:])))
    assert 20 < shorter < 80 and exchanged > 50


def test_what_is_no_problem_of_the_task_is_refused():
    with pytest.raises(ValueError, match="is not a list problem"):
        solution(Problem("47291: sort, shuffle", ""))


def test_the_embedded_tokenizer_writes_the_task_compactly():
    tokenizer = load_tokenizer("char_lists")
    for d in GeneratedDemonstrations(TASK, 0, 1.0, 0.0, 3, 6).batch(0, 100):
        for text in (d.problem.question, d.solution, d.previous_attempt or ""):
            assert tokenizer.decode(tokenizer.encode(text)) == text
        operations = d.problem.meta["operations"]
        assert len(tokenizer.encode(d.problem.question)) == 7 + 2 * operations
        assert len(tokenizer.encode(d.solution)) == 8 * operations + 7
    assert tokenizer.vocab_size == load_tokenizer("char").vocab_size + len(PHRASES)
