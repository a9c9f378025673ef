r"""Are two written answers equal?

This file decides how answers compare, in this order: the same normal form; numbers; lists, tuples,
intervals and sets, item by item; choices, times and words; and, through math-verify, the remaining
expressions. math-verify (with SymPy) is imported only when it is needed, and sees only text that is
small and tame. It does not limit time: some short expressions keep a simplifier busy for hours, so
the caller must be able to kill the process.

Rules where graders differ:
  * Decimals are exact, but what has no finite decimal (1/3, \pi) equals a decimal within a relative
    distance of 1e-6.
  * 50%, 50 and 1/2 are equal when exactly one side has the percent sign.
  * A unit or a number base may be missing, a unit may be unknown; two different known ones (cm, m)
    are not equal.
  * `1,234` is a number, `1, 234` a list. Bare lists and {...} are unordered; (...) and [...] are
    ordered, and their brackets count. A bare list may stand for a tuple, in its order.
  * `x = 5` equals 5; `2x = 5` does not, nor do `x > 5` or `5 or 6`.
  * If the reference is a plain number, an answer with sums or products to compute is wrong: else
    copying the question `12+7*3` into the box would earn the reward.
"""

import logging
import re
from typing import Any

from cipo_jax.verifiers.math.quantity import (
    RELATIVE_TOLERANCE,
    compact,
    normalise,
    quantities_equal,
    read_quantity,
    split_unit,
)

MAX_CHARS = 1_000  # of an answer that is compared by meaning
_MAX_DEPTH = 12  # nested brackets
_MAX_ITEMS = 32  # of a list
_MAX_DIGITS = 4  # of an exponent, of the argument of a factorial or binomial

_CHOICE = re.compile(r"\(?([A-J])\)?|\(([A-J])\) ?\S.*|([A-J])[).:] ?\S.*")
_CHOICE_BEFORE_VALUE = re.compile(r"\([A-E]\) ?(?=[^\s(+\-*/^!])")
_TEXT = re.compile(r"[A-Za-z][A-Za-z .,'\-]*")
_TIME = re.compile(r"([0-9]{1,2})(?::([0-9]{2}))? ?(?:([ap])\.? ?m\.?)?", re.I)
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)")
_NAME = re.compile(r"(?:\\[a-zA-Z]+(?![a-zA-Z])|[a-zA-Z])(?:_\{[^{}]*\}|')?(?:\([^()=]*\))?")
_NAMES = re.compile(rf"{_NAME.pattern}|\((?:{_NAME.pattern},?)+\)|[A-Z]{{2,3}}")
_ARITHMETIC = re.compile(
    r"[+*÷]|[0-9a-zA-Z)}\]!]-|/|\\(?:cdot|times|div|pm|sum|prod|int)(?![a-z])|[0-9)}]\(|\)[0-9]"
)
_SEPARATOR = re.compile(r",|;|\bor\b|\band\b")
_BARE_SEPARATOR = re.compile(r",(?![0-9]{3}(?![0-9]))|;|\bor\b|\band\b")
_MEMBERSHIP = re.compile(r"[a-zA-Z] ?\\in(?![a-zA-Z])")
_RELATION = re.compile(r"[<>]|\\[lg][et]?(?![a-zA-Z])")


class RefusedError(Exception):
    """The answer may not be given to the expression parser; the message says why."""


def answers_equal(ours: str, gold: str) -> bool:
    """Does the answer `ours` equal the reference `gold`?

    Raises:
      RefusedError: `ours` is not literally the reference, and too large or wild to look further.
    """
    if ours.strip() == gold.strip():
        return True
    if len(ours) > MAX_CHARS:
        raise RefusedError(f"answer longer than {MAX_CHARS} characters")
    if _depth(ours) > _MAX_DEPTH:
        raise RefusedError(f"brackets nested deeper than {_MAX_DEPTH}")
    return _equal(normalise(ours), normalise(gold))


