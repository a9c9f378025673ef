r"""Where a completion states its final answer, and whether that answer is right.

This file decides what counts as the answer of a completion (`extract_answer`) and which verdict it
gets (`verify_math`). When two answers are equal is decided in `math_equality.py`; time and memory
are limited in `pool.py`.
"""

import re

from cipo_jax.types import Outcome, Verdict
from cipo_jax.verifiers.math_equality import MAX_CHARS, RefusedError, answers_equal

_THINK = re.compile(r"<(/?)think>")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$\\]+)")
_BETWEEN_BOXES = re.compile(r"(?:[\s$,;&]|\\[()\[\],;]|\\q?quad|\\text\{|\}|\band\b|\bor\b){0,40}")
_ANNOUNCEMENTS = tuple(
    re.compile(rf"(?i)\b{words}\b[*_]*\s*(?:is\b|:)[*_]*\s*:?[*_]*\s*")
    for words in (r"final\s+answer", "answer")
)
_LAST_LINE = re.compile(r"\s*A:(.+)")
_INLINE_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)


def extract_answer(text: str) -> str | None:
    r"""The final answer as written, or None if there is none.

    In this order: the last complete `\boxed{}` or `\fbox{}` (boxes with only separators between
    them are one list, so that `\boxed{1} or \boxed{2}` cannot pass for 2); a box that is never
    closed, up to the end of its line; `#### x`; "final answer is x"; "answer is x", "Answer: x";
    a last line "A: x". Thinking blocks are skipped; inside an open one there is no answer yet.
    """
    text = without_thinking(text)
    boxes, unclosed = _boxes(text)
    if boxes:
        return _joined_last_boxes(text, boxes)
    if unclosed is not None:
        return _clean(text[unclosed:].lstrip().split("\n", 1)[0])
    bare = _BARE_BOX.findall(text)
    if bare:
        return _clean(bare[-1])
    _, marker, rest = text.rpartition("####")
    if marker:
        return _clean(rest.lstrip().split("\n", 1)[0])
    for pattern in _ANNOUNCEMENTS:
        ends = [match.end() for match in pattern.finditer(text)]
        if ends:
            return _announced(text[ends[-1] :])
    last_line = _LAST_LINE.fullmatch(text.rstrip().rpartition("\n")[2])
    return _clean(last_line[1]) if last_line else None


def verify_math(text: str, answer: str) -> Verdict:
    """Judges the completion `text` against the reference `answer`.

    The outcome is CORRECT, WRONG, or NO_ANSWER; `seconds` is left 0 for the caller to fill. The
    answer is held back from the expression parser when it is too large or wild; `detail` says so.
    """
    extracted = extract_answer(text)
    if extracted is None:
        return Verdict(Outcome.NO_ANSWER, detail="no boxed or announced answer")
    try:
        outcome = Outcome.CORRECT if answers_equal(extracted, answer) else Outcome.WRONG
    except RefusedError as error:
        return Verdict(Outcome.WRONG, extracted[:MAX_CHARS], str(error))
    return Verdict(outcome, extracted)


def without_thinking(text: str) -> str:
    """`text` without its thinking blocks; a block may have been opened by the prompt already."""
    kept, start, is_open = [], 0, False
    for tag in _THINK.finditer(text):
        if not tag[1]:  # <think>
            if not is_open:
                kept.append(text[start : tag.start()])
            is_open = True
        else:
            if not is_open:  # opened in the prompt: all that came before was thought
                kept.clear()
            is_open = False
            start = tag.end()
    return "".join(kept) if is_open else "".join(kept) + text[start:]


def _boxes(text: str) -> tuple[list[tuple[int, int, int]], int | None]:
    """Complete boxes as (start, content start, content end) by rising end, in one linear scan;
    then where the content of the last box begins that is not closed."""
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


def _joined_last_boxes(text: str, boxes: list[tuple[int, int, int]]) -> str | None:
    """The last box, with those that only separators part from it. A box around it wins."""
    start, content, end = boxes[-1]
    answers = [_clean(text[content:end])]
    for start_before, content, end in reversed(boxes[:-1]):
        if end > start:  # inside the box just taken
            continue
        if not _BETWEEN_BOXES.fullmatch(text, end + 1, start):
            break
        start = start_before
        answers.append(_clean(text[content:end]))
    distinct = list(dict.fromkeys(reversed(answers)))
    return None if None in distinct else ", ".join(a for a in distinct if a)


def _announced(rest: str) -> str | None:
    """The answer at the start of `rest`: a formula, or the rest of the sentence."""
    formula = _INLINE_MATH.match(rest)
    if formula:
        return _clean(next(g for g in formula.groups() if g))
    return _clean(re.split(r"\n|\.(?=\s|$)", rest, maxsplit=1)[0])


def _clean(answer: str) -> str | None:
    """`answer` without the marks around it; None if nothing is left."""
    for _ in range(3):  # a box in a box in a box
        for _ in range(2):  # the marks within \( \)
            answer = answer.lstrip(" \t\r\n*_`$").rstrip(" \t\r\n*_`$.,;")
            for mark in ("\\(", "\\)", "\\[", "\\]"):
                answer = answer.removeprefix(mark).removesuffix(mark)
        inner, _unclosed = (
            _boxes(answer) if answer.startswith(("\\boxed", "\\fbox")) else ([], None)
        )
        if not inner or inner[-1][0] != 0 or inner[-1][2] != len(answer) - 1:
            break
        answer = answer[inner[-1][1] : inner[-1][2]]
    return answer.rstrip("\\").strip() or None
