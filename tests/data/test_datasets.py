import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipo_jax.data.datasets import (
    Columns,
    ListedDemonstrations,
    ListedProblems,
    fingerprint,
    fingerprint_generated,
    load_demonstrations,
    load_problems,
    open_demonstrations,
)
from cipo_jax.data.references import worked_answer
from cipo_jax.data.tasks import arithmetic
from cipo_jax.data.tasks.generated import GeneratedDemonstrations
from cipo_jax.types import CipoError, Demonstration, Problem

reproducible = settings(derandomize=True, deadline=None)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


GOOD = {"question": "1+1?", "answer": "2"}


def test_problems_keep_text_order_and_the_rest_as_meta(tmp_path):
    path = write(
        tmp_path / "set.jsonl",
        {"id": "a/1", "problem": "Wie groß? \u2028 x", "answer": "5", "level": 3, "source": "s"},
        {"question": "Write f.", "tests": {"type": "stdin", "cases": []}},
    )
    (where, first), (_, second) = load_problems(str(path))
    assert where == f"{path}:1"
    assert first == Problem(
        "a/1", "Wie groß? \u2028 x", answer="5", meta={"level": 3, "source": "s"}
    )
    assert second == Problem("set:2", "Write f.", tests={"type": "stdin", "cases": []})
    assert pickle.loads(pickle.dumps(second)) == second


def test_blank_lines_and_a_missing_last_line_feed_are_fine(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text(f"\n{json.dumps(GOOD)}\r\n\n{json.dumps(GOOD)}")
    assert [at.problem.id for at in load_problems(str(path))] == ["set:2", "set:4"]


def test_demonstrations(tmp_path):
    path = write(
        tmp_path / "demos.jsonl",
        {"id": "x", "question": "1+1?", "solution": "\\boxed{2}", "answer": "2", "by": "me"},
        {"id": "x", "problem": "1+1?", "solution": "2", "previous_attempt": "3"},
        {"question": "2?", "solution": "2", "previous_attempt": None},
    )
    problem = Problem("x", "1+1?", answer="2", meta={"by": "me"})
    assert load_demonstrations(str(path)) == [
        Demonstration(problem, "\\boxed{2}"),
        Demonstration(Problem("x", "1+1?"), "2", previous_attempt="3"),
        Demonstration(Problem("demos:3", "2?"), "2"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{question: 1}", "set.jsonl:2: not JSON"),
        (b'{"question": "1+1?", "answ', "set.jsonl:2: not JSON.*may have been cut"),
        (b"[" * 100_000, "set.jsonl:2: not JSON"),
        (b'{"question": "\xff"}', "set.jsonl:2: not UTF-8 .byte 14"),
        (b'["question"]', "set.jsonl:2: got .*list.*wanted a json object"),
        (b'{"answer": "2", "level": 1}', "set.jsonl:2: question: missing.*level"),
        (b'{"question": "1+1?"}', "set.jsonl:2: answer: missing"),
        (b'{"question": "1+1?", "answer": null}', "set.jsonl:2: answer: is null.*no other column"),
        (b'{"question": "1+1?", "answer": true}', "set.jsonl:2: answer: got True .bool."),
        (b'{"question": ["1"], "answer": "2"}', "set.jsonl:2: question: got .*list.*wanted text"),
        (
            b'{"question": " \\n", "answer": "2"}',
            "set.jsonl:2: question: got an empty text, wanted",
        ),
        (b'{"question": "q", "answer": ""}', "set.jsonl:2: answer: got an empty text"),
        (
            b'{"question": "q", "problem": "p", "answer": "2"}',
            "set.jsonl:2: question: got the columns question and problem.*data.question_column",
        ),
        (b'{"question": "q", "tests": "assert"}', "set.jsonl:2: tests: got 'assert' .str."),
        (b'{"question": "q", "tests": {}}', "set.jsonl:2: tests: .*non-empty"),
        (b'{"question": "q", "answer": "2", "id": 7.5}', "set.jsonl:2: id: got 7.5"),
        (b'{"question": "q", "answer": "2", "id": "one"}', "set.jsonl:2: id: 'one'.*set.jsonl:1"),
        (b'{"question": "\\ud800", "answer": "2"}', "set.jsonl:2: question: .*surrogate"),
    ],
)
def test_bad_problem_lines_are_named(tmp_path, line, message):
    path = tmp_path / "set.jsonl"
    path.write_bytes(b'{"id": "one", "question": "1+1?", "answer": "2"}\n' + line)
    with pytest.raises(CipoError, match=message):
        load_problems(str(path))


@pytest.mark.parametrize("rest", ["", json.dumps(GOOD), json.dumps(GOOD) + "\n"])
def test_only_a_last_line_without_line_feed_can_be_cut(tmp_path, rest):
    path = tmp_path / "set.jsonl"
    path.write_text('{"question"\n' + rest)
    with pytest.raises(CipoError, match="set.jsonl:1: not JSON") as caught:
        load_problems(str(path))
    assert "cut" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q"}, "demos.jsonl:1: solution: missing"),
        ({"question": "q", "solution": ""}, "demos.jsonl:1: solution: got an empty"),
        ({"question": "q", "solution": "s", "previous_attempt": 3}, "previous_attempt: got 3"),
        ({"solution": "s"}, "demos.jsonl:1: question: missing"),
        ({"solution": "s", "text": "q"}, "question: missing; .*; other columns: solution, text$"),
        ({"question": "q", "prompt": "p", "solution": "s"}, "question and prompt, wanted one of"),
        ({"question": "q", "answer": 1, "final_answer": 1, "solution": "s"}, "wanted one of them$"),
    ],
)
def test_bad_demonstration_lines_are_named(tmp_path, row, message):
    with pytest.raises(CipoError, match=message) as caught:
        load_demonstrations(str(write(tmp_path / "demos.jsonl", row)))
    assert "_column" not in str(caught.value), "those keys are for problems alone"