def _equal(ours: str, gold: str) -> bool:
    """`answers_equal` for normal forms."""
    if compact(ours) == compact(gold):
        return True
    ours, gold = _right_hand_sides(ours, gold)
    our_quantity, gold_quantity = read_quantity(ours), read_quantity(gold)
    if gold_quantity and our_quantity:
        return quantities_equal(our_quantity, gold_quantity)
    for compare in (_lists_equal, _words_equal):
        if (verdict := compare(ours, gold)) is not None:
            return verdict
    if _EQUALS.search(ours) and not _EQUALS.search(gold):
        return False  # 2x = 5 does not say that the answer is 5
    if gold_quantity and _CHOICE_BEFORE_VALUE.match(ours):
        return _equal(_CHOICE_BEFORE_VALUE.sub("", ours, count=1), gold)
    ours, our_unit, _ = split_unit(ours, any_word=False)
    gold, gold_unit, _ = split_unit(gold, any_word=False)
    if our_unit and gold_unit and our_unit != gold_unit:
        return False
    if gold_quantity and _ARITHMETIC.search(compact(ours)):
        raise RefusedError("arithmetic left to be carried out")
    return compact(ours) == compact(gold) or _expressions_equal(ours, gold)


def _right_hand_sides(ours: str, gold: str) -> tuple[str, str]:
    """Removes `x =` if only one side has it or both have the same. Of a chain of equations the last
    member counts, of an approximation the side that is written like the reference."""
    if "\\approx" in ours and "\\approx" not in gold:
        exact, _, rounded = ours.partition("\\approx")
        is_named = _NAMES.fullmatch(compact(exact)) or not exact.strip()
        ours = rounded if is_named or re.fullmatch(r"[^a-zA-Z\\]*\.[0-9]+\D*", gold) else exact
    ours, gold = (_MEMBERSHIP.sub("", side, count=1).strip() for side in (ours, gold))
    if any(len(_split_top_level(side, _BARE_SEPARATOR)) > 1 for side in (ours, gold)):
        return ours, gold  # the items of lists are unwrapped one by one
    our_parts = _split_top_level(ours, _EQUALS)
    gold_parts = _split_top_level(gold, _EQUALS)
    if len(our_parts) > 1 and len(gold_parts) == 1:
        first, last = compact(our_parts[0]), our_parts[-1]
        if _NAMES.fullmatch(compact(last)) and len(our_parts) == 2:  # 5 = x
            return our_parts[0], gold
        letters = set(re.findall(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", first)))
        if _NAMES.fullmatch(first) or len(letters) != 1 or not re.search("[0-9]", first):
            return last, gold
    elif len(gold_parts) == 2 and _NAMES.fullmatch(compact(gold_parts[0])):
        if len(our_parts) == 1:
            return ours, gold_parts[1]
        if compact(our_parts[0]) == compact(gold_parts[0]):
            return our_parts[-1], gold_parts[1]
    return ours, gold


def _words_equal(ours: str, gold: str) -> bool | None:
    """Compares choices, times of day and words; None if the reference is none of these."""
    if re.fullmatch(r"\(?[A-J]\)?", gold):
        choice = _CHOICE.fullmatch(ours)
        if choice is None:
            return False
        others = re.findall(r"\b[A-J]\b", ours)
        return gold.strip("()") == next(g for g in choice.groups() if g) and len(others) == 1
    time = _TIME.fullmatch(gold)
    if time and (time[2] or time[3]):
        our_time = _TIME.fullmatch(ours)
        return our_time is not None and _clock(our_time) == _clock(time)
    if _TEXT.fullmatch(gold) and re.search("[A-Za-z]{3}", gold):
        return _letters(ours) == _letters(gold)
    return None


def _clock(time: re.Match[str]) -> tuple[int, int, str]:
    return int(time[1]), int(time[2] or 0), (time[3] or "").lower()


def _letters(text: str) -> str:
    """`text` as words compare: without case, spaces and punctuation."""
    return re.sub(r"[\s.,'\"\-]", "", text).casefold()


def _lists_equal(ours: str, gold: str) -> bool | None:
    """Compares tuples, intervals, sets and bare lists; None if neither side is one."""
    our_brackets, our_items = _items(ours)
    gold_brackets, gold_items = _items(gold)
    if len(our_items) == len(gold_items) == 1:
        is_list = our_brackets or gold_brackets
        return _equal(our_items[0], gold_items[0]) if is_list else None
    if len(our_items) != len(gold_items) or len(gold_items) > _MAX_ITEMS:
        # An interval may still equal an inequality. A list never equals a single number.
        return None if _RELATION.search(ours + gold) else False
    unordered = ("", "{}")
    if gold_brackets in unordered and our_brackets in unordered:
        named = any("=" in item for item in gold_items)
        if not named or all("=" in item for item in our_items):
            return _match_unordered(our_items, gold_items)
    elif our_brackets != gold_brackets and {our_brackets, gold_brackets} != {"", "()"}:
        return False
    return all(_equal(o, g) for o, g in zip(our_items, gold_items, strict=True))


def _match_unordered(ours: list[str], gold: list[str]) -> bool:
    left = list(ours)
    for item in gold:
        found = next((i for i, candidate in enumerate(left) if _matches(candidate, item)), None)
        if found is None:
            return False
        del left[found]
    return True


def _matches(ours: str, gold: str) -> bool:
    try:
        return _equal(ours, gold)
    except RefusedError:  # it may still equal another item literally
        return False


def _items(normal: str) -> tuple[str, list[str]]:
    r"""The brackets and the items of a list; ("", [normal]) if it is none. \pm gives two items."""
    text = normal.replace("\\{", "\\lbrace ").replace("\\}", "\\rbrace ").strip()
    brackets = ""
    if text.startswith("\\lbrace") and text.endswith("\\rbrace") and text.count("\\lbrace") == 1:
        brackets, text = "{}", text[len("\\lbrace") : -len("\\rbrace")]
    elif text[:1] in ("(", "[") and _matching(text, 0) == len(text) - 1 and text[-1] in ")]":
        brackets, text = text[0] + text[-1], text[1:-1]
    expanded = []
    for item in _split_top_level(text, _SEPARATOR if brackets else _BARE_SEPARATOR):
        if item.count("\\pm") == 1:
            expanded += [item.replace("\\pm", sign).strip("+ ") for sign in "+-"]
        elif item:  # "1, 2, and 3" has an empty one
            expanded.append(item)
    if len(expanded) <= 1 and brackets != "{}" and not (brackets == "()" and expanded):
        return "", [normal]
    return brackets, expanded


def _split_top_level(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of `text` between the separators that stand outside brackets."""
    parts = []
    depth = start = position = 0
    for match in separator.finditer(text):
        between = text[position : match.start()]
        depth += sum(map(between.count, "([{")) - sum(map(between.count, ")]}"))
        position = match.end()
        if depth == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [*parts, text[start:].strip()]


def _matching(text: str, start: int) -> int:
    """The index of the bracket that closes `text[start]`, or len(text). Any kind closes any, as
    in half-open intervals."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    return len(text)


# ----------------------------------------------------------------------- expressions: math-verify

_EXPONENT = re.compile(r"(?:\^|\*\*)[({\s+-]*([0-9]+)")
_FACTORIAL = re.compile(r"([0-9]+) ?!")


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _refusal(normal: str) -> str:
    """Why `normal` is not to be parsed, or "". Powers of powers, factorials and binomials make
    numbers of any size out of a few characters."""
    if any(len(m[1]) > _MAX_DIGITS for m in _EXPONENT.finditer(normal)):
        return f"an exponent of more than {_MAX_DIGITS} digits"
    if _has_numeric_tower(normal):
        return "a power in the exponent of a power"
    variables = re.search("[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", normal))
    if re.search(r"![)}\]\s]*!", normal) or (re.search(r"[)}\]] ?!", normal) and not variables):
        return "a factorial of an expression"
    if len(re.findall(r"\^\{?-?[0-9]{3}", normal)) > 1 and re.search(r"[)}\]]\^", normal):
        return "a large power of a large power"
    arguments = [m[1] for m in _FACTORIAL.finditer(normal)]
    if re.search(r"binom|choose|[Gg]amma", normal):
        arguments += re.findall("[0-9]+", normal)
    if any(len(digits) > _MAX_DIGITS for digits in arguments):
        return f"a factorial or binomial of more than {_MAX_DIGITS} digits"
    return ""


def _has_numeric_tower(normal: str) -> bool:
    """Is there a power whose exponent is itself a power of numbers? 2^{n^2} is harmless: it stays
    a symbol."""
    for caret in re.finditer(r"\^|\*\*", normal):
        start = caret.end()
        if normal[start : start + 1] in ("{", "("):
            end = _matching(normal, start)
            exponent, after = normal[start + 1 : end], normal[end + 1 :].lstrip()
        else:
            exponent = re.match(r"[+-]?[0-9.]*", normal[start:])[0]  # type: ignore[index]
            after = normal[start + len(exponent) :].lstrip()
        if after.startswith(("^", "**")):
            return True
        if re.search(r"\^|\*\*", exponent) and not re.search("[a-z]", exponent):
            return True
    return False


def _expressions_equal(ours: str, gold: str) -> bool:
    """Mathematical equality of two expressions, by math-verify.

    Raises:
      RefusedError: `ours` could be too costly to parse.
    """
    if reason := _refusal(ours):
        raise RefusedError(reason)
    import math_verify  # half a second, and only hard answers need it

    # It warns that its own time limit is off: SIGALRM works in the main thread only, and does not
    # interrupt what hangs.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    reference, answer = _parse(gold), _parse(ours)
    if reference is None or answer is None:
        return False
    if (numeric := _constants_equal(answer, reference)) is not None:
        return numeric
    if _have_other_variables(answer, reference):
        return False
    return math_verify.verify(reference, answer, allow_set_relation_comp=True, timeout_seconds=None)


def _parse(normal: str) -> Any | None:
    """The SymPy object that math-verify reads in `normal`, as LaTeX; None if it cannot."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # Its unit removal is off: it takes the letters of 5m and 3t for units.
    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none"
    )
    parsed = parse(
        f"${normal}$",
        [LatexExtractionConfig(normalization_config=rules)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return parsed[0] if parsed else None


def _constants_equal(ours: Any, gold: Any) -> bool | None:
    """Compares two constants by value, with 30 digits; None if one is not a constant.

    math-verify rounds to six places, which makes all small numbers equal.
    """
    import sympy

    if not all(isinstance(side, sympy.Expr) and side.is_number for side in (ours, gold)):
        return None
    is_decimal = any(side.has(sympy.Float) for side in (ours, gold))
    tolerance = float(RELATIVE_TOLERANCE) if is_decimal else 1e-20
    try:
        ours_value, gold_value = sympy.N(ours.doit(), 30), sympy.N(gold.doit(), 30)
        if not (ours_value.is_finite and gold_value.is_finite):
            return None
        distance = abs(ours_value - gold_value)
        return bool(distance <= tolerance * max(abs(gold_value), sympy.Float("1e-300")))
    except (TypeError, ValueError, ArithmeticError):
        return None


def _have_other_variables(ours: Any, gold: Any) -> bool:
    """Are two expressions, or two equations, in different variables? Then they need no solving.

    A single symbol may be a word that the other side has as a product of letters.
    """
    import sympy

    comparable = any(
        isinstance(ours, kind) and isinstance(gold, kind)
        for kind in (sympy.Expr, sympy.core.relational.Relational)
    )
    is_word = isinstance(ours, sympy.Symbol) or isinstance(gold, sympy.Symbol)
    return comparable and not is_word and ours.free_symbols != gold.free_symbols
