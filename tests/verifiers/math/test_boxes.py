import pytest

from cipo_jax.verifiers.math.boxes import find_boxes


@pytest.mark.parametrize(
    ("text", "contents", "unclosed"),
    [
        ("none", [], None),
        (r"\boxed{1} and \fbox{2}", ["1", "2"], None),
        (r"\boxed {\frac{1}{2}}", [r"\frac{1}{2}"], None),
        (r"\boxed{a \boxed{b} c}", ["b", r"a \boxed{b} c"], None),
        (r"\boxed{\left\{1, 2\right. x}", [r"\left\{1, 2\right. x"], None),
        (r"} \boxed{1} }", ["1"], None),
        (r"\boxed{1} then \boxed{2", ["1"], "2"),
        (r"{\boxed{1} then \boxed{{2}", ["1"], "{2}"),
        (r"\boxed 7 \framebox{8}", [], None),
    ],
)
def test_boxes_are_found_by_rising_end(text, contents, unclosed):
    boxes, rest = find_boxes(text)
    assert [text[content:end] for _, content, end in boxes] == contents
    assert all(text.startswith("\\", start) and text[end] == "}" for start, _, end in boxes)
    assert (None if rest is None else text[rest:]) == unclosed
