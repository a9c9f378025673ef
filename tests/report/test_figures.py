"""Figures: what is drawn of a curve, what stands at its axes, what a pointer shows."""

import json
import re

import numpy as np
import pytest

from cipo_jax.report.drawing import Breach, tick_labels
from cipo_jax.report.figures import (
    Figure,
    estimates_figure,
    figure,
    methods_figure,
    pass_at_k_figure,
)
from cipo_jax.report.plots import Plot


def drawn(plot: Plot, values: list[float], **others: list[float]) -> Figure:
    columns = {"m": values} | others
    records = [
        {"step": i} | {name: column[i] for name, column in columns.items()}
        for i in range(len(values))
    ]
    made = figure(plot, records)
    assert made is not None
    return made


def texts(made: Figure) -> list[str]:
    return re.findall(r">([^<>\n]+)</text>", made.svg)


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0.999, 1.0, 1.001], ["0.999", "1.000", "1.001"]),
        ([0, 2e-6, 4e-6], ["0", "2·10⁻⁶", "4·10⁻⁶"]),
        ([0, 2.5, 5], ["0", "2.5", "5.0"]),
        ([16_000, 18_000], ["16k", "18k"]),
        ([0, 500_000, 1_000_000], ["0", "0.5M", "1.0M"]),
        ([-0.02, 0, 0.02], ["−0.02", "0", "0.02"]),
        ([0.0], ["0"]),
    ],
)
def test_each_number_at_an_axis_can_be_read_alone(ticks: list[float], labels: list[str]) -> None:
    assert tick_labels(ticks) == labels


def test_noise_in_the_last_digits_does_not_fill_the_axis() -> None:
    made = drawn(Plot("Largest ratio", {"m": "m"}), [1 + 1e-6 * i for i in range(5)])
    ticks = [float(text) for text in texts(made) if re.fullmatch(r"[\d.]+", text)]
    assert 0.0 in ticks and 1.0 in ticks and "1e" not in made.svg
    assert all("+" not in text for text in texts(made))
    assert "0.500" in texts(drawn(Plot("t", {"m": "m"}), [0.5, 0.45, 0.4]))


def test_areas_of_few_steps_are_bars() -> None:
    plot = Plot("t", {"m": "m", "n": "n"}, stacked=True)

    def areas(count: int) -> int:
        made = drawn(plot, [1.0] * count, n=[2.0] * count)
        return len(re.findall(r'style="fill: var\(--s[12]\)', made.svg))

    assert (areas(2), areas(3)) == (2 * 2, 2 * 3)  # one for each step and series
    assert "PolyCollection" in drawn(plot, [1.0] * 40, n=[2.0] * 40).svg


def test_a_noisy_curve_is_its_average_in_a_band() -> None:
    made = drawn(Plot("t", {"m": "m"}), [0.0, 1.0] * 40)
    (curve,) = made.curves
    assert np.allclose(curve.average[5:-5], 0.5, atol=0.15)
    assert (curve.low.min(), curve.high.max()) == (0, 1)
    (shown,) = json.loads(made.hover)["curves"]
    assert shown["y"][:4] == [0, 1, 0, 1] and len(shown["average"]) == 80
    assert shown["low"] is None
    (short,) = drawn(Plot("t", {"m": "m"}), [0.0, 1.0] * 10).curves
    assert short.average is None and short.low is None


def test_a_standard_error_is_drawn_as_an_interval() -> None:
    made = drawn(Plot("t", {"m": "m"}, share=True), [0.5, 0.98], m_stderr=[0.1, 0.1])
    (shown,) = json.loads(made.hover)["curves"]
    assert shown["low"] == [0.304, 0.784] and shown["high"] == [0.696, 1.0]
    assert len(made.curves) == 1 and "LineCollection" in made.svg


