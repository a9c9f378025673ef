r"""Where a completion states its final answer, and whether that answer is right.

This file decides what counts as the answer of a completion (`extract_answer`) and which verdict it
gets (`verify_math`). When two answers are equal is decided in `equality.py`; time and memory are
limited by the worker's process.

Rules by which an answer is found; the caller says which apply, and in what order:

    boxed         the last complete `\boxed{}` or `\fbox{}` (boxes with only separators between
                  them are one list, so that `\boxed{1} or \boxed{2}` cannot pass for 2); else a
                  box that is never closed, up to the end of its line; else `\boxed x`
    hashes        the line after the last "####"
    final_answer  after the last "final answer is" or "Final answer:", a formula or the rest of the
                  sentence
    answer        likewise after "answer is" or "Answer:"; else a last line "A: x"
    last_number   the last number in the text, whatever it means; only by request, since it also
                  rewards completions that never say what their answer is
"""

import re
from collections.abc import Callable, Sequence

from cipo_jax.types import Outcome, Verdict
from cipo_jax.verifiers.math.boxes import Box, find_boxes
from cipo_jax.verifiers.math.equality import RefusedError, answers_equal
from cipo_jax.verifiers.math.limits import MAX_CHARS
from cipo_jax.verifiers.math.quantity import Tolerance

_THINK = re.compile(r"<(/?)think>")
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$\\]+)")
_BETWEEN_BOXES = re.compile(r"(?:[\s$,;&]|\\[()\[\],;]|\\q?quad|\\text\{|\}|\band\b|\bor\b){0,40}")
_FINAL_ANSWER, _ANSWER = (
    re.compile(rf"(?i)\b{words}\b[*_]*\s*(?:is\b|:)[*_]*\s*:?[*_]*\s*")
    for words in (r"final\s+answer", "answer")
)
_LAST_LINE = re.compile(r"\s*A:(.+)")
_INLINE_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
# A sign, but no minus between two terms; thousands separators; decimals or a fraction; percent.
_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<![)}\]])[-−])?\$?"
    r"(?:\d+(?:(?:,|\{,\})\d{3}(?!\d))*(?:\.\d+)?|\.\d+)(?:/\d+)?%?"
)
DEFAULT_RULES = ("boxed", "hashes", "final_answer", "answer")


def extract_answer(text: str, rules: Sequence[str] = DEFAULT_RULES) -> str | None:
    """The final answer as written, or None if there is none.

    The first of the `rules` (names in `RULES`) that finds its mark decides, even if nothing follows
    it. Thinking blocks are skipped; inside an open one there is no answer yet.
    """
    text = without_thinking(text)
    found = (RULES[rule](text) for rule in rules)
    return next((answer for answer in found if answer is not None), None) or None


def verify_math(
    text: str,
    answer: str,
    rules: Sequence[str] = DEFAULT_RULES,
    question: str = "",
    tolerance: Tolerance | None = None,
) -> Verdict:
    """Judges the completion `text` against the reference `answer`.

    Args:
      question: what is copied from it is no answer; "" for none.
      tolerance: as in `answers_equal`.

    The outcome is CORRECT, WRONG, or NO_ANSWER; `seconds` is left 0 for the caller to fill. The
    answer is held back from the expression parser when it is too large or wild; `detail` says so.
    """
    extracted = extract_answer(text, rules)
    if extracted is None:
        return Verdict(Outcome.NO_ANSWER, detail=f"no answer found by {', '.join(rules)}")
    try:
        outcome = (
            Outcome.CORRECT
            if answers_equal(extracted, _clean(answer), question, tolerance)
            else Outcome.WRONG
        )
    except RefusedError as error:
        return Verdict(Outcome.WRONG, extracted[:MAX_CHARS], str(error))
    return Verdict(outcome, extracted)


def without_thinking(text: str) -> str:
    """`text` without its thinking blocks; the prompt may have opened the first one."""
    kept, start, is_open = [], 0, False
    for tag in _THINK.finditer(text):
        if not tag[1]:  # <think>
            if not is_open:
                kept.append(text[start : tag.start()])
            is_open = True
        else:
            if not is_open:  # opened in the prompt: all text before it was thinking
                kept.clear()
            is_open, start = False, tag.end()
    return "".join(kept) if is_open else "".join(kept) + text[start:]


def _boxed(text: str) -> str | None:
    boxes, unclosed = find_boxes(text)
    if boxes:
        return _joined_last_boxes(text, boxes)
    if unclosed is not None:
        return _clean(_line_at(text, unclosed))
    bare = _BARE_BOX.findall(text)
    return _clean(bare[-1]) if bare else None


def _after_hashes(text: str) -> str | None:
    _, marker, rest = text.rpartition("####")
    return _clean(_line_at(rest, 0)) if marker else None


def _after_answer(text: str) -> str | None:
    announced = _announced_last(_ANSWER, text)
    if announced is not None:
        return announced
    last_line = _LAST_LINE.fullmatch(text.rstrip().rpartition("\n")[2])
    return _clean(last_line[1]) if last_line else None


def _last_number(text: str) -> str | None:
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


RULES: dict[str, Callable[[str], str | None]] = {
    "boxed": _boxed,
    "hashes": _after_hashes,
    "final_answer": lambda text: _announced_last(_FINAL_ANSWER, text),
    "answer": _after_answer,
    "last_number": _last_number,
}


def _line_at(text: str, start: int) -> str:
    """What follows `start` up to the end of its line, blank lines before it skipped."""
    return text[start:].lstrip().split("\n", 1)[0]


def _joined_last_boxes(text: str, boxes: list[Box]) -> str:
    """The last box, joined with boxes before it if only separators are between them. A box around
    others takes precedence over them."""
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
    return "" if "" in distinct else ", ".join(distinct)


def _announced_last(announcement: re.Pattern[str], text: str) -> str | None:
    """What the last announcement announces: a formula, or the rest of its sentence."""
    ends = [match.end() for match in announcement.finditer(text)]
    if not ends:
        return None
    rest = text[ends[-1] :]
    if formula := _INLINE_MATH.match(rest):
        return _clean(next(g for g in formula.groups() if g))
    return _clean(re.split(r"\n|\.(?=\s|$)", rest, maxsplit=1)[0])


def _clean(answer: str) -> str:
    """`answer` without the marks around it; "" if nothing is left."""
    for _ in range(3):  # a box in a box in a box
        for _ in range(2):  # the marks within \( \)
            answer = answer.lstrip(" \t\r\n*_`$").rstrip(" \t\r\n*_`$.,;")
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
