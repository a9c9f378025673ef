"""Where an answer is found: by which rule, in which order, in linear time."""

import time
import typing

import pytest

from cipo_jax.config.keys import Verifier
from cipo_jax.config.ranges import item_of, rules
from cipo_jax.types import Outcome
from cipo_jax.verifiers.math.answer import DEFAULT_RULES, RULES, extract_answer, verify_math


def test_the_config_offers_these_rules():
    (words,) = rules(item_of(typing.get_type_hints(Verifier, include_extras=True)["extraction"]))
    assert set(words.words) == set(RULES)
    assert Verifier().extraction == DEFAULT_RULES


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}", "42"),
        (r"first \boxed{1}. No: it is \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} is what we wanted", r"\frac{1}{\sqrt{2}}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed 7", "7"),
        (r"it is $\boxed7$.", "7"),
        (r"\boxed{3} \\ \boxed{4}", "3, 4"),
        (r"\text{Answer: }5", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{a \fbox{b} c}", r"a \fbox{b} c"),
        (r"\boxed{\left\{1, 2\right. x}", r"\left\{1, 2\right. x"),
        (r"\boxed{$x = 5$}", "x = 5"),
        (r"$\boxed{3}$ or $\boxed{4}$", "3, 4"),
        (r"$\boxed{3}$, $\boxed{4}$ and $\boxed{5}$", "3, 4, 5"),
        (r"\boxed{3} and again \boxed{3}", "3"),
        (r"\boxed{3} } stray brace", "3"),
        (r"{ \boxed{3} and \boxed{4", "3"),
        (r"thus \boxed{12", "12"),
        ("thus $\\boxed{12$.\nDone.", "12"),
        (r"thus \boxed{\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed{}", None),
        (r"\boxed{5} then fill in \boxed{ }", None),
        ("5 + 5 = 10\n#### 1,234", "1,234"),
        ("#### 5\nand then some", "5"),
        ("#### 5\n#### 6", "6"),
        ("The final answer is 12.", "12"),
        ("The final answer is: $\\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        ("**Final Answer:** 12", "12"),
        ("**Final Answer**: \n\n 12 \n", "12"),
        ("The answer is 5 apples. Nice.", "5 apples"),
        ("The answer is 1.5.", "1.5"),
        ("the answer is 3\nthe answer is 4", "4"),
        ("Answer: (B)", "(B)"),
        ("**Answer**: \\(x=5\\) since so", "x=5"),
        ("The answer is $5 in total", "5 in total"),
        ("It costs 90.\nA: 90,000", "90,000"),
        (r"\boxed{8} is close, but #### 9", "8"),
        ("#### 9 is the answer: 8", "9 is the answer: 8"),
        ("I computed 5 + 6 = 11", None),
        ("Answer the question", None),
        ("", None),
        (r"<think>maybe \boxed{1}</think> \boxed{2}", "2"),
        (r"<think>maybe \boxed{1}</think> unsure", None),
        (r"<think>maybe \boxed{1}", None),
        (r"\boxed{2}<think>or \boxed{3}", "2"),
        (r"was \boxed{1}</think>so \boxed{2}", "2"),
        (r"<think>a<think>b</think>\boxed{4}", "4"),
        (r"<thinking>\boxed{5} perhaps", None),
        (r"[THINK]\boxed{5}[/THINK] It is \boxed{6}.", "6"),
        (r"<|begin_of_thought|>\boxed{5}<|end_of_thought|>\boxed{6}", "6"),
        ("### Final Answer\n\n$\\frac{2}{3}$\n", r"\frac{2}{3}"),
        ("**Final Answer**\n17", "17"),
        ("#### Final Answer\n17 apples", "17 apples"),
        (r"$x=\boxed{3}$, $y=\boxed{4}$", "3, 4"),
        (r"$y=\boxed{3}$, $x=\boxed{4}$", "4, 3"),
        (r"$x_1=\boxed{3}$, $x_2=\boxed{4}$", "3, 4"),
        (r"$x_{2} = \boxed{3}$ and $x_{1} = \boxed{4}$", "4, 3"),
        (r"$\alpha=\boxed{3}$, $\beta=\boxed{4}$", "3, 4"),
        (r"$f(1)=\boxed{3}$ and $f(2)=\boxed{4}$", "3, 4"),
        (r"\fbox 7", "7"),
        (r"\boxed{1, 2, ...}", "1, 2, ..."),
        ("Final answer: $3$ or $8$", "3, 8"),
        ("The answer is $3$, $7$, and \\(8\\).", "3, 7, 8"),
        ("The answer is $x=3$, $x=8$", "x=3, x=8"),
        ("The answer is $3$ or maybe $8$", "3, 8"),
        ("The answer is $3$ (or $8$)", "3, 8"),
        ("The answer is $3$ or 8.", "3, 8"),
        ("The answer is $3$ or $3$", "3"),
        ("The answer is $3$, not $8$", "3"),
        ("The answer is $3$ km/h on $2$ days.", r"3\text{ km/h}"),
        ("The answer is $3$ m.", r"3\text{m}"),
        ("The answer is $3$ million dollars.", r"3\text{ million dollars}"),
        ("The answer is $3$% of it", r"3\%"),
        ("The answer is $3$ apples", "3"),
        ("The answer is $3$ in total", "3"),
    ],
)
def test_extract_answer(text: str, answer: str | None):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("Final answer: $3$ or $8$", ["3, 8"], ["3", "8"]),
        ("The answer is $3$ m.", ["3", r"3\text{ m}"], [r"3\text{ cm}"]),
        ("The answer is $3$ million.", ["3000000"], ["3"]),
    ],
)
def test_what_follows_a_formula_counts(text: str, right: list[str], wrong: list[str]):
    assert all(verify_math(text, answer).correct for answer in right)
    assert not any(verify_math(text, answer).correct for answer in wrong)


