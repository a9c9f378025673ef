"""What suites say is right, by our verifier; and reference answers that cannot be read."""

import dataclasses

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
    lines = read_answers([LoadedSuite(SUITES["math500"], "file", items, [])], Verifier(workers=1))
    assert [complaint in line and line.startswith("file:7: ") for line in lines] == [True] * bool(
        complaint
    )
