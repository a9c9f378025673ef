"""Where a thought begins and ends."""

import pytest

from cipo_jax.verifiers.thoughts import breaks_off, opened_by, without_thinking


@pytest.mark.parametrize(
    ("prompt_end", "tag"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("assistant: [THINK]", "[THINK]"),
        ("<|begin_of_thought|>\n\n", "<|begin_of_thought|>"),
        ("<think>\n\n</think>\n\n", ""),
        ("write <think> first", ""),
        ("", ""),
    ],
)
def test_a_prompt_may_open_a_thought(prompt_end: str, tag: str):
    assert opened_by(prompt_end) == tag


def test_what_is_left_of_a_completion():
    assert without_thinking("a<thinking>b</thinking>c[THINK]d[/THINK]e") == "ace"
    assert without_thinking("a</think>b") == "b"
    assert without_thinking("a<Thinking>b</THINKING>c [think] d") == "ac [think] d"
    assert without_thinking("a<|begin_of_thought|>b") == "a"
    assert without_thinking("no tags < here >") == "no tags < here >"


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (r"It may be \boxed{9}, now let me try the", True),
        (r"\boxed{9}? No: 4 + 5 =", True),
        (r"So \boxed{9}. Wait", True),
        (r"Perhaps \boxed{9}. Hmm, I should check case 3", True),
        (r"\boxed{9}", False),
        (r"\boxed{9} square metres", False),
        (r"Then $b=\boxed{9}$,", False),
        ("So \\boxed{9} is the least value of the five.\n~ A. Reader", False),
        (r"So \boxed{9}. But what if the two were equal, then", True),
        (r"So it is \boxed{9}, as was to be shown.", False),
        (r"$\boxed{9}$ (see the figure above for why)", False),
        ("the answer is 9 apples in two bags", False),
        ("Their sum is 9", False),
        ("", False),
    ],
)
def test_what_breaks_off_in_the_middle_of_a_sentence(text: str, cut: bool):
    assert breaks_off(text) is cut