EVERYTHING = "Final answer: 1\nThe answer is 2.\n#### 3\nSo \\boxed{4}, or so.\nA: 5, of 6"


@pytest.mark.parametrize(
    ("rules", "answer"),
    [
        (("boxed", "hashes"), "4"),
        (("hashes", "boxed"), "3"),
        (("final_answer", "answer"), "1"),
        (("answer", "final_answer"), "2"),
        (("last_number", "boxed"), "6"),
    ],
)
def test_the_first_rule_that_finds_its_mark_decides(rules, answer):
    assert extract_answer(EVERYTHING, rules) == answer
    assert verify_math(EVERYTHING, answer, rules).correct


@pytest.mark.parametrize("rule", DEFAULT_RULES)
def test_only_the_rules_that_were_asked_for_apply(rule):
    texts = {
        "boxed": r"so \boxed{7}",
        "hashes": "#### 7",
        "final_answer": "The final result: the final answer is 7",
        "answer": "Answer: 7",
    }
    others = [r for r in RULES if r not in (rule, "last_number")]
    others = [r for r in others if (rule, r) != ("final_answer", "answer")]  # it holds the word
    assert extract_answer(texts[rule], [rule]) == "7"
    verdict = verify_math(texts[rule], "7", others)
    assert verdict.outcome is Outcome.NO_ANSWER
    assert all(name in verdict.detail for name in others)


def test_a_mark_without_an_answer_decides_as_well():
    assert extract_answer(r"#### 3" "\n" r"\boxed{}", ("boxed", "hashes")) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("we get 5.", "5"),
        ("in all 1,234.50 of them", "1,234.50"),
        ("in all 1{,}234", "1{,}234"),
        ("points 1,2", "2"),
        ("so x = -3", "-3"),
        ("that is 10-3", "3"),
        ("(4)-3", "3"),
        ("costs -$5 only", "-$5"),
        ("3/4 of x2", "3/4"),
        (".5 or 12%", "12%"),
        ("version 1.2.3", "1.2"),
        ("none", None),
    ],
)
def test_the_last_number(text, number):
    assert extract_answer(text, ["last_number"]) == number
    assert extract_answer(text) is None


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 100_000,
        r"\boxed{1} or " * 50_000,
        "<think>" * 100_000,
        "</think>" * 100_000,
        "answer is " * 100_000,
        "answer" + " " * 1_000_000,
        "#### " * 100_000,
        "final " * 100_000 + "answer: 4",
        r"\boxed " * 100_000,
        "Answer: " + "$" * 100_000,
        "Answer: " + r"\(" * 100_000,
        "*" * 200_000 + "\nA: 4",
        "9" * 1_000_000,
        "1,111" * 200_000,
        ",111" * 200_000 + "1",
        "-$" * 500_000,
    ],
    ids=lambda text: text[:20],
)
def test_hostile_texts_are_scanned_in_linear_time(text: str):
    start = time.process_time()
    for rule in RULES:
        extract_answer(text, [rule])
    assert time.process_time() - start < 1.0


def test_an_empty_box_is_no_answer():
    assert verify_math(r"the answer is 5: \boxed{}", "5").outcome is Outcome.NO_ANSWER
