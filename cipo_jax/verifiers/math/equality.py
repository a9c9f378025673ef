r"""Are two written answers equal?

This file decides how answers compare, in this order: the same normal form; numbers; times and
dates; sets of reals; lists, tuples, intervals and sets, item by item; choices and words; and the
remaining expressions, which math-verify and SymPy read (`expressions.py`, imported only when it is
needed). These see only text that is small and tame. It does not limit time: some short expressions
keep a simplifier busy for hours, so the caller must be able to kill the process.

Rules where graders differ:
  * Exact values are compared exactly. A decimal is exact too, but what has no finite decimal (1/3,
    \pi) equals a decimal within a relative distance of 1e-6. A benchmark may state a tolerance of
    its own (`Tolerance`).
  * 50%, 50 and 1/2 are equal when exactly one side has the percent sign.
  * A unit, a modulus or a number base may be missing, a unit may be unknown; two different known
    ones (cm, m) are not equal.
  * `1,234` is a number where the reference is one, `1, 234` a list. Bare lists and {...} are
    unordered; (...) and [...] are ordered, and their brackets count. A bare list may stand for a
    tuple, in its order.
  * `x = 5` equals 5; `2x = 5` does not (`equations.py`), nor do `x > 5` or `5 or 6`.
  * An answer has to be worked out as far as the reference, and may not be copied from the question:
    see `evaluated.py`.
"""

import dataclasses
import re

from cipo_jax.verifiers.math import limits
from cipo_jax.verifiers.math.equations import EQUALS, is_unsolved_equation, right_hand_sides
from cipo_jax.verifiers.math.evaluated import is_copied, left_to_do
from cipo_jax.verifiers.math.lists import MAX_ITEMS, by_name, items
from cipo_jax.verifiers.math.moments import moments_equal
from cipo_jax.verifiers.math.quantity import (
    Quantity,
    Tolerance,
    quantities_equal,
    read_quantity,
    split_unit,
    units_agree,
)
from cipo_jax.verifiers.math.solution_sets import (
    connectives_differ,
    interval_and_points,
    is_unsolved,
    sets_equal,
)
from cipo_jax.verifiers.math.spelling import compact, normalise, without_braces

_CHOICE = re.compile(r"\(?([A-J])\)?|\(([A-J])\) ?\S.*|([A-J])[).:] ?\S.*")
_CHOICE_BEFORE_VALUE = re.compile(r"(?:\([A-E]\) ?|[A-E][.)] )(?=[^\s(+\-*/^!])")
_CHOICE_WORD = re.compile(r"(?:option|choice|answer) (?=\(?[A-J]\b)", re.I)
# Another choice; A and I may be words: (B) I only, B. A square.
_OTHER_CHOICE = re.compile(
    r"\b[B-HJ]\b|\([AI]\)|(?<![a-zA-Z])\([a-j]\)|\b[AI][).:]|\bA ?(?:\b(?:and|or)\b|[,;/&])"
    r"|(?:\b(?:or|and)\b|[,;/&]) ?[AI]\b|[).:] ?[AI]$"
)
_LETTER = r"[^\W\d_]"
_TEXT = re.compile(rf"{_LETTER}(?:{_LETTER}|[ .,'\-])*")
_TEXT_AND_NUMBERS = re.compile(rf"{_LETTER}{{3,}}(?: {_LETTER}+| [0-9]+)*")  # Team 3
_SHORT_WORDS = ("no", "ok", "on", "up")  # of other pairs, letters may be factors
_ROMAN = re.compile(r"[IVX]{2,}")
_SET = re.compile(r"[<>]|\\(?:[lg][et]?|cup|cap)(?![a-zA-Z])")


class RefusedError(Exception):
    """The answer does not count or may not be given to the expression parser; the message says
    why."""


def answers_equal(
    ours: str, gold: str, question: str = "", tolerance: Tolerance | None = None
) -> bool:
    """Does the answer `ours` equal the reference `gold`?

    Args:
      question: as it was asked; what is copied from it does not count. "" for none.
      tolerance: within which numbers count as equal, if the benchmark states one.

    Raises:
      RefusedError: `ours` is not literally the reference, and too large or wild to look further, or
        not worked out.
    """
    if ours.strip() == gold.strip():
        return True
    if len(ours) > limits.MAX_CHARS:
        raise RefusedError(f"answer longer than {limits.MAX_CHARS} characters")
    if limits.depth(ours) > limits.MAX_DEPTH:
        raise RefusedError(f"brackets nested deeper than {limits.MAX_DEPTH}")
    return _Comparison(question, tolerance).equal(normalise(ours), normalise(gold))


