r"""What an equation says the answer is: that of `x = 5` is 5, and `2x = 10` is still to be solved.

This file decides which member of an equation is the answer, and which equations give none. When
two equations in several variables are the same is decided in `expressions.py`.
"""

import re

from cipo_jax.verifiers.math.evaluated import is_constant
from cipo_jax.verifiers.math.lists import is_list, split_top_level
from cipo_jax.verifiers.math.quantity import read_quantity
from cipo_jax.verifiers.math.spelling import GREEK_NAMES, compact, matching, normalise

EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)|\\equiv(?![a-zA-Z])")
_NAME = re.compile(r"(?:\\[a-zA-Z]+(?![a-zA-Z])|[a-zA-Z])(?:_\{[^{}]*\}|')?(?:\([^()=]*\))?")
_NAMES = re.compile(rf"{_NAME.pattern}|\((?:{_NAME.pattern},?)+\)|[A-Z]{{2,3}}")
_TOKEN = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")
_LETTERS = frozenset((*(f"\\{name}" for name in GREEK_NAMES.split()), "\\ell"))
_WORD = re.compile(r"(?<![a-zA-Z0-9\\])(?=[A-Za-z]*[aeiou])[A-Za-z]{4}")
_OPERATORS = re.compile(r"\\(?:max|min|lim|sum|prod|i*int|gcd|lcm|det|deg|dim)(?![a-zA-Z])")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_OF_UNKNOWN = re.compile(
    r"^ ?-|[0-9^!]|\\(?:sqrt|l[gn]|log|exp|arc[a-z]+|lfloor|lceil)(?![a-zA-Z])"
)
_ONE_NAME = re.compile(
    r"(?:\\(?:angle|triangle|bar|mathbb|Delta|\|) ?)*(?:\{TOKEN\}|TOKEN)'*(?: ?\\\|)?|\(TOKEN\)"
    r"|\|(?:[A-Zz]|\{[a-zA-Z]\})\|".replace("TOKEN", rf"(?:{_TOKEN.pattern})")
)
_CALL = re.compile(r"([a-zA-Z])\}?'* ?\(")  # f( of f(3)
_FORMULA = re.compile(r"\$+([^$]+)\$+|\\[(\[](.+?)\\[)\]]", re.S)
_MAX_QUESTION = 20_000  # characters
_MEMBERSHIP = re.compile(r"[a-zA-Z] ?\\in(?![a-zA-Z])(?! ?\\mathbb\{R\} ?[:|\\])")


def right_hand_sides(ours: str, gold: str, question: str) -> tuple[str, str]:
    """Removes `x =` if only one side has it or both have the same. Of a chain of equations the last
    member counts, of an approximation the side that is written like the reference.

    Args:
      question: as it was asked: the value of a formula of it, say of x^2, may be the answer.
    """
    if "\\approx" in ours and "\\approx" not in gold:
        exact, _, rounded = ours.partition("\\approx")
        is_named = _is_name(exact) or not exact.strip()
        ours = rounded if is_named or re.fullmatch(r"[^a-zA-Z\\]*\.[0-9]+\D*", gold) else exact
    ours, gold = (_MEMBERSHIP.sub("", side, count=1).strip() for side in (ours, gold))
    if any(is_list(side) for side in (ours, gold)):
        return ours, gold  # the items of lists are unwrapped one by one
    our_parts = split_top_level(ours, EQUALS)
    gold_parts = split_top_level(gold, EQUALS)
    if len(our_parts) > 1 and len(gold_parts) == 1:
        first, last = our_parts[0], our_parts[-1]
        if _is_name(last) and len(our_parts) == 2:  # 5 = x
            return our_parts[0], gold
        is_evaluated = len(our_parts) > 2 or not _is_constant(gold)  # 2ab = 2(3)(4) = 24
        if (is_evaluated and len(_letters(first)) > 1) or _is_asked(first, question):
            return last, gold
    elif len(gold_parts) == 2 and _is_name(gold_parts[0]):
        if len(our_parts) == 1:
            return ours, gold_parts[1]
        if compact(our_parts[0]) == compact(gold_parts[0]):
            return our_parts[-1], gold_parts[1]
        if len(our_parts) == 2 and compact(our_parts[1]) == compact(gold_parts[0]):  # 5 = x
            return our_parts[0], gold_parts[1]
    return ours, gold


def is_unsolved_equation(ours: str, gold: str) -> bool:
    """Is the reference a value of its variable, as x = 3, and the answer an equation for it, as
    2x = 6? Both have lost what `right_hand_sides` removes."""
    name, *values = split_top_level(gold, EQUALS)
    if len(values) != 1 or not _is_name(name):
        return False
    if not _is_constant(values[0]):
        return False
    sides = split_top_level(ours, EQUALS)
    return len(sides) > 1 and not any(map(_is_name, sides))


def _is_name(side: str) -> bool:
    return _NAMES.fullmatch(compact(side)) is not None


def _is_constant(value: str) -> bool:
    return read_quantity(value) is not None or is_constant(value)


def _is_asked(side: str, question: str) -> bool:
    """May the value of `side` be what was asked for? Not if it is an expression in one variable, or
    one with numbers, which make an equation for the variables: -x, 2xy, x^2+y^2. But a formula of
    the question may be."""
    if not _letters(side) or _WORD.search(side) or _OPERATORS.search(side):
        return True
    if _TRIGONOMETRIC.search(side):
        is_named = not re.search("[a-z]", re.sub(r"\\[a-zA-Z]+", "", side))  # of an angle
    else:
        bare = _without_arguments(side)
        is_named = not _OF_UNKNOWN.search(bare) and (
            len(_letters(bare)) > 1 or _ONE_NAME.fullmatch(compact(bare)) is not None
        )
    if is_named:
        return True
    formulas = _FORMULA.findall(question[:_MAX_QUESTION])
    return any(compact(normalise(a or b)) == compact(side) for a, b in formulas)


def _letters(side: str) -> set[str]:
    """The variables, as far as can be seen."""
    return {t for t in _TOKEN.findall(side) if not t.startswith("\\") or t in _LETTERS}


def _without_arguments(side: str) -> str:
    """f for f(3), x for x_{1}; but x(x+1) is a product."""
    side = re.sub(r"_\{[^{}]*\}", "", side)
    position = 0
    while opening := _CALL.search(side, position):
        closing = matching(side, opening.end() - 1)
        arguments = side[opening.end() : closing]
        position = opening.end()
        if not re.search(rf"{opening[1]}(?! ?\()", arguments):
            side = side[: position - 1] + side[closing + 1 :]
            position -= 1
    return side
