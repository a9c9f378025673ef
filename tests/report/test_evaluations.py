"""The table before and after: each number with its interval and its cases."""

import dataclasses
import math
from pathlib import Path

import pytest
from invented_run import make_attempt

from cipo_jax.report.blocks import Note, Table
from cipo_jax.report.evaluations import before_after
from cipo_jax.run.comparison import count_ends
from cipo_jax.run.evaluate import against_another_attempt, against_other_attempts
from cipo_jax.run.records.archive import AttemptArchive
from cipo_jax.types import Attempt, Outcome, Problem, Verdict


def evaluation(rights: list[int], fixed: int) -> list[Attempt]:
    """Of problem i's four samples the first `rights[i]` are right; of the first samples, which are
    corrected, right ones stay right, and the first `fixed` of the wrong ones become right."""
    own = [
        make_attempt(Problem(f"p{i}", "?"), "", j < right)
        for i, right in enumerate(rights)
        for j in range(4)
    ]
    wrong = [a for a in own[::4] if not a.correct]
    return own + [make_attempt(a.problem, "", a not in wrong[fixed:], a) for a in own[::4]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    workdir = tmp_path_factory.mktemp("run")
    archive = AttemptArchive(workdir)
    archive.write("eval", 0, evaluation([0, 0, 0, 2, 4], fixed=0))
    after = evaluation([0, 2, 4, 4, 4], fixed=1)
    after[1] = dataclasses.replace(after[1], verdict=Verdict(Outcome.NO_ANSWER))
    # Of the three attempts that were wrong at first, two are mended now.
    of_first = [make_attempt(Problem(f"p{i}", "?"), "", False) for i in range(3)]
    of_first = [make_attempt(a.problem, "", i < 2, a) for i, a in enumerate(of_first)]
    archive.write("eval", 8, after, of_first)
    values = (
        {"step": 0, "eval/pass@1": 6 / 20, "eval/pass@4": 2 / 5, "eval/length/mean": 12.0}
        | {"eval/correction/w2r": 0.0, "eval/correction/r2r": 1.0, "eval/no_answer": 0.0}
        | {"eval/correction/w2r_gain": 0.0, "eval/correction/w2r_gain_stderr": 0.0}
        | {"eval/first_wrong/w2r": 0.0, "eval/first_wrong/w2r_gain": 0.0}
        | {"eval/lines_true": 0.25, "eval/lines_true_stderr": 0.04},
        {"step": 8, "eval/pass@1": 14 / 20, "eval/pass@4": 4 / 5, "eval/length/mean": 12.0}
        | {"eval/correction/w2r": 1.0, "eval/correction/r2r": 1.0, "eval/no_answer": 1 / 20}
        | {"eval/correction/w2r_gain": 1.0, "eval/correction/w2r_gain_stderr": 0.0}
        | {"eval/first_wrong/w2r": 2 / 3, "eval/first_wrong/w2r_gain": 1 / 6}
        | {"eval/lines_true": 0.5, "eval/lines_true_stderr": 0.03},
    )
    table, note = before_after(count_ends(workdir, values), values, ["eval/pass@1", "eval/pass@4"])
    assert isinstance(table, Table) and isinstance(note, Note)
    assert note.text == (
        "In brackets: 95% intervals over problems; those of differences are paired, but from "
        "standard errors, as if the evaluations were independent, for: lines of attempts that are "
        "true."
    )
    assert table.columns == ["Held-out problems", "step 0", "step 8", "difference"]
    return {str(name): cells for name, *cells in table.rows}


def test_every_number_says_of_how_many_it_is(rows: dict[str, tuple]) -> None:
    cases = {name: [cell[-1] for cell in cells] for name, cells in rows.items()}
    assert cases == {
        "first attempt right (pass@1)": [
            "6 of 20 attempts at 5 problems",
            "14 of 20 attempts at 5 problems",
            "5 problems",
        ],
        "one of 4 attempts right (pass@4)": ["5 problems"] * 3,
        "wrong → right: mended by a correction": [
            "0 of 3 wrong attempts",
            "1 of 1 wrong attempts",
            "3 problems",
        ],
        "right → right: kept by a correction": [
            "2 of 2 right attempts",
            "4 of 4 right attempts",
            "4 problems",
        ],
        "mended by a correction, minus by trying again": [
            "3 wrong attempts",
            "1 wrong attempts",
            "3 problems",
        ],
        "wrong at first: mended by a correction": [
            "0 of 3 wrong attempts",
            "2 of 3 wrong attempts",
            "3 problems",
        ],
        "the same, minus by trying again": ["3 wrong attempts"] * 2 + ["3 problems"],
        "lines of attempts that are true": ["20 attempts"] * 2 + ["[+15.2, +34.8]"],
        "no answer found": ["0 of 20 attempts", "1 of 20 attempts", "5 problems"],
        "length, tokens": ["20 attempts", "20 attempts", "equal in 5 problems"],
    }


def test_every_number_has_its_interval(rows: dict[str, tuple]) -> None:
    first, last, gain = rows["first attempt right (pass@1)"]
    assert (first[0], last[0], gain[0]) == ("30.0%", "70.0%", "+40.0 pts")
    low, high = (float(x) for x in gain[1].strip("[]").replace("−", "-").split(", "))
    assert low < 40 < high
    # None of three, at three problems: not an interval of no width.
    none, all_of_one, mended = rows["wrong → right: mended by a correction"]
    bound = 100 * (1 - 0.025 ** (1 / 3))
    assert none[:2] == ("0.0%", f"[0.0, {bound:.1f}]")
    assert all_of_one[:2] == ("100.0%", "[2.5, 100.0]")
    low = 100 - math.hypot(97.5, bound)
    assert mended[:2] == ("+100.0 pts", f"[{low:+.1f}, +100.0]".replace("-", "−"))


def test_a_difference_of_shares_is_in_points(rows: dict[str, tuple]) -> None:
    first, last, gain = rows["mended by a correction, minus by trying again"]
    # As of shares, where all cases agree; of the difference of two gains no interval is known then.
    bound = 100 * (1 - 0.025 ** (1 / 3))
    assert first[:2] == ("+0.0 pts", f"[−{bound:.1f}, +{bound:.1f}]")
    assert last[:2] == ("+100.0 pts", "[−37.9, +100.0]")
    assert gain == ("+100.0 pts", "3 problems")
    # Paired: mended 1, 1 and 0 of three, tried again 0, 1/2 and 1, and nothing of it at first.
    first, last, gain = rows["the same, minus by trying again"]
    assert last[:2] == ("+16.7 pts", "[−100.0, +100.0]")
    assert gain[:2] == ("+16.7 pts", "[−100.0, +100.0]")


def test_the_gains_are_those_of_the_evaluation(tmp_path: Path) -> None:
    """Values, intervals and cases, counted again from the archive."""
    groups = [
        [make_attempt(Problem(f"p{i}", "?"), "", j < right) for j in range(samples)]
        for i, (right, samples) in enumerate([(0, 4), (1, 4), (3, 4), (2, 2), (0, 1)])
    ]
    own = [a for group in groups for a in group]
    wrong = [a for a in own if not a.correct]
    chains = [(a, make_attempt(a.problem, "", i % 2 == 0, a)) for i, a in enumerate(wrong)]
    first = [make_attempt(group[0].problem, "", False) for group in groups]
    again = [(a, make_attempt(a.problem, "", i < 2, a)) for i, a in enumerate(first)]
    rates = {a[0].problem.id: (sum(b.correct for b in a), len(a)) for a in groups}
    corrections, of_first = ([after for _, after in pairs] for pairs in (chains, again))
    AttemptArchive(tmp_path).write("eval", 4, [*own, *corrections], of_first)
    found = {
        "eval/correction/w2r_gain": against_another_attempt(chains, groups),
        "eval/first_wrong/w2r_gain": against_other_attempts(again, rates),
    }
    gains = {metric: of["correction/w2r_gain"] for metric, of in found.items()}
    line = {"step": 4} | {metric: gain.value for metric, gain in gains.items()}
    _, table, _ = before_after(count_ends(tmp_path, [line]), [line], [])
    # The last problem has a wrong attempt, and no other one beside it.
    for (_, cell), gain, cases in zip(table.rows, gains.values(), (8, 5), strict=True):
        number, *bounds = (f"{100 * x:+.1f}" for x in (gain.value, gain.low, gain.high))
        wanted = f"{number} pts", f"[{', '.join(bounds)}]", f"{cases} wrong attempts"
        assert [line.replace("−", "-") for line in cell] == list(wanted)


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        # Of a single problem, and of problems that agree, the spread is not known.
        ([30], [40], (("30.0", "1 attempts"), ("40.0", "1 attempts"), ("+10.0", "1 problem"))),
        (
            [48] * 8,
            [12] * 8,
            (("48.0", "8 attempts"), ("12.0", "8 attempts"), ("−36.0", "8 problems")),
        ),
        (
            [10, 20],
            [12, 26],
            (
                ("15.0", "[8.1, 21.9]", "2 attempts"),
                ("19.0", "[9.3, 28.7]", "2 attempts"),
                ("+4.0", "[+2.0, +6.0]", "2 problems"),
            ),
        ),
    ],
)
def test_lengths_have_no_intervals_of_shares(
    tmp_path: Path, before: list[int], after: list[int], wanted: tuple
) -> None:
    lines = []
    for step, lengths in ((0, before), (4, after)):
        attempts = [
            make_attempt(Problem(f"p{i}", "?"), "", True, tokens=tokens)
            for i, tokens in enumerate(lengths)
        ]
        AttemptArchive(tmp_path).write("eval", step, attempts)
        lines.append({"step": step, "eval/length/mean": sum(lengths) / len(lengths)})
    table, *_ = before_after(count_ends(tmp_path, lines), lines, [])
    assert table.rows == [("length, tokens", *wanted)]


def test_standard_errors_of_0_give_no_interval(tmp_path: Path) -> None:
    lines = [{"step": i, "eval/pass@1": i / 4, "eval/pass@1_stderr": 0.0} for i in (0, 4)]
    table, *_ = before_after(count_ends(tmp_path, lines), lines, ["eval/pass@1"])
    assert table.rows == [("first attempt right (pass@1)", ("0.0%",), ("100.0%",), ("+100.0 pts",))]


def test_without_an_archive_the_table_says_what_it_does_not_know(tmp_path: Path) -> None:
    known = {"step": 3, "eval/pass@1": 0.5, "eval/pass@1_stderr": 0.1, "eval/no_answer": 0.0}
    ends = count_ends(tmp_path, [known])
    one, table, _, missing = before_after(ends, [known], ["eval/pass@1"])
    assert "nothing to compare yet" in one.text and "step 3 are not archived" in missing.text
    assert [*table.columns] == ["Held-out problems", "step 3"]
    assert table.rows == [
        ("first attempt right (pass@1)", ("50.0%", "[30.4, 69.6]")),
        ("no answer found", ("0.0%",)),
    ]
