"""Every embedded task can be written by the tokenizer that it names."""

import pytest

from cipo_jax.data.tasks.embedded import GENERATED
from cipo_jax.data.tasks.generated import GeneratedDemonstrations
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.types import Problem


@pytest.mark.parametrize("name", GENERATED)
def test_its_tokenizer_writes_its_texts(name):
    task = GENERATED[name]
    tokenizer = load_tokenizer(task.tokenizer)
    for d in GeneratedDemonstrations(task, 0, 1.0, 0.0).batch(0, 50):
        for text in (d.problem.question, d.solution, d.previous_attempt or ""):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tasks_with_one_tokenizer_need_the_same_pieces():
    pieces = {(t.tokenizer, t.characters, t.phrases) for t in GENERATED.values()}
    assert len(pieces) == len({t.tokenizer for t in GENERATED.values()})


def test_random_streams_are_apart():
    assert len({task.first_stream // 10 for task in GENERATED.values()}) == len(GENERATED)


@pytest.mark.parametrize("name", [name for name, task in GENERATED.items() if task.true_lines])
def test_lines_of_solutions_are_true_and_those_of_wrong_ones_not_always(name):
    task = GENERATED[name]
    seen = set()
    for d in GeneratedDemonstrations(task, 0, 1.0, 0.0, practice_share=0.0).batch(0, 50):
        lines = d.solution.count("\n")
        found = task.true_lines(d.problem, d.solution)
        assert all(found) and lines - 1 <= len(found) <= lines
        seen |= {*task.true_lines(d.problem, d.previous_attempt)}
        for text in ("", "\n\n", "\\boxed{1}", "x=", "=", "x=9\n\x00=\n:", "sort\nb a=1\nb a=1!"):
            assert not any(task.true_lines(d.problem, text))
    assert seen == ({True} if name == "colouring" else {True, False})


@pytest.mark.parametrize(
    ("name", "problem", "text", "found"),
    [
        ("arithmetic", "((7+2)*3)", "7+2=9\n9*3=28\n9*=27\n\\boxed{28}", [True, False, False]),
        ("arithmetic", "((7+2)*3)", "7+2=9 9*3=27", [False]),  # two on a line
        ("word_problems", "", "Well.\nBoxes: 3 * 8 = 24\nAll: 24 + 5 = 30", [True, False]),
        ("lists", "47291: sort, flip", "sort 12479\nflip 98632\nturn 86329", [True, False, True]),
        ("lists", "47291: sort, flip", "sort 1247\nback 19274\njump 1", [False, True, False]),
        # x = 12 gives 32, 44, 88.
        ("guess", "*3-4+x*2=96", "x=12\n12*3=36\n36-4=32\n32+12=44\n44*2=88\n88<96", [True] * 5),
        # Bent towards the question's number; and its number is another.
        (
            "guess",
            "*3-4+x*2=96",
            "x=12\n12*3=36\n36-4=42\n42+12=54\n54*2=96\n96=96",
            [1, 0, 1, 0, 1],
        ),
        (
            "guess",
            "*3-4+x*2=96",
            "x=12\n12*3=36\n36-4=32\n32+13=45\n45*2=90\n90<97",
            [1, 1, 0, 1, 0],
        ),
        # Another operation, a comparison that is wrong, and a line too many.
        (
            "guess",
            "*3-4+x*2=96",
            "x=12\n12*2=24\n24-4=20\n20+12=32\n32*2=64\n64>96\n1=1",
            [0, 1, 1, 1, 0, 0],
        ),
        ("guess", "*3-4+x*2=96", "12*3=36\n36-4=32", [False, False]),
        ("colouring", "ac ae bc be cd: a=3 d=2 e=2", "b e2=1\nc a3b1d2=1!", [True, True]),
        # A neighbour's colour, a neighbour left out, a mark left out, a mark too many.
        ("colouring", "ac ae bc be cd: a=3 d=2 e=2", "b e1=3\nc a3d2=1", [False, False]),
        ("colouring", "ac ae bc be cd: a=3 d=2 e=2", "b e2=1\nc a3b1d2=1", [True, False]),
        ("colouring", "ac ae bc be cd: a=3 d=2 e=2", "b e2=1!\nc a3b1d2=1!", [False, True]),
        # A given node, one twice, one that is not there.
        ("colouring", "ac ae bc be cd: a=3 d=2 e=2", "a e2=3\nb e2=3\nb e2=3\ni =1", [0, 1, 0, 0]),
    ],
)
def test_lines_are_true_given_the_question_and_the_lines_above(name, problem, text, found):
    assert GENERATED[name].true_lines(Problem(problem, ""), text) == list(map(bool, found))
