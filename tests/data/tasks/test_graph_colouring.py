"""The embedded colouring task: one right colouring, and wrong ones that show their conflicts."""

import itertools
import re

import numpy as np
import pytest

from cipo_jax.data.tasks.generated import GeneratedDemonstrations, GeneratedProblems, split_of
from cipo_jax.data.tasks.graph_colouring import (
    GIVEN,
    MOST_OPERATIONS,
    TASK,
    corrupt,
    make_problem,
    practise,
    solution,
)
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.types import CipoError, Problem


def parts(problem: Problem) -> tuple[list[str], dict[str, str]]:
    """Edges and given colours."""
    edges, given = problem.id.split(": ")
    return edges.split(" "), dict(part.split("=") for part in given.split(" "))


def colourings(problem: Problem) -> list[str]:
    """All of them, by trying every one."""
    edges, given = parts(problem)
    nodes = sorted(set("".join(edges)))
    found = []
    for colours in itertools.product("123", repeat=len(nodes)):
        of = dict(zip(nodes, colours, strict=True))
        if given.items() <= of.items() and all(of[a] != of[b] for a, b in edges):
            found.append("".join(colours))
    return found


def neighbours(edges: list[str], node: str) -> list[str]:
    return sorted(a if b == node else b for a, b in edges if node in (a, b))


def check(problem: Problem, text: str) -> tuple[str, list[str]]:
    """The boxed colours, and the nodes whose line has a mark. Every line must be true: it shows the
    neighbours that have a colour by then, and a mark where one has the node's."""
    edges, known = parts(problem)
    nodes = sorted(set("".join(edges)))
    *lines, box = text.split("\n")
    free, marked = [node for node in nodes if node not in known], []
    for node, line in zip(free, lines, strict=True):
        match = re.fullmatch(r"([a-i]) ((?:[a-i][123])*)=([123])(!?)", line)
        assert match and match[1] == node
        shown = dict(zip(match[2][::2], match[2][1::2], strict=True))
        beside = neighbours(edges, node)
        assert shown == {n: known[n] for n in beside if n in known}
        assert list(shown) == sorted(shown)
        assert (match[4] == "!") == (match[3] in shown.values())
        marked += [node] * (match[4] == "!")
        known[node] = match[3]
    boxed = "".join(known[node] for node in nodes)
    assert box == f"\\boxed{{{boxed}}}"
    return boxed, marked


def test_example_of_the_docstring():
    problem = Problem("ac ae bc be cd: a=3 d=2 e=2", "", answer="33122")
    assert colourings(problem) == ["33122"]
    assert solution(problem) == "b e2=3\nc a3b3d2=1\n\\boxed{33122}"
    rng = np.random.default_rng(0)
    assert "b e2=1\nc a3b1d2=1!\n\\boxed{31122}" in {corrupt(problem, rng) for _ in range(50)}


def drawn_slowly(rng: np.random.Generator, free: int) -> Problem:
    """What `make_problem` draws, with every condition checked by trying all colourings."""
    assert rng.integers(free, free + 1) == free
    nodes = "abcdefghi"[: GIVEN + free]
    pairs = list(itertools.combinations(nodes, 2))
    while True:
        colours = dict(zip(nodes, rng.integers(3, size=len(nodes)) + 1, strict=True))
        kept = rng.random(len(pairs)) < 0.7
        known = {nodes[i] for i in rng.permutation(len(nodes))[:GIVEN]}
        edges = [
            a + b
            for (a, b), yes in zip(pairs, kept, strict=True)
            if yes and colours[a] != colours[b]
        ]
        given = " ".join(f"{node}={colours[node]}" for node in nodes if node in known)
        problem = Problem(f"{' '.join(edges)}: {given}", "")
        if set("".join(edges)) != set(nodes) or len(edges) > 2 * len(nodes):
            continue
        if len(colourings(problem)) != 1:
            continue
        # The colours that a free node may not have when its turn comes: with one, two are left.
        taken = [
            {colours[n] for n in neighbours(edges, node) if n in known or n < node}
            for node in nodes
            if node not in known
        ]
        if free == 1 or any(len(of) < 2 for of in taken):
            return problem


