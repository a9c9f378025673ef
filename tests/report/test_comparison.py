"""How methods are shown beside each other."""

from pathlib import Path

from cipo_jax.report.comparison import (
    curve_figures,
    draw_curves,
    line_styles,
    runs_table,
    said_difference,
    save_figure,
    unsolved_table,
)
from cipo_jax.run.records.starts import add_start
from cipo_jax.run.statistics import Difference
from cipo_jax.run.unsolved import NextVisits


def test_thirty_methods_can_be_told_apart() -> None:
    styles = line_styles(map(str, range(30))).values()
    assert len({tuple(style.values()) for style in styles}) == 30


def test_curves_have_a_mean_for_each_method_and_a_pale_line_for_each_seed(tmp_path: Path) -> None:
    curve = {"step": [0, 2], "tokens": [0, 20], "pass@1": [0.0, 0.5]}
    methods = {"a": [curve, curve], "b": [curve]}
    styles = line_styles(methods)
    drawn = draw_curves(methods, {"pass@1": "pass at 1", "rho": "none"}, styles, each_seed=True)
    by_step, by_tokens, *empty = drawn.axes
    assert [len(axis.lines) for axis in drawn.axes] == [5, 5, 0, 0]
    assert (by_step.get_ylabel(), empty[1].get_xlabel()) == ("pass at 1", "sampled tokens")
    assert list(by_tokens.lines[0].get_xdata()) == [0, 20]
    assert len(draw_curves(methods, {"pass@1": ""}, styles).axes[0].lines) == 2
    assert save_figure(drawn, tmp_path / "a.b") == tmp_path / "a.b.png"
    assert (tmp_path / "a.b.svg").is_file()


def test_a_page_has_each_metric_against_steps_and_tokens() -> None:
    curve = {"step": [0, 2], "tokens": [0, 20], "pass@1": [0.0, 0.5], "entropy": [0.2, 0.1]}
    metrics = {"pass@1": "pass@1", "entropy": "entropy", "rho": "rho", "once": "once"}
    once = {"once": [None, 0.5]}  # a point is no curve
    found = curve_figures({"a": [curve | once]}, metrics, not_shares=("entropy",), prefix="t: ")
    assert [(f.plot.title, f.plot.x, f.plot.share) for f in found] == [
        ("t: pass@1, by steps", "step", True),
        ("t: pass@1, by sampled tokens", "tokens", True),
        ("t: entropy, by steps", "step", False),
        ("t: entropy, by sampled tokens", "tokens", False),
    ]


def test_runs_say_when_and_on_what_they_were_made(tmp_path: Path) -> None:
    start = {"time": "2026-01-31 18:05", "devices": "1 x cpu", "versions": {"cipo_jax": "1.2"}}
    add_start(tmp_path, start | {"command": "", "machine": "", "parameters": 1})
    table = runs_table({"new": [tmp_path], "old": [tmp_path / "none"]})
    assert [row[1:] for row in table.rows] == [
        ("new", "1 x cpu", "2026-01-31 18:05", "1.2"),
        ("old", "not recorded", "not recorded", "not recorded"),
    ]


def test_a_difference_is_said_with_its_interval() -> None:
    said = said_difference("b", Difference(0.1, 0.02, 0.18, 0.01), "5 seeds")
    assert said == "above b (+10.0 points, 95% interval +2.0 to +18.0, 5 seeds)"
    assert said_difference("b", Difference(0.1, -0.02, 0.2, 0.2), "").startswith("no difference")
    assert said_difference("b", Difference(-0.1, -0.2, -0.05, 0.2), "").startswith("below b")


def test_a_problem_of_two_kinds_is_one_problem_among_all() -> None:
    first = {
        "corrected": {"a": NextVisits(1, 1, 0.5)},
        "not corrected": {"a": NextVisits(2), "b": NextVisits(1)},
    }
    second = {"not corrected": {"a": NextVisits(1, 1, 0.25)}}
    rows = unsolved_table({"cipo": [first, second]}).rows
    assert [row[:4] for row in rows] == [
        ("cipo", "all", "3", "5"),
        ("cipo", "corrected", "1", "1"),
        ("cipo", "not corrected", "3", "4"),
    ]
    assert [str(cell)[:5] for cell in rows[0][4:]] == ["0.400", "0.150"]
    assert first["corrected"]["a"] == NextVisits(1, 1, 0.5)  # as they were
