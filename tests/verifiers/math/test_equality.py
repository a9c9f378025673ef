"""What equals the reference and what does not, and that hostile answers cost little."""

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipo_jax.types import Outcome
from cipo_jax.verifiers.math.answer import extract_answer, verify_math
from cipo_jax.verifiers.math.quantity import read_tolerance

repeatable = settings(derandomize=True, deadline=None)
_CHARACTERS = r"0123456789xyE()[]\^_!+-*/=,.%$ abortextfrcqdnhml"

EQUAL = [
    # (answer, reference)
    (r"2\sqrt{3}\text{ cm}", r"2\sqrt{3}"),
    (r"x = 5", "5"),
    ("5", "x=5"),
    ("5 = x", "5"),
    ("x = 10/2 = 5", "5"),
    ("2 + 3 = 5", "5"),
    ("a + b = 7", "7"),
    (r"f(x) = x - 1", "x-1"),
    (r"f(x) = -1 + x", "f(x)=x-1"),
    (r"\sqrt{2} \approx 1.414", r"\sqrt{2}"),
    (r"x \approx 1.41", "1.41"),
    (r"3y - 6x = 9", "y = 2x + 3"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"3.141593", r"\pi"),
    (r"0.1\overline{6}", r"\frac{1}{6}"),
    (r"\varnothing", r"\emptyset"),
    (r"\infty", r"\infty "),
    (r"(x+1)^2", "x^2+2x+1"),
    (r"x^2 + 2 x + 1", r"1 + 2x + x^2"),
    (r"\frac{11 + 9a}{20}", r"\frac{9a+11}{20}"),
    (r"5i + 3", "3+5i"),
    (r"6 - 5 i", "6-5i"),
    (r"\left(1, -2\right)", "(1,-2)"),
    (r"(0.5, 2)", r"\left( \frac{1}{2}, 2 \right)"),
    ("1, -2", "(1,-2)"),
    (r"(x, y) = (1, 2)", "(1,2)"),
    (r"\left(3, \dfrac{\pi}{2}\right)", r"(3, \frac{\pi}{2})"),
    (r"(45^\circ, 60^\circ)", r"(45^{\circ}, 60^{\circ})"),
    ("(100, 200)", "(100,200)"),
    (r"\left(-\infty, 0\right]", r"(-\infty,0]"),
    (r"x \in [-2, 7]", "[-2,7]"),
    (r"-2 \leq x \leq 7", r"x \in [-2,7]"),
    (r"x \geqslant 2", r"x \geq 2"),
    (r"(0,9)\cup(9, 36)", r"(0,9) \cup (9,36)"),
    (r"(9,36)\cup(0,9)", r"(0,9) \cup (9,36)"),
    (r"\{3, 1, 2\}", r"\{1,2,3\}"),
    ("3, 1, 2", "1,2,3"),
    ("1, 2, and 3", r"\{1,2,3\}"),
    (r"1 \text{ or } 2", "1,2"),
    (r"x=2 \text{ or } x=1", "x=1, x=2"),
    ("1, 2", "x=1, x=2"),
    (r"\pm 3", "3,-3"),
    (r"x = 1 \pm \sqrt{2}", r"1+\sqrt{2}, 1-\sqrt{2}"),
    ("(3,4),(1,2)", "(1,2), (3,4)"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
    (r"\begin{pmatrix} 0.5 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1/2 \\ 2 \end{pmatrix}"),
    (r"\text{even}", "even"),
    ("Even", r"\text{even}"),
    (r"\text{Option A}", "option a"),
    ("4:30 PM", r"\text{4:30 p.m.}"),
    (r"\text{9 am}", r"9\text{ a.m.}"),
    ("(E)", r"\text{(E)}"),
    (r"\textbf{(B)}", "B"),
    ("B. 17", "B"),
    ("(B) 17", "B"),
    (r"\textbf{(B) } 17", "17"),
    ("3:4", "3 : 4"),
    (r"2^{n^2}", "2^{n^{2}}"),
    (r"\frac{(2n)!}{(n!)^2}", r"\frac{(2n)!}{n! n!}"),
    ("no solution", r"\text{No solution.}"),
    # exact values
    (r"3^{60}\sqrt{8}", r"2\cdot 3^{60}\sqrt{2}"),
    (r"(2^{90}+1)x", r"2^{90}x+x"),
    (r"\frac{2\cdot 3^{50}}{6}", r"3^{49}"),
    ("1267650600228229401496703205376", r"2^{100}"),
    # lists and numbers
    ("150,250,350", "150, 250, 350"),
    ("350,250", "250, 350"),
    ("1,000, 2,000", "2000, 1000"),
    ("(1,000, 2,000)", "(1000, 2000)"),
    ("{4,5,6}", r"\{6,5,4\}"),
    ("{7}", "7"),
    # plain text and Unicode
    ("3√7", r"3\sqrt{7}"),
    ("√(10)", r"\sqrt{10}"),
    ("√3/3", r"\frac{1}{\sqrt{3}}"),
    ("y³", "y^3"),
    ("10⁻⁵", "10^{-5}"),
    ("3½", "3.5"),
    ("－７", "-7"),
    ("‑8", "-8"),
    (r"7\sqrt(3)", r"7\sqrt{3}"),
    ("7*sqrt(3)", r"7\sqrt{3}"),
    ("-5*pi", r"-5\pi"),
    ("exp(9)-2", "e^9-2"),
    ("x^(n+1)", "x^{n+1}"),
    ("2*x**2", "2x^2"),
    ("sin(x)", r"\sin x"),
    (r"-(1/3)", r"-\frac{1}{3}"),
    (r"1,2,\dots,n", r"1, 2, \ldots, n"),
    ("1, 2, 3, ...", r"1, 2, 3, \ldots"),
    (r"2\cos(20°)", r"2\cos 20^\circ"),
    (r"2\cos\frac{\pi}{9}", r"2\cos 20^\circ"),
    # sets of reals
    (r"x<-1 \text{ or } x>4", r"(-\infty,-1)\cup(4,\infty)"),
    (r"(4,\infty)\cup(-\infty,-1)", "x > 4 or x < -1"),
    (r"x\neq 3", r"(-\infty,3)\cup(3,\infty)"),
    (r"\mathbb{R}\setminus\{3\}", r"(-\infty,3)\cup(3,\infty)"),
    ("all real numbers", r"\mathbb{R}"),
    (r"(-\infty, +\infty)", r"\mathbb R"),
    (r"\{x \mid x>2\}", r"(2,\infty)"),
    ("5>x>1", "(1,5)"),
    (r"x>1 \text{ and } x<5", "(1,5)"),
    ("x >= 2", r"[2,\infty)"),
    (r"(0,2)\cup(1,3)", "(0,3)"),
    (r"\{\}", r"\emptyset"),
    (r"1\mp\sqrt{2}", r"1\pm\sqrt{2}"),
    # the same function
    (r"\sqrt{1/m}", r"\frac{1}{\sqrt{m}}"),
    (r"\sqrt{x^2}", "|x|"),
    ("(1+i)^2", "2i"),
    (r"n!(n+1)", "(n+1)!"),
    # references as they are written
    ("x^2+3", "$x^2+3$."),
    (r"4", r"4 \pmod 9"),
    (r"x\equiv 4\pmod 9", r"4\pmod 9"),
]

DIFFERENT = [
    # (answer, reference)
    ("12 or 13", "12"),
    (r"12 \text{ or } 13", "13"),
    ("12, 13", "12"),
    ("12", "12, 13"),
    (r"12 \approx 13", "13"),
    ("not 12", "12"),
    ("12?13", "12"),
    (r"\pm 3", "3"),
    ("3", r"\pm 3"),
    ("x > 5", "5"),
    (r"x \neq 5", "5"),
    (r"x \ne 5", "5"),
    ("x^2 = 5", "5"),
    ("2x = 5", "5"),
    ("y = 5", "x = 5"),
    ("x=1, y=2", "2"),
    ("2, 1", "x=1, y=2"),
    ("12 + 7*3", "33"),
    (r"5 \cdot 4", "20"),
    (r"(5)(4)", "20"),
    ("40 - 7", "33"),
    (r"\sqrt{9 + 16}", "5"),
    (r"\sum_{i=1}^{4} i", "10"),
    (r"2^{10}", "1024"),
    (r"10!", "3628800"),
    ("3.14", r"\pi"),
    ("0.0000001", "0"),
    (r"10^{-9}", r"10^{-8}"),
    ("1.0000001", "1"),
    (r"e^{-50}", r"e^{-51}"),
    ("5c", "5"),
    ("3t", "3"),
    ("5 m", "5"),
    ("2 g h", "2"),
    ("5", "5x"),
    (r"45^\circ", r"\frac{\pi}{3}"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("[1,2)", "(1,2)"),
    ("2,1", "(1,2)"),
    (r"\{1,2\}", "(1,2)"),
    ("(1,2,3)", "(1,2)"),
    ("(1)", "(1,2)"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("1, 1, 2", "1, 2, 2"),
    (r"(-\infty, 0)", r"(-\infty,0]"),
    (r"x \ge 2", "x > 2"),
    (r"x \le 2", r"x \ge 2"),
    (r"(0,9)\cup(10, 36)", r"(0,9) \cup (9,36)"),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix}1&2\\4&3\end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    ("5 - 3i", "5+3i"),
    ("5i", "5"),
    ("x^2 + 2x", "x^2+2x+1"),
    (r"2\sqrt{3}", r"3\sqrt{2}"),
    ("x", "y"),
    (r"\text{odd}", r"\text{even}"),
    ("CAB", "ABC"),
    ("even or odd", r"\text{even}"),
    ("4:30 a.m.", r"\text{4:30 p.m.}"),
    ("4:31 p.m.", r"\text{4:30 p.m.}"),
    ("A", "B"),
    ("A or B", "B"),
    ("(A) or (B)", "A"),
    ("(A)(B)", "A"),
    ("A. 5 B. 6", "A"),
    ("3:4", "4:3"),
    ("f(x) = x", "f(x) = x - 1"),
    (r"\text{5 or 6}", "5"),
    ("at least 5", "5"),
    ("5 to 6", "5"),
    (r"5\text{ or more}", "5"),
    ("5!", "5"),
    ("5%%", "5"),
    ("__import__('os')", "0"),
    ("nan", "0"),
    (r"\infty", "1"),
    (r"-\infty", r"\infty"),
    (r"\frac{1}{0}", r"\frac{2}{0}"),
    # exact values
    (r"2^{90}", "2^{90}+1"),
    ("30!+1", "30!"),
    (r"\frac{1}{901!}", r"\frac{1}{900!}"),
    (r"\frac{1}{500!}", "0"),
    ("1", "1-2^{-90}"),
    (r"9999^{9999}", r"9999^{9999}+1"),
    (r"\sqrt{2}\cdot 3^{60}", r"\sqrt{2}\cdot 3^{60}+1"),
    (r"e^{-60}", r"e^{-60}+e^{-200}"),
    ("2^{90}x", "2^{90}x+x"),
    ("(0,2^{70})", "(0,2^{70}+1)"),
    (r"\begin{pmatrix}2^{70}\\1\end{pmatrix}", r"\begin{pmatrix}2^{70}+1\\1\end{pmatrix}"),
    # lists and numbers
    ("150250", "150, 250"),
    ("3, 000", "3000"),
    ("12,34", "1234"),
    # sets of reals
    (r"x \le -1 \text{ or } x>4", r"(-\infty,-1)\cup(4,\infty)"),
    ("y>1 or y<0", "x>1 or x<0"),
    # the same function
    ("|x|", "x"),
    (r"\tan 10^\circ", r"\tan 20^\circ"),
    (r"4 \pmod 9", r"4 \pmod{11}"),
    ("5", r"4 \pmod 9"),
    # not worked out
    (r"\lfloor 4.6\rfloor", "4"),
    (r"\max(2,9)", "9"),
    (r"\sqrt{25}", "5"),
    (r"17 \bmod 5", "2"),
    (r"\int_0^1 x^2 dx", r"\frac{1}{3}"),
    (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", "-2"),
    (r"\sin 60^\circ", r"\frac{\sqrt{3}}{2}"),
    (r"\frac{d}{dx}(x^3)", "3x^2"),
    (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}"),
]

COPIED = [
    # (answer, reference, question)
    (r"\frac{28}{7}", "4", r"Compute $\frac{28}{7}$."),
    ("28/7", "4", r"Compute $\frac{28}{7}$."),
    (r"\frac{6}{8}", r"\frac{3}{4}", r"Simplify $\frac{6}{8}$."),
    ("0.25", r"\frac{1}{4}", "Write $0.25$ as a fraction."),
    (r"4.5\times 10^3", "4500", r"Write $4.5\times 10^3$ in full."),
    ("(x+3)(x+4)", "x^2+7x+12", "Expand $(x+3)(x+4)$."),
    ("(x+4)(x+3)", "x^2+7x+12", "Expand $(x+3)(x+4)$."),
    (r"\sqrt{72}", r"6\sqrt{2}", r"Simplify $\sqrt{72}$."),
    (r"35\%", "0.35", r"Write $35\%$ as a decimal."),
    ("35 percent", r"\frac{7}{20}", "Write 35 percent as a fraction."),
    ("0.35", r"35\%", "Write $0.35$ as a percentage."),
    ("x^2+7x+12", "(x+3)(x+4)", "Factor $x^2+7x+12$."),  # the question's full stop is not its 12's
]

NOT_COPIED = [
    (r"\frac{6}{8}", r"\frac{3}{4}", "What are three quarters?"),
    ("12+7x+x^2", "x^2+7x+12", "Expand $(x+3)(x+4)$."),
    (r"\sqrt{72}", r"6\sqrt{2}", "How long is the diagonal of a square of side 6?"),
    ("5 cm", "5", "A rod of 5 cm is cut. How much is left, if nothing is lost?"),
    (r"50\%", "50", "After 50% off, what percentage is left?"),
    ("12.0", "12", "Of 12.0 litres none is lost."),
]


@pytest.mark.parametrize(("ours", "gold", "question"), COPIED)
def test_a_copy_of_the_question_is_no_answer(ours: str, gold: str, question: str):
    verdict = verify_math(rf"\boxed{{{ours}}}", gold, question=question)
    assert verdict.outcome is Outcome.WRONG and "copied" in verdict.detail
    assert verify_math(rf"\boxed{{{ours}}}", gold).correct  # its value is right
    assert verify_math(rf"\boxed{{{gold}}}", gold, question=question).correct


@pytest.mark.parametrize(("ours", "gold", "question"), NOT_COPIED)
def test_what_stands_in_the_question_by_chance_is_an_answer(ours: str, gold: str, question: str):
    assert verify_math(rf"\boxed{{{ours}}}", gold, question=question).correct


def test_a_benchmark_may_state_a_tolerance():
    near = read_tolerance({"absolute": "0.01", "relative": 1e-4})
    assert read_tolerance(None) is None
    for ours, gold, right in [
        ("3.15", "3.14", True),
        ("3.16", "3.14", False),
        ("1000.09", "1000", True),
        (r"\pi", r"\frac{22}{7}\cdot 1", True),
        ("(1.005, 2)", "(1, 2)", True),
    ]:
        assert verify_math(rf"\boxed{{{ours}}}", gold, tolerance=near).correct is right, ours
        assert not verify_math(rf"\boxed{{{ours}}}", gold).correct


@pytest.mark.parametrize(("ours", "gold"), EQUAL)
def test_equal_answers_verify(ours: str, gold: str):
    verdict = verify_math(rf"\boxed{{{ours}}}", gold)
    assert verdict.outcome is Outcome.CORRECT, verdict


@pytest.mark.parametrize(("ours", "gold"), DIFFERENT)
def test_different_answers_do_not(ours: str, gold: str):
    verdict = verify_math(rf"\boxed{{{ours}}}", gold)
    assert verdict.outcome is Outcome.WRONG, verdict


@repeatable
@given(st.text(alphabet=_CHARACTERS + "{}", max_size=40))
def test_any_text_gets_a_verdict(answer: str):
    verdict = verify_math(rf"\boxed{{{answer}}}", "17")
    assert verdict.outcome in (Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER)


@repeatable
@given(st.text(alphabet=_CHARACTERS, max_size=40))
def test_any_answer_equals_itself(answer: str):
    boxed = rf"\boxed{{{answer}}}"
    extracted = extract_answer(boxed)
    assert extracted is None or verify_math(boxed, extracted).correct


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9**9",
        "9^9^9^9",
        "9^{9^{9^{9}}}",
        r"9^{999999999}",
        "99999999!",
        "9!!!!",
        "((9!)!)!",
        r"\binom{999999999}{500000000}",
        "9" * 1_000_000,
        "1," * 500_000,
        "{" * 100_000 + "}" * 100_000,
        "{" * 400 + "x" + "}" * 400,
        r"\frac{" * 100_000 + "1" + "}" * 100_000,
        r"\boxed{" * 100_000 + "1" + "}" * 100_000,
        "(" * 100_000,
        "." * 100_000 + "x",
        " " * 100_000 + "x",
        "$" * 100_000 + "x",
        r"\sqrt" * 100 + "x",
        "a." * 499,
        r"(\ab" + r"\ab" * 200 + "1)",
        "x=" * 400 + "1",
        "1e9999",
        "1e99999999",
        "__import__('os').system('touch /tmp/x')",
    ],
    ids=lambda answer: answer[:20],
)
def test_hostile_answers_cost_milliseconds(answer: str):
    verify_math(r"\boxed{\sqrt{2}}", "x")  # the import of math-verify is not what is measured
    start = time.process_time()
    verdict = verify_math(rf"\boxed{{{answer}}}", "5")
    assert time.process_time() - start < 1.0
    assert verdict.outcome is Outcome.WRONG
    assert verdict.extracted is None or len(verdict.extracted) <= 1_000


def test_easy_answers_do_not_import_a_parser():
    code = (
        "import sys\n"
        "from cipo_jax.verifiers.math.answer import verify_math\n"
        "assert verify_math('\\\\boxed{1{,}000}', '1000').correct\n"
        "assert not verify_math('\\\\boxed{(1,2)}', '(1,3)').correct\n"
        "loaded = {'sympy', 'math_verify', 'jax'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