def test_the_first_draw_that_fits_is_the_problem():
    fast, slow = np.random.default_rng(3), np.random.default_rng(3)
    for free in (1, 2, 3) * 4:
        assert make_problem(fast, free, free).id == drawn_slowly(slow, free).id


def test_problems_have_one_colouring_and_their_solutions_are_true():
    rng = np.random.default_rng(0)
    for free in (1, 2, 3, 4) * 12:
        problem = make_problem(rng, free, free)
        edges, given = parts(problem)
        assert len(given) == GIVEN and problem.meta == {"operations": free}
        assert problem.question == f"Colour {problem.id}." and edges == sorted(edges)
        assert colourings(problem) == [problem.answer]
        assert check(problem, solution(problem)) == (problem.answer, [])
        # A node with two colours left when its turn comes.
        seen = [
            set(re.findall("[123]", line.split("=")[0]))
            for line in solution(problem).split("\n")[:-1]
        ]
        assert free == 1 or min(map(len, seen)) < 2


def test_corruptions_are_wrong_and_show_where():
    rng = np.random.default_rng(1)
    late = 0
    for free in (1, 2, 3, 4) * 25:
        problem = make_problem(rng, free, free)
        boxed, marked = check(problem, corrupt(problem, rng))
        assert boxed != problem.answer and marked
        right = problem.answer or ""
        nodes = sorted(set("".join(parts(problem)[0])))
        wrong = [node for node, a, b in zip(nodes, boxed, right, strict=True) if a != b]
        late += wrong[0] < marked[0]
    assert late > 30  # the conflict shows after the wrong choice


def test_practice_is_single_nodes_and_choices_from_left_to_right():
    rng = np.random.default_rng(2)
    single = wrong = 0
    for problem in GeneratedProblems(TASK, 0, "train", 2, 4).batch(0, 100):
        d = practise(problem, rng)
        boxed, marked = check(d.problem, d.solution)
        assert (boxed == problem.answer) == (not marked)
        if d.problem != problem:
            single += 1
            assert colourings(d.problem) == [problem.answer] and d.problem.meta["operations"] == 1
            assert boxed == problem.answer
        wrong += bool(marked)
    assert 30 < single < 70 and wrong > 10


def test_no_practice_is_a_problem_of_another_split():
    source = GeneratedDemonstrations(TASK, 0, 0.0, 0.0, 2, 3, practice_share=1.0)
    drawn = [d.problem for step in range(3) for d in source.batch(step, 40)]
    assert {split_of(problem.id) for problem in drawn} == {"train"}
    assert {problem.meta["operations"] for problem in drawn} == {1, 2, 3}


def test_what_is_no_problem_of_the_task_is_refused():
    # Not of its form; without a colouring; with two.
    for name in ("ab: a=4", "ab ac bc ad bd cd: a=1", "ab: a=1", "ab: a=1 b=1", "ab: a=1 c=2"):
        with pytest.raises(ValueError, match="is not a colouring problem"):
            solution(Problem(name, ""))
    with pytest.raises(
        CipoError, match=f"config.data.max_operations: got 7, wanted at most {MOST_OPERATIONS} with"
    ):
        make_problem(np.random.default_rng(0), 1, MOST_OPERATIONS + 1)


def test_texts_are_short():
    tokenizer = load_tokenizer(TASK.tokenizer)
    for d in GeneratedDemonstrations(TASK, 0, 0.5, 0.3, 2, 3, practice_share=0.3).batch(0, 60):
        assert len(tokenizer.encode(d.problem.question)) <= 64
        assert len(tokenizer.encode(d.solution)) <= 56
        for text in (d.problem.question, d.solution, d.previous_attempt or ""):
            assert tokenizer.decode(tokenizer.encode(text)) == text