@dataclasses.dataclass(frozen=True)
class _Comparison:
    """Compares normal forms, under what is known of the problem."""

    question: str
    tolerance: Tolerance | None

    def equal(self, ours: str, gold: str) -> bool:
        """`answers_equal` for normal forms."""
        if compact(ours) == compact(gold):
            return True
        if interval_and_points(ours, gold):
            return False
        ours, gold = right_hand_sides(without_braces(ours), without_braces(gold), self.question)
        if compact(ours) == compact(gold):
            return True
        our_quantity, gold_quantity = read_quantity(ours), read_quantity(gold)
        if gold_quantity and our_quantity:
            return self._numbers_equal(ours, our_quantity, gold, gold_quantity)
        verdict = moments_equal(ours, gold)
        if verdict is None:
            verdict = sets_equal(ours, gold, self._matches)
        if verdict is None and connectives_differ(ours, gold):
            return False
        if verdict is None and is_unsolved(ours, gold):
            raise RefusedError("an inequality is left to be solved")
        if verdict is None and _is_choice(gold) and _words_equal(ours, gold):
            return True  # commas and "and" may stand in the text of a choice
        if verdict is None:
            verdict = self._lists_equal(ours, gold)
        if verdict is None:
            verdict = _words_equal(ours, gold)
        if verdict is not None:
            return verdict
        if EQUALS.search(ours) and not EQUALS.search(gold):
            return False  # 2x = 5 does not say that the answer is 5
        if is_unsolved_equation(ours, gold):
            raise RefusedError("an equation is left to be solved")
        if gold_quantity and _CHOICE_BEFORE_VALUE.match(ours):
            return self.equal(_CHOICE_BEFORE_VALUE.sub("", ours, count=1), gold)
        if gold_quantity:
            raise RefusedError("not a number: something is left to be carried out")
        ours, our_unit, _ = split_unit(ours, any_word=False)
        gold, gold_unit, _ = split_unit(gold, any_word=False)
        if not units_agree(our_unit, gold_unit):
            return False
        return compact(ours) == compact(gold) or self._expressions_equal(ours, gold)

    def _numbers_equal(
        self, ours: str, our_quantity: Quantity, gold: str, gold_quantity: Quantity
    ) -> bool:
        if not quantities_equal(our_quantity, gold_quantity, self.tolerance):
            return False
        # A percent sign may be missing, and is no copy; a percentage may be made of a number.
        signs = "[$£€¥%]" if our_quantity.value == gold_quantity.value else "[$£€¥]"
        ours, gold = (
            re.sub(signs, "", split_unit(side, any_word=True)[0]) for side in (ours, gold)
        )
        self._refuse_copy(ours, gold)
        return True

    def _expressions_equal(self, ours: str, gold: str) -> bool:
        if reason := limits.refusal(ours):
            raise RefusedError(reason)
        if name := left_to_do(ours, gold):
            raise RefusedError(f"a {name} is left to be carried out")
        from cipo_jax.verifiers.math import expressions  # half a second, and only hard answers

        try:
            equal = expressions.equal(ours, gold, self.tolerance)
        except expressions.TooLargeError as error:
            raise RefusedError("a number of too many digits") from error
        if equal:
            self._refuse_copy(ours, gold)
        return equal

    def _refuse_copy(self, ours: str, gold: str) -> None:
        if is_copied(ours, gold, self.question):
            raise RefusedError("copied from the question")

    def _lists_equal(self, ours: str, gold: str) -> bool | None:
        """Compares tuples, intervals, sets and bare lists; None if neither side is one."""
        gold_brackets, gold_items = items(gold)
        our_brackets, our_items = items(ours, len(gold_items))
        if sorted((our_brackets, gold_brackets)) in (["", "{}"], ["{}", "{}"]):
            our_items, gold_items = map(self._distinct, (our_items, gold_items))
        if len(our_items) == len(gold_items) == 1:
            if our_brackets == gold_brackets == "":
                return None
            return self.equal(our_items[0], gold_items[0])
        if len(our_items) != len(gold_items) or len(gold_items) > MAX_ITEMS:
            # A set may still be written otherwise. A list never equals a single number, unless it
            # is that number several times: two boxes with `or` between them.
            repeated = our_brackets == "" and len(gold_items) == 1 < len(our_items) <= MAX_ITEMS
            if repeated and all(self._matches(item, gold) for item in our_items):
                return True
            return None if _SET.search(ours + gold) else False
        unordered = ("", "{}")
        if gold_brackets in unordered and our_brackets in unordered:
            named = any("=" in item for item in gold_items)
            if not named or all("=" in item for item in our_items):
                return self._match_unordered(our_items, gold_items)
        elif our_brackets != gold_brackets and {our_brackets, gold_brackets} != {"", "()"}:
            return False
        if our_brackets == "" and gold_brackets == "()":
            our_items = by_name(our_items)  # y = 1, x = 2 is the point (2, 1)
        return all(self.equal(o, g) for o, g in zip(our_items, gold_items, strict=True))

    def _distinct(self, elements: list[str]) -> list[str]:
        """A set's elements once each."""
        kept: list[str] = []
        for element in elements[: MAX_ITEMS + 1]:
            if not any(self._matches(element, other) for other in kept):
                kept.append(element)
        return kept

    def _match_unordered(self, ours: list[str], gold: list[str]) -> bool:
        left = list(ours)
        for item in gold:
            found = next((i for i, other in enumerate(left) if self._matches(other, item)), None)
            if found is None:
                return False
            del left[found]
        return True

    def _matches(self, ours: str, gold: str) -> bool:
        try:
            return self.equal(ours, gold)
        except RefusedError:  # it may still equal another item literally
            return False


def _words_equal(ours: str, gold: str) -> bool | None:
    """Compares choices and words; None if the reference is none of these."""
    if _is_choice(gold):
        ours = _CHOICE_WORD.sub("", ours, count=1)
        choice = _CHOICE.fullmatch(ours)
        if choice is None:
            return False
        ours_letter = next(group for group in choice.groups() if group)
        rest = ours[ours.index(ours_letter) + 1 :]
        return gold.strip("()") == ours_letter and not _OTHER_CHOICE.search(rest)
    if _ROMAN.fullmatch(gold):
        return ours == gold
    is_text = _TEXT.fullmatch(gold) and re.search(_LETTER + "{3}", gold)
    if is_text or _TEXT_AND_NUMBERS.fullmatch(gold) or _letters(gold) in _SHORT_WORDS:
        return _letters(ours) == _letters(gold)
    return None


def _is_choice(gold: str) -> bool:
    return re.fullmatch(r"\(?[A-J]\)?", gold) is not None


def _letters(text: str) -> str:
    """`text` as words compare: without article, case, spaces and punctuation."""
    return re.sub(r"^(?:an?|the) |[\s.,'\"\-]", "", text.casefold())
