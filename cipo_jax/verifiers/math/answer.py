r"""Where a completion states its final answer, and whether that answer is right.

This file decides what counts as the answer of a completion (`extract_answer`) and which verdict it
gets (`verify_math`). When two answers are equal is decided in `equality.py`; time and memory are
limited by the worker's process.

Rules by which an answer is found; the caller says which apply, and in what order:

    boxed         the last complete `\boxed{}` or `\fbox{}` (boxes with only separators between
                  them are one list, so that `\boxed{1} or \boxed{2}` cannot pass for 2); else a
                  box that is never closed, up to the end of its line; else `\boxed x`
    hashes        the line after the last "####", unless that only announces an answer
    final_answer  after the last "final answer is" or "Final answer:", or a heading "Final answer"
                  on a line of its own: a formula with its unit (or several with only separators
                  between them, as boxes), or the rest of the sentence
    answer        likewise after "answer is" or "Answer:"; else a last line "A: x"
    last_number   the last number in the text, whatever it means; only by request, since it also
                  rewards completions that never say what their answer is
"""

import re
from collections.abc import Callable, Sequence

from cipo_jax.types import Outcome, Verdict
from cipo_jax.verifiers.math.boxes import boxed_answer, clean, line_at
from cipo_jax.verifiers.math.equality import RefusedError, answers_equal
from cipo_jax.verifiers.math.limits import MAX_CHARS
from cipo_jax.verifiers.math.quantity import Tolerance, split_unit
from cipo_jax.verifiers.math.spelling import normalise
from cipo_jax.verifiers.thoughts import without_thinking

_FINAL_ANSWER, _ANSWER = (
    re.compile(
        rf"(?i)\b{words}\b[*_]*\s*(?:is\b|:)[*_]*\s*:?[*_]*\s*"
        rf"|(?m:^)[ \t#*_]{{1,12}}(?:the[ \t]+)?{words}[ \t*_#]*\n\s*"  # a heading
    )
    for words in (r"final\s+answer", "answer")
)
_HEADING_WORDS = re.compile(r"(?i)[ \t#*_]*(?:the\s+)?(?:final\s+)?answer[ \t*_#:]*\n")
_LAST_LINE = re.compile(r"\s*A:(.+)")
_INLINE_MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_BETWEEN_FORMULAS = re.compile(
    r"(?:\s*(?:[,;/&(]|\bor\b|\band\b|\b(?:either|maybe|perhaps|possibly|also)\b)){1,5}[ \t]*"
)
_OR_NUMBER = re.compile(r"[ \t]+or[ \t]+(?=-?[0-9])")
_UNIT_WORDS = re.compile(r"[ \t]*(\\?%)|[ \t]+([A-Za-z]+(?:[ /][A-Za-z]+){0,3}(?:\^[23])?)")
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

    The outcome is CORRECT, WRONG, or NO_ANSWER; the caller fills in `seconds`. An answer that is
    too large or wild for the expression parser is WRONG; `detail` says so.
    """
    extracted = extract_answer(text, rules)
    if extracted is None:
        return Verdict(Outcome.NO_ANSWER, detail=f"no answer found by {', '.join(rules)}")
    try:
        outcome = (
            Outcome.CORRECT
            if answers_equal(extracted, clean(answer), question, tolerance)
            else Outcome.WRONG
        )
    except RefusedError as error:
        return Verdict(Outcome.WRONG, extracted[:MAX_CHARS], str(error))
    return Verdict(outcome, extracted)


def _boxed(text: str) -> str | None:
    return boxed_answer(text, whole_only=False)


def _after_hashes(text: str) -> str | None:
    _, marker, rest = text.rpartition("####")
    if not marker or _HEADING_WORDS.match(rest):
        return None
    return clean(line_at(rest, 0))


def _after_answer(text: str) -> str | None:
    announced = _announced_last(_ANSWER, text)
    if announced is not None:
        return announced
    last_line = _LAST_LINE.fullmatch(text.rstrip().rpartition("\n")[2])
    return clean(last_line[1]) if last_line else None


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


def _announced_last(announcement: re.Pattern[str], text: str) -> str | None:
    """What the last announcement announces: a formula, or the rest of its sentence."""
    ends = [match.end() for match in announcement.finditer(text)]
    if not ends:
        return None
    rest = text[ends[-1] :].removeprefix("}")  # \text{Answer: }
    if formula := _INLINE_MATH.match(rest):
        return _joined_formulas(rest, formula)
    return clean(re.split(r"\n|\.(?=\s|$)", rest, maxsplit=1)[0])


def _joined_formulas(rest: str, formula: re.Match[str]) -> str:
    """A formula with its unit, or joined with those that only separators stand before, as boxes
    are: `$1$ or $2$` cannot pass for 1."""
    formulas, end = [], formula.start()
    following: re.Match[str] | None = formula
    while following:
        formulas.append(clean(next(g for g in following.groups() if g)))
        end = following.end()
        between = _BETWEEN_FORMULAS.match(rest, end)
        following = _INLINE_MATH.match(rest, between.end()) if between else None
    if (alternative := _OR_NUMBER.match(rest, end)) and (
        number := _NUMBER.match(rest, alternative.end())
    ):
        formulas.append(number[0])
    if len(formulas) > 1:
        return ", ".join(dict.fromkeys(formulas))
    return formulas[0] + _unit_at(rest, end)


def _unit_at(rest: str, start: int) -> str:
    r"""The unit, or the word for a power of ten, that follows a formula, in \text{}; else ""."""
    found = _UNIT_WORDS.match(rest, start)
    if found is None:
        return ""
    if found[1]:
        return "\\%"
    words = found[2]
    if words.startswith("in "):  # $5$ in total
        return ""
    while words:
        unit = rf"\text{{ {words}}}" if len(words) > 1 else rf"\text{{{words}}}"
        if split_unit(normalise(f"1{unit}"), any_word=False)[1:] != (None, 0):
            return unit
        words = words.rpartition(" ")[0]
    return ""
