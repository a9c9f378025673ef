"""What suites say is right, by our verifier; and reference answers that cannot be read."""

import dataclasses
import re
from pathlib import Path

import pytest
from places import TESTS
from sandboxes import open_or_skip

from cipo_jax.commands.gold import check_gold, print_gold, read_answers
from cipo_jax.config.keys import Verifier
from cipo_jax.data.benchmarks.rows import Item
from cipo_jax.data.benchmarks.suites import SUITES, LoadedSuite, load_suite
from cipo_jax.types import Outcome, Problem

FIXTURES = TESTS / "fixtures" / "suites"


@pytest.mark.slow
def test_every_fixture_verifies_as_it_says() -> None:
    open_or_skip()
    suites = [load_suite(name, str(FIXTURES)) for name in SUITES]
    results = check_gold(suites, Verifier(workers=2))
    assert {result.suite for result in results} == set(SUITES)
    assert [r.failures for r in results] == [[]] * len(results)
    assert all(result.total == 4 for result in results)


def test_a_failure_is_named_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_suite("math_given", str(FIXTURES))
    first = loaded.items[0]
    mislabelled = dataclasses.replace(first, given_correct=not first.given_correct)
    changed = dataclasses.replace(loaded, items=[mislabelled, *loaded.items[1:]])
    answers, given = check_gold([changed], Verifier(workers=1))
    assert (answers.kind, answers.failures, given.kind) == ("answer", [], "given")
    ((where, name, verdict, right),) = given.failures
    assert (where, name, right) == (first.where, first.problem.id, True)
    assert verdict.outcome is Outcome.WRONG
    print_gold([answers, given], ["somewhere:3: no tests"])
    printed = capsys.readouterr().out
    assert "3 of     4 as expected (75.00%)" in printed and f"at {first.where}" in printed
    assert "left out   somewhere:3: no tests" in printed


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("12", ""),
        (r"\frac{3}{8}", ""),
        (r"(2, \sqrt{5})", ""),
        ("incorrect", ""),
        (r"x^2 + 1", ""),
        ("np.arcsin(10/13)", "compared as text only"),
        (r"\frac{1", "does not verify"),
    ],
)
def test_answers_that_cannot_be_read_are_named(answer: str, complaint: str) -> None:
    items = [Item(Problem("p", "?", answer=answer), "file:7")]
    suite = LoadedSuite(SUITES["math500"], "file", items, [])
    lines = read_answers([suite], Verifier(workers=1))["math500"]
    assert [complaint in line and line.startswith("file:7: ") for line in lines] == [True] * bool(
        complaint
    )


def test_answers_that_cannot_be_read_are_those_of_their_suite() -> None:
    loaded = [
        LoadedSuite(SUITES[name], "file", [Item(Problem("p", "?", answer=answer), "file:7")], [])
        for name, answer in (("criticbench_math", r"\frac{1"), ("criticbench_math_critique", "12"))
    ]
    found = read_answers(loaded, Verifier(workers=1))
    assert {name: len(lines) for name, lines in found.items()} == {
        "criticbench_math": 1,
        "criticbench_math_critique": 0,
    }


def test_the_user_s_own_verifier_checks_what_it_will_judge(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def verify(problem, text):\n    return problem.answer[::-1] in text\n")
    items = [Item(Problem(a, "?", answer=a), f"file:{n}") for n, a in enumerate(("{1{", "ab"), 1)]
    suite = LoadedSuite(SUITES["math500"], "file", items, [])
    verifier = Verifier(kind=f"{own}:verify", workers=1)
    assert read_answers([suite], verifier) == {"math500": []}
    (result,) = check_gold([suite], verifier)
    assert [where for where, *_ in result.failures] == ["file:2"]


def test_a_suite_of_which_nothing_can_be_verified_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    items = [Item(Problem("p", "?", tests={"type": "stdin"}), "file:1")]
    results = check_gold([LoadedSuite(SUITES["mbpp"], "file", items, [])], Verifier(workers=1))
    print_gold(results, [])
    assert re.search("^mbpp +nothing to verify", capsys.readouterr().out)
