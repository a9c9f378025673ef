r"""Reference answers, in all the forms in which data sets give them.

This file decides what a row's answer is as text, the same for training data, benchmarks and
`--mode=verify`. Where the answer is looked up is decided by these. The forms:

    text          a worked solution whose last line ends in "#### x" (GSM8K), or with its result in
                  \boxed{x} or \fbox{x}, counts as x; several boxes with only separators between
                  them are a list. "####" before other lines is a heading
    a number      27.0 is "27"
    a list        of texts or numbers (OlympiadBench), joined with ", "

Dollars around formulas and a full stop at the end are left out. A value that is not finite, or a
text that only says that a value is missing ("nan"), is refused.
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from cipo_jax.types import CipoError
from cipo_jax.verifiers.math.boxes import boxed_answer, find_boxes

_DOLLAR = re.compile(r"(?<!\\)\$")


def reference_answer(where: str, value: Any) -> str:
    """The reference answer that `value` gives.

    Args:
      where: "file:line", for error messages.

    Raises:
      CipoError: it is none of the forms above, or blank.
    """
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return ", ".join(_single(where, item) for item in value)
    return _single(where, value)


def solution_answer(solution: Any) -> str | None:
    """What a worked solution says its answer is; None if it does not say it by a mark."""
    if not isinstance(solution, str):
        return None
    answer = worked_answer(solution)
    return None if answer == solution else answer


def worked_answer(text: str) -> str:
    """x of a text whose last line ends in "#### x", or of its last boxes; else the text itself."""
    _, hashes, end = text.rstrip().rpartition("####")
    if hashes and "\n" not in end and not find_boxes(end)[0]:
        return end.strip()
    answer = boxed_answer(text)
    boxes, unclosed = find_boxes(text)
    if not answer or (unclosed is not None and boxes and unclosed > max(boxes)[0]):
        return text  # the last box is cut
    return answer


def checked_text(where: str, field: str, value: Any) -> str:
    """`value` if it is a text that is not blank and can be written.

    Raises:
      CipoError: it is not.
    """
    if not isinstance(value, str):
        raise CipoError(f"{where}: {field}: got {shown(value)}, wanted text")
    if not value.strip():
        raise CipoError(f"{where}: {field}: got an empty text, wanted one that says something")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CipoError(f"{where}: {field}: holds half of a surrogate pair: {error}") from error
    return value


def shown(value: object) -> str:
    """A value and its type on one short line, for error messages."""
    text = re.sub(r"\s+", " ", repr(value))
    return f"{text if len(text) <= 40 else text[:40] + '...'} ({type(value).__name__})"


def _single(where: str, value: Any) -> str:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CipoError(f"{where}: answer: got {value}, wanted a finite number or text")
        # Of a large number, the digits that were written and not those of the nearest float.
        return str(int(Decimal(repr(value)))) if value.is_integer() else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = checked_text(where, "answer", value)
    if text.strip().lower() == "nan":
        raise CipoError(f"{where}: answer: got {value!r}, wanted a finite number or text")
    answer = worked_answer(text).strip()
    if len(_DOLLAR.findall(answer)) % 2 == 0:  # around formulas, not a price
        answer = _DOLLAR.sub("", answer).strip()
    if answer.endswith(".") and not answer.endswith(("..", "\\right.", "\\left.")):
        answer = answer[:-1].rstrip()
    return checked_text(where, "answer", answer)
