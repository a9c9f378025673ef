"""Kinds of answers: what is right for a reference, and what looks like it and is not."""

import pytest

from cipo_jax.types import Outcome
from cipo_jax.verifiers.math.answer import verify_math

KINDS = [
    # (reference, right answers, wrong answers)
    ("3^{60}", ["3^{60}"], ["3^{60}+1", "3^{59}"]),
    ("1-2^{-90}", [r"1-\frac{1}{2^{90}}"], ["1"]),
    (r"\frac{5^{80}-1}{4}", [r"\frac14(5^{80}-1)"], [r"\frac{5^{80}}{4}"]),
    ("0", ["0.0", "-0"], [r"\frac{1}{7^{500}}", "10^{-300}"]),
    (r"\sqrt{10^{200}+1}", [], ["10^{100}"]),
    # decimals
    (r"\frac13", [r"0.\dot{3}", "0.333...", r"0.333\ldots", "0.33333333"], ["0.333", "0.33"]),
    (r"\frac{123}{999}", [r"0.\dot{1}2\dot{3}", r"0.\overline{123}"], [r"0.\dot{1}\dot{2}"]),
    (r"\frac{7}{6}", [r"1.1\dot{6}", "1.1666..."], [r"1.\dot{1}\dot{6}", "1.16..."]),
    ("1/3", ["1/(3)", "(1)/(3)"], ["1/(4)", "-1/(3)"]),
    ("-1/3", ["-1/(3)", "1/(-3)"], ["1/3"]),
    ("1234567", ["1'234'567", "1 234 567"], ["12'34'567", "1.234.567"]),
    (r"\frac{x}{3}", ["0.33333333333x"], ["0.333x", "0.34x"]),
    ("0.5x", [r"\frac{x}{2}", "x/2"], ["0.5000001x"]),
    # the same answer twice, and two
    ("12x-34", ["12x-34, -34+12x"], ["12x-34, 12x+34", "12x, -34"]),
    (r"15\frac{39}{40}", [r"15\frac{39}{40}, \frac{639}{40}"], [r"15\frac{39}{40}, 15"]),
    (r"90^{\circ},60^{\circ}", [r"90^{\circ}$,$60^{\circ}"], [r"90^{\circ}$,$61^{\circ}"]),
    # sets of reals
    ("(-3,3)", ["|x|<3", "-3<x<3"], [r"|x|\le3", "|x|>3", "2x<6"]),
    (r"(-\infty,-3]\cup[3,\infty)", [r"|x|\ge3"], ["|x|>3", r"|x|\le3"]),
    (r"x<1 \text{ or } x>4", [r"x \in(-\infty,1) \text{ or } x\in(4,\infty)"], ["x<1"]),
    (r"(-\infty,2)\cup(2,\infty)", ["R - {2}", "all real numbers except 2"], ["R - {3}"]),
    (r"\emptyset", [r"\text{no solution}", "no real solutions", r"\{\}"], ["0", "all reals"]),
    ("x<2", ["2>x"], ["2x<4", "x+1<3", r"x\le2"]),
    # an interval is not the pair of its end points
    ("2, 6", ["6, 2"], ["2<x<6", "6>x>2", r"x \in (2,6)", "2<x+0<6", r"\{x: 2<x<6\}"]),
    (r"\{2,6\}", [r"x\in\{2,6\}", "2, 6"], ["2<x<6", r"x\in(2,6)", r"2\le x\le6"]),
    (r"x=2 \text{ or } x=6", ["x=6, x=2"], ["2<x<6", r"x\in(2,6)"]),
    (r"\pm 3", ["-3, 3"], ["|x|<3", "-3<x<3"]),
    (r"\sqrt2, \sqrt3", [], [r"\sqrt2<x<\sqrt3"]),
    ("2<x<6", ["(2,6)", "6>x>2", r"x\in(2,6)"], ["2, 6", r"\{2,6\}", "x=2, x=6"]),
    (r"x\in(2,6)", ["(2,6)", "2<x<6"], ["2, 6", r"\{2,6\}", "x=2, 6"]),
    ("|x|<3", ["-3<x<3"], ["-3, 3", r"\pm3", r"x=\pm3"]),
    # a point, by the names of its values
    ("(3,8)", ["x=3, y=8", "y=8, x=3", "b=8 and a=3", "n=3, k=8"], ["y=3, x=8", "x=8, y=3"]),
    ("(1,4,9)", ["a_3=9, a_1=1, a_2=4", "z=9, y=4, x=1"], ["a_1=9, a_2=4, a_3=1"]),
    # a comma for "or", or for "and"
    (r"(-\infty,2)\cup(6,\infty)", ["x<2, x>6", r"(6,\infty), (-\infty,2)"], ["x<2 and x>6"]),
    ("x<2, x>6", [r"(-\infty,2)\cup(6,\infty)", "x>6, x<2"], [r"(-\infty,2]\cup(6,\infty)"]),
    ("(2,6)", ["x>2, x<6"], [r"x\ge2, x<6"]),
    # choices
    ("B", [r"\text{B. A circle}", r"\text{B. I only}", r"\text{Option B}"], ["B. A", "B or A"]),
    ("B", [r"\text{Choice (B)}", "(B) 3, 4"], ["(B) or A", "B. 5, A. 6", "B) A and (c)", "(B) C"]),
    ("D", [r"\textbf{(D) } I \text{ and } II"], ["(D) or (I)", "Option D or I", "(D) no, (a)"]),
    ("12", [r"\text{B. }12", r"\text{B) }12"], [r"\text{B. }13", "B12"]),
    # ratios
    ("1:12", [r"\frac{1}{12}"], [r"\frac{1}{13}", "12:1"]),
    (r"\{3,8\}", [r"\{3,8,8\}", "8, 3"], [r"\{3,3\}", r"\{3,8,9\}"]),
    # "and" is not "or"
    (r"x<-5 \text{ or } x>5", ["x>5 or x<-5", r"x<-5 \lor x>5"], ["x<-5 and x>5"]),
    ("x>2 and x<6", ["x<6 and x>2", "2<x<6"], ["x>2 or x<6", r"x<6 \lor x>2"]),
    (r"x\le\sqrt2 \text{ or } x\ge3", [r"x\ge3 or x\le\sqrt2"], [r"x\le\sqrt2 and x\ge3"]),
    (r"x\ge1 \text{ and } x\ne2", [r"x\ne2 and x\ge1"], [r"x\ge1 or x\ne2"]),
    ("a>2 and b<6", ["b<6 and a>2", "b<6, a>2"], ["a>2 or b<6"]),
    ("a>2 or b<6", ["b<6 or a>2"], ["a>2 and b<6"]),
    # equations that are left to be solved
    (
        "x=7",
        ["7", "7=x", "x=14/2=7"],
        ["2x=14", "x-4=3", "x-7=0", r"\frac{x}{7}=1", r"\sqrt{49}=x"],
    ),
    ("y=7", ["y=7.0"], ["3y=21", "3y+1=22", "x=7"]),
    (r"x=\sqrt5", [r"\sqrt5=x"], [r"3x=3\sqrt5"]),
    ("x=1, x=7", ["1, 7", "7=x, x=1"], ["x=1, 2x=14"]),
    ("AB=7", ["7", "BA=7"], ["2AB=14"]),
    (
        "8",
        ["f(2)=8", "f(f(2))=8", "P(X=3)=8", r"\sin\theta=8"],
        ["-x=8", r"\sqrt{x}=8", r"\ln x=8"],
    ),
    ("8", [r"\angle ABC=8", "AB=8", "x_1=8", "a+b=8"], ["2^x=8", "|x|=8", r"\tan x=8", "x(x+2)=8"]),
    ("8", [r"\text{Area}=8", "|AB|=8", r"\frac{x}{y}=8"], ["2xy=8", "x+y+1=8", "5x+3y=8"]),
    ("8", [r"\sum_{i=1}^2 4=8", "A=2ab=8", r"\lim_{x\to1}f(x)=8"], ["a^2+b^2=8", r"2\theta=8"]),
    (r"\sqrt8", [r"x=\sqrt8"], [r"-x=\sqrt8", r"x^2+y^2=\sqrt8"]),
    ("y=x+7", ["2y=2x+14", "y-x=7"], ["y=2x+14"]),
    # equations and inequalities
    ("y=2^{80}x", ["2^{81}x-2y=0"], ["y=(2^{80}+1)x"]),
    ("x+y<2^{80}", ["2^{80}>x+y", "-x-y>-2^{80}"], ["x+y<2^{80}+1", "x+y>2^{80}"]),
    ("xy=1", [r"y=\frac{1}{x}"], ["xy=-1", "y=x"]),
    (r"\frac{x^2}{9}+\frac{y^2}{4}=1", ["4x^2+9y^2=36"], ["4x^2-9y^2=36"]),
    (r"a+b\neq3", [r"3\ne b+a"], ["a+b=3"]),
    ("x^{50}+1=0", ["-1-x^{50}=0"], ["x^{50}+x+1=0"]),
    # words and signs
    (r"\pounds 3", ["3", "£3"], ["€3", "£4"]),
    ("No", ["no", "NO", r"\text{no}", r"\text{No.}"], ["on", "Yes", "n"]),
    ("Up", ["up"], ["down", "pu"]),
    (r"\text{Team 4}", ["team 4", r"\text{Team }4"], ["Team 5", "4", "Meat 4"]),
    ("Player 2 wins", ["player 2 wins"], ["Player 1 wins"]),
    ("Café", ["café"], ["Face"]),
    ("IV", [r"\text{IV}"], ["VI"]),
    ("¥500", ["500"], ["\\$500"]),
    (r"\log_{10}7", [r"\lg 7"], [r"\ln 7"]),
    (r"\max(a,b)", [r"\max\{a,b\}"], [r"\min\{a,b\}"]),
    (r"\text{ellipse}", ["an ellipse", "The Ellipse"], ["a hyperbola"]),
    (r"\log_2 5", ["log_2(5)", r"\frac{\ln5}{\ln2}"], ["log_5(2)"]),
    ("|x|", ["abs(x)", r"\lvert x\rvert"], ["x"]),
    ("15", [r"\text{The answer is }15", r"\underline{15}", r"\color{red}{15}"], ["about 15"]),
    (r"a\sin B", [r"\sin(B)\cdot a"], [r"A\sin b", r"a\sin b"]),
    ("A-a+b", ["b+A-a"], ["a-A+b", "b"]),
    ("3x+2", ["3X+2"], ["3y+2"]),
    (r"\sin\frac{\pi}{12}", [r"\frac{\sqrt6-\sqrt2}{4}"], [r"\frac{\sqrt6-\sqrt3}{4}"]),
    (r"2\ln3", ["3\\ln3-\\ln 3"], [r"\sqrt{4}\ln3"]),
    (r"e^{i\pi/4}", [r"\frac{\sqrt2}{2}+\frac{\sqrt2}{2}i"], [r"\frac{\sqrt2}{2}"]),
    (r"\vec{a}+\vec{b}", [r"\vec b+\vec a", "a+b"], [r"\vec{a}"]),
    (r"\angle ABC", ["∠ABC"], ["∠ABD"]),
    (r"\overline{AB}", ["AB"], ["AC"]),
]


@pytest.mark.parametrize(("gold", "right", "wrong"), KINDS, ids=[gold for gold, *_ in KINDS])
def test_what_is_right_and_what_is_not(gold: str, right: list[str], wrong: list[str]):
    for answers, outcome in ((right, Outcome.CORRECT), (wrong, Outcome.WRONG)):
        for answer in answers:
            assert verify_math(rf"\boxed{{{answer}}}", gold).outcome is outcome, answer


@pytest.mark.parametrize("formula", ["a^2+b^2", "2ab", r"\sqrt{x}", r"\tan x"])
def test_the_value_of_a_formula_may_be_what_was_asked_for(formula: str):
    answer = rf"\boxed{{{formula}=8}}"
    assert verify_math(answer, "8", question=f"What is ${formula}$?").correct
    assert not verify_math(answer, "8", question=f"Solve ${formula}=8$.").correct


@pytest.mark.parametrize("answer", ["|" * 400, "|x|" * 20, "x" + "|" * 17])
def test_bars_that_a_parser_would_pair_for_ever_are_refused(answer: str):
    assert "vertical bars" in verify_math(rf"\boxed{{{answer}}}", r"\sqrt{2}").detail
