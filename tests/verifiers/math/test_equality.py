"""What equals the reference and what does not, and that hostile answers cost little."""

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipo_jax.types import Outcome
from cipo_jax.verifiers.math.answer import extract_answer, verify_math

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
]


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
