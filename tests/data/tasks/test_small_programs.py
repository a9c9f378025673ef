"""The embedded code task: right solutions are right, wrong ones wrong."""

import numpy as np

from cipo_jax.data.tasks.generated import GeneratedDemonstrations
from cipo_jax.data.tasks.small_programs import TASK, corrupt, make_problem, solution
from cipo_jax.data.tokenizer import load_tokenizer


def passes(program: str, problem) -> bool:
    """Runs a program of this very file's generator, checked line by line to be one."""
    lines = program.split("\n")
    assert lines[0] == "def f(x):"
    assert lines[-1] == " return x"
    for line in lines[1:-1]:
        assert line.startswith(" x=")
        left, operator, right = line[3:]
        assert operator in "+-*%"
        assert {left, right} <= set("x123456789")
    namespace: dict = {}
    exec(program, namespace)
    return all(namespace["f"](*case["input"]) == case["output"] for case in problem.tests["cases"])


def test_an_example_in_full():
    problem = make_problem(np.random.default_rng(3), 2, 2)
    assert problem.question == f"Write f(x): {problem.id}."
    assert problem.answer is None
    assert problem.meta == {"operations": 2}
    assert problem.tests["type"] == "call"
    assert problem.tests["entry_point"] == "f"
    assert passes(solution(problem), problem)


def test_solutions_pass_and_corruptions_fail():
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(500):
        problem = make_problem(rng, 1, 5)
        assert passes(solution(problem), problem)
        wrong = corrupt(problem, rng)
        assert not passes(wrong, problem)
        kinds.add(len(wrong.split("\n")) - len(solution(problem).split("\n")))
    assert kinds == {0, -1}


def test_demonstrations():
    source = GeneratedDemonstrations(TASK, 0, correction_share=0.5, right_share=0.4)
    batch = source.batch(0, 300)
    assert batch == source.batch(0, 300)
    corrections = [d for d in batch if d.previous_attempt is not None]
    assert 0.4 < len(corrections) / len(batch) < 0.6
    right = [d for d in corrections if d.previous_attempt == d.solution]
    assert 0.3 < len(right) / len(corrections) < 0.5
    assert all(d.solution == solution(d.problem) for d in batch)


def test_the_embedded_tokenizer_writes_the_task_compactly():
    tokenizer = load_tokenizer("char_code")
    for d in GeneratedDemonstrations(TASK, 0, 1.0, 0.0, 1, 4).batch(0, 100):
        for text in (d.problem.question, d.solution, d.previous_attempt or ""):
            assert tokenizer.decode(tokenizer.encode(text)) == text
        operations = d.problem.meta["operations"]
        assert len(tokenizer.encode(d.problem.question)) == 1 + 3 * operations
        assert len(tokenizer.encode(d.solution)) == 2 + 4 * operations
    assert tokenizer.vocab_size < 80
