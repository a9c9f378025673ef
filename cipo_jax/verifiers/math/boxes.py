r"""Finds the boxes of a text: `\boxed{...}` and `\fbox{...}`, which mark a final answer.

`data/datasets.py` reads them in reference solutions, `answer.py` in completions. Which of the boxes
is the answer is decided there.
"""

import re

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")

# (start, content, end): its command begins at `start`, `text[content:end]` is what it holds, and
# `text[end]` is its closing brace.
Box = tuple[int, int, int]


def find_boxes(text: str) -> tuple[list[Box], int | None]:
    """The complete boxes in the order of their ends, and the start of the content of the last
    unclosed box, or None. The time is linear in the text."""
    stack: list[tuple[int, int, bool]] = []
    boxes = []
    for token in _BRACES.finditer(text):
        if token[0] in ("\\{", "\\}"):
            continue
        if token[0] != "}":
            stack.append((token.start(), token.end(), token[0] != "{"))
        elif stack:
            start, content, is_box = stack.pop()
            if is_box:
                boxes.append((start, content, token.start()))
    unclosed = [content for _, content, is_box in stack if is_box]
    return boxes, unclosed[-1] if unclosed else None