@pytest.mark.parametrize("load", [load_problems, load_demonstrations])
def test_missing_empty_and_unreadable_files(tmp_path, load):
    with pytest.raises(CipoError, match="missing.jsonl: there is no such file"):
        load(str(tmp_path / "missing.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n  \n")
    with pytest.raises(CipoError, match="empty.jsonl: the file is empty"):
        load(str(tmp_path / "empty.jsonl"))
    with pytest.raises(CipoError, match="cannot be read"):
        load(str(tmp_path))


def problems(count):
    return [Problem(str(i), f"{i}?", answer=str(i)) for i in range(count)]


@reproducible
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**31))
def test_every_problem_occurs_once_per_epoch_across_batch_borders(count, size, seed):
    source = ListedProblems(problems(count), seed)
    steps = -(-3 * count // size)
    ids = [p.id for step in range(steps) for p in source.batch(step, size)]
    for epoch in range(3):
        assert sorted(ids[epoch * count : (epoch + 1) * count], key=int) == [
            str(i) for i in range(count)
        ]


def test_order_is_a_pure_function_of_seed_and_step():
    source = ListedProblems(problems(50), seed=3)
    last_first = [source.batch(step, 8) for step in reversed(range(20))][::-1]
    again = ListedProblems(problems(50), seed=3)
    assert last_first == [again.batch(step, 8) for step in range(20)]
    assert last_first != [ListedProblems(problems(50), seed=4).batch(s, 8) for s in range(20)]
    epochs = [[p.id for p in source.batch(epoch, 50)] for epoch in range(2)]
    assert epochs[0] != epochs[1]


def test_first_keeps_file_order():
    source = ListedProblems(problems(5), seed=0)
    assert source.first(3) == problems(5)[:3]
    assert source.first(0) == problems(5)
    with pytest.raises(CipoError, match="got 6 problems, wanted at most the 5"):
        source.first(6)


def test_a_source_of_nothing_is_refused():
    with pytest.raises(CipoError, match="at least one"):
        ListedProblems([], seed=0)


def test_open_chooses_between_the_generator_and_a_file(tmp_path):
    path = write(tmp_path / "set.jsonl", GOOD | {"solution": "2"})
    shares = {"correction_share": 0.5, "right_share": 0.25}
    demonstrations = open_demonstrations("arithmetic", 1, **shares, max_operations=3)
    assert demonstrations == GeneratedDemonstrations(arithmetic.TASK, 1, 0.5, 0.25, 2, 3)
    from_file = open_demonstrations(str(path), 1, **shares)
    assert isinstance(from_file, ListedDemonstrations)
    assert from_file.batch(0, 2)[1].solution == "2"


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"answer": "1/2"}, "1/2"),
        ({"answer": 204}, "204"),
        ({"answer": 2.0}, "2"),
        ({"answer": 0.1}, "0.1"),
        ({"answer": "so 2 * 3 = <<2*3=6>>6\n#### 1,006"}, "1,006"),
        ({"final_answer": ["2", "3"]}, "2, 3"),
        ({"solution": "thus \\boxed{1}, no: $\\boxed{\\frac{1}{2}}$."}, "\\frac{1}{2}"),
        ({"answer": "7", "solution": "\\boxed{8}"}, "7"),
        ({"solution": r"so \boxed{\left\{1, 2\right.} it is"}, r"\left\{1, 2\right."),
    ],
)
def test_answers_are_found_under_their_usual_names_and_forms(tmp_path, row, answer):
    path = write(tmp_path / "set.jsonl", {"question": "q"} | row)
    [(_, problem)] = load_problems(str(path))
    assert problem.answer == answer
    assert problem.meta.get("solution") == row.get("solution")


