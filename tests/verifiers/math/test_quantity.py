"""Numbers and units, in whatever spelling, are equal when their values are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipo_jax.types import Outcome
from cipo_jax.verifiers.math.answer import verify_math

repeatable = settings(derandomize=True, deadline=None)

EQUAL = [
    # (answer, reference)
    ("42", "42"),
    ("+42", "42"),
    ("042", "42"),
    ("42.", "42"),
    ("42.0", "42"),
    ("37.5", "37.50"),
    (".5", "0.5"),
    ("-5", "−5"),
    ("10000", "10{,}000"),
    ("10,000", "10000"),
    (r"10,\!080", "10080"),
    (r"12\,345", "12345"),
    ("12 345", "12345"),
    (r"1{,}234{,}567.50", "1234567.5"),
    ("1/2", r"\frac{1}{2}"),
    (r"\dfrac{1}{2}", "0.5"),
    (r"\tfrac12", r"\frac{1}{2}"),
    (r"\frac59", r"\frac{5}{9}"),
    (r"\frac{270}7", r"\frac{270}{7}"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"\frac{1}{-2}", "-0.5"),
    ("2/4", "1/2"),
    ("0.333333", "1/3"),
    (r"\frac{2}{3}", "0.6666667"),
    (r"1\frac{1}{2}", r"\frac{3}{2}"),
    ("1 1/2", "1.5"),
    (r"-2 \frac{1}{4}", "-2.25"),
    ("3e6", "3000000"),
    (r"3 \times 10^6", "3e6"),
    (r"3.0\cdot 10^{-4}", "0.0003"),
    ("5 million", "5,000,000"),
    (r"50\%", "50"),
    ("50", r"50\%"),
    (r"50\%", "0.5"),
    ("50 percent", r"50 \%"),
    (r"\frac{1}{2}", r"50\%"),
    ("$18.90", r"\$18.90"),
    (r"\$18.9", "18.90"),
    ("18.90 dollars", r"\$18.90"),
    (r"45^\circ", "45"),
    ("45°", r"45^{\circ}"),
    ("45 degrees", r"45^\circ"),
    (r"5 \text{ cm}", "5"),
    ("5cm", r"5\text{ centimeters}"),
    (r"864\text{ in}^2", r"864 \mbox{ inches}^2"),
    (r"864\text{ square inches}", r"864 \mbox{ inches}^2"),
    (r"25\pi\text{ square units}", r"25\pi"),
    (r"9.8\,\mathrm{m/s}^2", "9.8"),
    (r"3\text{ m}", "3 meters"),
    ("12 apples", "12"),
    ("60 km/h", r"60\text{ kilometers per hour}"),
    ("60 mph", "60 miles per hour"),
    ("60 miles/hour", "60 mph"),
    (r"60\,\frac{\text{km}}{\text{h}}", "60 km/h"),
    (r"5\,\mathrm{m\,s^{-1}}", "5 m/s"),
    (r"2.5\,\mathrm{eV}", "2.5"),
    *((rf"4\text{{ {unit}}}", "4") for unit in ("N", "J", "V", "K", "A", "W", "kN")),
    (r"4\ \Omega", "4"),
    (r"4\text{ cm squared}", r"4\text{ cm}^2"),
    (r"4\text{ meters cubed}", "4"),
    ("4€", "€4"),
    ("4 xyz", "4xyz"),
    (r"\$-4", "-4"),
    (r"4\text{ per cent}", "0.04"),
    ("5!=120", "120"),
    ("n=4!=24", "n=24"),
    ("(-3)/8", r"-\frac{3}{8}"),
    ("(-3)/(8)", "-0.375"),
    (r"35^\circ\text{C}", r"35\text{ degrees Celsius}"),
    ("35°F", r"35^\circ"),
    (r"35^\circ", r"35^\circ\text{C}"),
    (r"4\text{ millions}", "4000000"),
    ("1202_3", "1202_{3}"),
    ("1202", "1202_3"),
]

DIFFERENT = [
    # (answer, reference)
    ("42", "43"),
    ("-42", "42"),
    ("0.3333", "1/3"),
    ("0.3333", "0.333"),
    ("1000000.5", "1000000"),
    ("11/2", "1 1/2"),
    ("1234", "123 4"),
    ("5 million", "5"),
    ("2 thirds", "2"),
    ("3 dozen", "3"),
    ("5 squared", "5"),
    ("510^3", "5000"),
    (r"5\text{ cm}", r"5\text{ m}"),
    ("5 hours", "5 minutes"),
    ("5 cents", r"\$5"),
    (r"5\text{ cm}^2", r"5\text{ cm}^3"),
    (r"5\%", "0.5"),
    ("500", r"5\%"),
    (r"4\text{ N}", r"4\text{ J}"),
    (r"4\text{ squared}", "4"),
    ("4", "4 xyz"),
    ("4 abc", "4 xyz"),
    ("4 xyz", "4"),
    (r"4\text{ cm squared}", r"4\text{ cm}^3"),
    (r"\$-4", "4"),
    ("4€", "£4"),
    ("n!=120", "120"),
    ("(-3)/8", "3/8"),
    (r"35^\circ\text{C}", r"35^\circ\text{F}"),
    ("35 degrees Celsius", "35 degrees Fahrenheit"),
    (r"35\text{ kelvin}", "35°C"),
    (r"4\text{ millions}", "4"),
    (r"4\text{ sixteenths}", "4"),
    (r"4\text{ twentieths}", "4"),
    (r"4\text{ dozens}", "4"),
    ("1202_4", "1202_3"),
    ("60 mph", "60 km/h"),
    ("5 m/s", "5 km/h"),
]


@pytest.mark.parametrize(("ours", "gold"), EQUAL)
def test_equal_quantities_verify(ours: str, gold: str):
    verdict = verify_math(rf"\boxed{{{ours}}}", gold)
    assert verdict.outcome is Outcome.CORRECT, verdict


@pytest.mark.parametrize(("ours", "gold"), DIFFERENT)
def test_different_quantities_do_not(ours: str, gold: str):
    verdict = verify_math(rf"\boxed{{{ours}}}", gold)
    assert verdict.outcome is Outcome.WRONG, verdict


@repeatable
@given(st.integers())
def test_every_integer_equals_itself_and_not_its_successor(n: int):
    assert verify_math(rf"\boxed{{{n}}}", str(n)).correct
    assert verify_math(rf"\boxed{{{n:,}}}", str(n)).correct
    assert not verify_math(rf"\boxed{{{n}}}", str(n + 1)).correct


@repeatable
@given(st.integers(-999, 999), st.integers(1, 999))
def test_every_fraction_equals_its_multiples_only(top: int, bottom: int):
    assert verify_math(rf"\boxed{{\frac{{{2 * top}}}{{{2 * bottom}}}}}", f"{top}/{bottom}").correct
    assert not verify_math(rf"\boxed{{\frac{{{top}}}{{{bottom}}}}}", f"{top + 1}/{bottom}").correct
