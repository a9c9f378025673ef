r"""Finds the boxes of a text: `\boxed{...}` and `\fbox{...}`, which mark a final answer.

Two rooms read them: `data/references.py` in reference solutions, `verifiers/math/answer.py` in
completions. This file decides which of the boxes is the answer: the last, together with those
before it that only separators stand between.
"""

import re

from cipo_jax.verifiers.math.lists import by_name

_BARE_BOX = re.compile(r"\\(?:boxed|fbox)(?:\s+|(?=[0-9+-]))([^\s{}$\\]+)")
_NAME = (  # x, x_1, x_{12}, y', f(2), \theta
    r"(?:(?<![a-zA-Z\\])[a-zA-Z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega)(?![a-zA-Z]))"
    r"(?:_(?:[a-zA-Z0-9]|\{[a-zA-Z0-9]{1,5}\}))?'?(?:\([a-zA-Z0-9,]{1,9}\))?"
)
_BETWEEN_BOXES = re.compile(
    rf"(?:[\s$,;&]|\\[()\[\],;\\]|\\q?quad|\\text\{{|\}}|\band\b|\bor\b|{_NAME}\s*=){{0,40}}"
)
_NAME_BEFORE = re.compile(rf"({_NAME})\s*=\s*$")
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


def boxed_answer(text: str, whole_only: bool = True) -> str | None:
    """What is in the last boxes; "" if one of them is empty, None if there is no box.

    Args:
      whole_only: False takes a box that is never closed, up to the end of its line, where there is
        no complete one.
    """
    boxes, unclosed = find_boxes(text)
    if boxes:
        return _joined_last_boxes(text, boxes)
    if unclosed is not None:
        return None if whole_only else clean(line_at(text, unclosed))
    bare = _BARE_BOX.findall(text)
    return clean(bare[-1]) if bare else None


def line_at(text: str, start: int) -> str:
    """What follows `start` up to the end of its line, blank lines before it skipped."""
    return text[start:].lstrip().split("\n", 1)[0]


def clean(answer: str) -> str:
    """`answer` without the marks around it; "" if nothing is left."""
    for _ in range(3):  # a box in a box in a box
        for _ in range(2):  # the marks within \( \)
            answer = answer.lstrip(" \t\r\n*_`$").rstrip(" \t\r\n*_`$,;")
            if not answer.endswith(("..", "\\right.")):  # dots mean that a list goes on
                answer = answer.rstrip(" \t\r\n*_`$.,;")
            for mark in ("\\(", "\\)", "\\[", "\\]"):
                answer = answer.removeprefix(mark).removesuffix(mark)
        if not answer.startswith(("\\boxed", "\\fbox")):
            break
        boxes, _ = find_boxes(answer)
        start, content, end = boxes[-1] if boxes else (-1, 0, 0)
        if start != 0 or end != len(answer) - 1:
            break
        answer = answer[content:end]
    return answer.rstrip("\\").strip()


def _joined_last_boxes(text: str, boxes: list[Box]) -> str:
    """The last box, joined with those before it that only separators stand between. A box around
    others takes precedence over them."""
    start, content, end = boxes[-1]
    answers = [(_name_before(text, start), clean(text[content:end]))]
    for start_before, content, end in reversed(boxes[:-1]):
        if end > start:  # inside the box just taken
            continue
        if not _BETWEEN_BOXES.fullmatch(text, end + 1, start):
            break
        start = start_before
        answers.append((_name_before(text, start), clean(text[content:end])))
    answers.reverse()
    if all(name for name, _ in answers):
        in_order = by_name([f"{name}={answer}" for name, answer in answers])
        answers = [("", item.partition("=")[2]) for item in in_order]
    distinct = list(dict.fromkeys(answer for _, answer in answers))
    return "" if "" in distinct else ", ".join(distinct)


def _name_before(text: str, start: int) -> str:
    """The name of x_1 = \\boxed{...}, or ""."""
    found = _NAME_BEFORE.search(text, max(0, start - 40), start)
    return found[1] if found else ""
