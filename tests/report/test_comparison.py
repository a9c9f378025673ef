"""How methods are shown beside each other."""

from pathlib import Path

from cipo_jax.report.comparison import draw_curves, line_styles, save_figure


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