def test_pass_at_k_is_drawn_before_and_after_with_intervals() -> None:
    names = ["eval/pass@1", "eval/pass@4", "eval/pass@16"]
    values = dict(zip(names, (0.2, 0.5, 0.9), strict=True))
    first = {"step": 0, **values, **{f"{name}_stderr": 0.1 for name in names}}
    last = {"step": 8, **values}
    made = pass_at_k_figure([first, last], names)
    assert [(c.label, [*c.x], c.low is None) for c in made.curves] == [
        ("step 0", [1, 4, 16], False),
        ("step 8", [1, 4, 16], True),
    ]
    assert made.curves[0].high.max() == 1.0
    assert {"1", "4", "16"} <= set(texts(made))
    assert pass_at_k_figure([first], names[:2]) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("x", ["k", "step"])
def test_a_single_point_has_its_number_at_the_axis(x: str) -> None:
    made = estimates_figure(Plot("t", {}, x=x), {"cipo": ([1], [(0.5, 0.4, 0.6)])})
    left, right = json.loads(made.hover)["box"][4:]
    assert left < 1 < right and "1" in texts(made)


def test_a_pointer_finds_what_is_drawn() -> None:
    found = json.loads(drawn(Plot("t", {"m": "words"}, share=True), [0.25, 0.5]).hover)
    left, right, top, bottom, low, high = found["box"]
    assert 0 < left < right < 1 and 0 < top < bottom < 1 and low <= 0 < 1 <= high
    assert (found["x"], found["share"]) == ("step", True)
    (curve,) = found["curves"]
    assert (curve["label"], curve["x"], curve["y"]) == ("words", [0, 1], [0.25, 0.5])
    assert curve["merged"] == 1


def test_long_curves_are_averaged() -> None:
    made = drawn(Plot("t", {"m": "m"}), [float(i % 2) for i in range(10_000)])
    assert len(made.svg) < 60_000
    (curve,) = made.curves
    assert (len(curve.x), curve.merged) == (400, 25)
    assert abs(curve.y - 0.5).max() == pytest.approx(0.02)


def test_breach_marks_the_figure_and_shows_the_limit() -> None:
    plot, records = Plot("t", {"m": "m"}), [{"step": i, "m": 0.5} for i in range(9)]
    plain, marked = figure(plot, records), figure(plot, records, {"m": Breach(0.4, (3, 7))})
    assert "var(--bad)" not in plain.svg and plain.breaches == []
    assert marked.svg.count("var(--bad)") >= 2 and marked.breaches == [Breach(0.4, (3, 7))]
    other = figure(plot, records, {"other": Breach(0.4, (3,))})
    assert other.svg == plain.svg and other.breaches == []


def test_rare_shares_are_not_drawn_flat() -> None:
    plot = Plot("t", {"m": "m"}, share=True)
    for highest, top in ((0.03, "4%"), (0.3, "40%"), (0.41, "100%")):
        made = drawn(plot, [highest * (i % 2) for i in range(9)])
        assert [text for text in texts(made) if "%" in text][-1] == top


def test_curves_close_together_get_an_axis_of_their_own() -> None:
    values = [0.71, 0.74, 0.78]
    tight = texts(drawn(Plot("t", {"m": "m"}, share=True, tight=True), values))
    assert {"72%", "78%"} <= set(tight) and "0%" not in tight
    assert "0%" in texts(drawn(Plot("t", {"m": "m"}, share=True), values))


def test_methods_keep_their_colours_and_show_their_seeds() -> None:
    curve = {"step": [0, 2], "tokens": [0, 20_000], "pass@1": [0.0, 0.5]}
    methods = {"cold": [], "a": [curve, curve], "b": [curve]}
    made = methods_figure(Plot("t", {}, x="tokens", share=True), methods, "pass@1")
    assert [(c.label, c.colour, len(c.seeds)) for c in made.curves] == [
        ("a", "var(--s2)", 2),
        ("b", "var(--s3)", 0),
    ]
    assert "20k" in texts(made) and "sampled tokens" in texts(made)
    assert methods_figure(Plot("t", {}), methods, "rho") is None
    many = {f"{i}": [curve] for i in range(24)}
    looks = {(c.colour, c.dash) for c in methods_figure(Plot("t", {}), many, "pass@1").curves}
    assert len(looks) == 24