def test_an_unclosed_box_is_no_answer(tmp_path):
    assert worked_answer("\\boxed{1") == "\\boxed{1"
    path = write(tmp_path / "set.jsonl", {"question": "q", "solution": "\\boxed{1"})
    with pytest.raises(CipoError, match="answer: missing.*solution; data.answer_column"):
        load_problems(str(path))


def test_columns_can_be_named(tmp_path):
    row = {"text": "q", "question": "title", "gold": 3, "uid": 5, "check": {"type": "stdin"}}
    path = write(tmp_path / "set.jsonl", row)
    columns = Columns(question="text", answer="gold", tests="check", id="uid")
    [(_, problem)] = load_problems(str(path), columns)
    assert problem == Problem("5", "q", "3", {"type": "stdin"}, {"question": "title"})
    for columns in (
        Columns(answer="golden"),
        Columns(question="body", answer="gold"),
        Columns(question="text", answer="gold", id="name"),
    ):
        with pytest.raises(
            CipoError, match="_column: got '(golden|body|name)', which .*other columns: .*"
        ):
            load_problems(str(path), columns)


def test_the_entry_point_of_a_program_goes_to_its_tests(tmp_path):
    path = write(
        tmp_path / "s.jsonl", {"prompt": "q", "tests": {"type": "call"}, "entry_point": "f"}
    )
    assert load_problems(str(path))[0].problem.tests == {"type": "call", "entry_point": "f"}
    path = write(tmp_path / "s.jsonl", GOOD | {"entry_point": "f"})
    assert load_problems(str(path))[0].problem.meta == {"entry_point": "f"}, "there are no tests"
    unnamed = {"type": "call", "entry_point": None}
    path = write(tmp_path / "null.jsonl", {"prompt": "q", "tests": unnamed, "entry_point": "f"})
    assert load_problems(str(path))[0].problem.tests == {"type": "call", "entry_point": "f"}


def test_a_fingerprint_changes_with_content_and_order_and_nothing_else():
    some = problems(3)
    assert fingerprint(some) == fingerprint(problems(3))
    assert fingerprint([Problem("0", "0?", "0", meta={"level": 3}), *some[1:]]) == fingerprint(some)
    changed = [
        some[::-1],
        some[:2],
        [Problem("x", "0?", answer="0"), *some[1:]],
        [Problem("0", "0!", answer="0"), *some[1:]],
        [Problem("0", "0?", answer="1"), *some[1:]],
        [Problem("0", "0?", answer="0", tests={"type": "call"}), *some[1:]],
    ]
    assert len({fingerprint(p) for p in (some, *changed)}) == 7
    generated = {fingerprint_generated("arithmetic", *a) for a in (("train", 2, 5), ("test", 2, 5))}
    assert len(generated) == 2
