"""What a study says where it has few cases, or none."""

from pathlib import Path
from typing import Any

import pytest
from invented_study import TASK, make_record

from cipo_jax.commands.study.figures import draw_study
from cipo_jax.commands.study.measures import by_first_error, measures, repeats
from cipo_jax.commands.study.page import study_verdict, write_study_page
from cipo_jax.commands.study.report import ABOUT, format_study, study_sections


def results(*runs: dict[str, Any]) -> dict[str, Any]:
    return {"reference": "cipo", "runs": [*runs]}


def test_seeds_with_the_same_difference_leave_its_spread_open() -> None:
    """9 and 8 of 16 right, on both seeds, of which problems tell more than seeds."""
    runs = []
    for seed in (0, 1):
        runs.append(make_record("cipo", seed, [0, 4, 2, 2], [4] * 4))
        runs.append(make_record("grpo", seed, [1, 4, 3, 1], [4] * 4))
    said, table = study_verdict(results(*runs), TASK), format_study(results(*runs))
    assert "pass@1\ngrpo: no difference from cipo (+6.2 points, 95% interval -" in said
    (row,) = (line for line in table.splitlines() if line.startswith("| grpo | pass@1 | +"))
    assert row.endswith(" |  | 2/2 |")
    # With seeds that differ, it is Student's.
    runs[3]["problems"]["right"] = [3, 4, 3, 1]
    said, table = study_verdict(results(*runs), TASK), format_study(results(*runs))
    interval = "95% interval -66.9 to +91.9, 2 seeds"  # 1/16 and 3/16: the mean +- 12.706 / 16
    assert f"pass@1\ngrpo: no difference from cipo (+12.5 points, {interval})" in said
    assert " | -0.669 to +0.919 | 2/2 |" in table


def test_one_seed_and_one_problem_show_nothing() -> None:
    runs = [
        make_record("cipo", 0, [4], [4], own_right=[2], own_wrong=[0]),
        make_record("grpo", 0, [0], [4]),
    ]
    said, table = study_verdict(results(*runs), TASK), format_study(results(*runs))
    assert (
        "grpo: no difference from cipo (-100.0 points, 95% interval -100.0 to +37.9, 1 seed)"
        in said
    )
    assert "| cipo | 1 | 1.000 [0.025, 1.000] | 1.000 [0.025, 1.000] | 10.0 | 0.500 |" in table
    assert "| grpo | pass@1 | -1.000 | -1.000 to +0.379 | 1.0000 | one seed | 0/1 |" in table
    # Of lengths nothing is known. None of two right attempts is spoilt, of one problem.
    assert "| grpo | length | +0.000 |  | 1.0000 | one seed | 0/1 |" in table
    assert "| 0.000 [0.000, 0.975] |" in table


def test_what_has_too_few_verdicts_is_left_out_by_number_of_operations() -> None:
    of = {"operations": [1, 1, 2, 3]}
    some = make_record("cipo", 0, [1, 4, 3, 0], [4, 4, 3, 0], **of)
    none = make_record("grpo", 0, [0] * 4, [0] * 4, **of)
    table = format_study(results(some, none))
    assert "pass@1 / pass@4 by number of operations" in table
    assert "| cipo | 0.625 / 1.000 | 1.000 / – |  |" in table
    assert "| grpo |  |  |  |" in table


@pytest.mark.parametrize("lost", [("cipo",), ("grpo",), ("cipo", "grpo")])
def test_a_run_without_verdicts_has_a_report(tmp_path: Path, lost: tuple[str, ...]) -> None:
    runs = [
        make_record(method, 0, [0, 0], [0, 0], errors=[4, 4])
        if method in lost
        else make_record(method, 0, [1, 2], [4, 4])
        for method in ("cipo", "grpo")
    ]
    of = results(*runs)
    assert f"{8 * len(lost)} attempts without a verdict" in format_study(of)
    assert study_verdict(of, TASK).startswith(f"{TASK}: nothing to compare with cipo")
    write_study_page(of, study_sections(of), ABOUT, tmp_path)
    draw_study(of, tmp_path)


ALONE = {
    "own_wrong": [1, 1, 1],
    "own_w2r": [1, 1, 0],
    "own_wrong_late": [1, 1, 1],
    "own_w2r_late": [1, 1, 0],
    "own_answered": [1, 1, 1],
    "own_agreed": [0, 0, 1 / 3],
    **{f"round_1_{name}": [1, 1, 1] for name in ("chains", "right", "solved")},
    "round_1_tokens": [20, 20, 20],
}


def test_a_single_sample_has_no_other_beside_it() -> None:
    """Of three wrong attempts two are the only ones at their problems; beside the third one of
    three is right. It is not mended, the other two are."""
    record = make_record("cipo", 0, [0, 0, 1], [1, 1, 4], **ALONE)

    def values(of: dict[str, Any]) -> dict[str, float]:
        return {name: float(a.sum() / b.sum()) for name, (a, b) in of.items()}

    found = values(measures([record]))
    assert (found["w2r"], found["resampled w2r"]) == pytest.approx((2 / 3, 1 / 3))
    assert found["w2r gain"] == pytest.approx(0 - 1 / 3)
    assert values(by_first_error([record])["late"]) == pytest.approx(
        {"w2r": 2 / 3, "resampled w2r": 1 / 3}
    )
    assert by_first_error([record])["early"] == {}
    assert values(repeats([record]))["resampled repeats"] == pytest.approx(1 / 3)
    # With one sample a problem, nothing is said of another.
    record = make_record("cipo", 0, [0, 0, 0], [1, 1, 1], **ALONE)
    assert {name for name in measures([record]) if "w2r" in name} == {"w2r"}
    assert "resampled repeats" not in repeats([record])
    assert "| cipo |  |  | 0.667 / – |" in format_study(results(record))
