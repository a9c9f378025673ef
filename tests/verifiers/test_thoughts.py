"""Where a thought begins and ends."""

import pytest

from cipo_jax.verifiers.thoughts import opened_by, without_thinking


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
