r"""What an equation says the answer is: that of `x = 5` is 5, and `2x = 10` is still to be solved.

This file decides which member of an equation is the answer, and which equations give none. When
two equations in several variables are the same is decided in `expressions.py`.
"""

import re

from cipo_jax.verifiers.math.evaluated import is_constant
from cipo_jax.verifiers.math.lists import is_list, split_top_level
from cipo_jax.verifiers.math.quantity import read_quantity
from cipo_jax.verifiers.math.spelling import compact

EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)|\\equiv(?![a-zA-Z])")
_NAME = re.compile(r"(?:\\[a-zA-Z]+(?![a-zA-Z])|[a-zA-Z])(?:_\{[^{}]*\}|')?(?:\([^()=]*\))?")
_NAMES = re.compile(rf"{_NAME.pattern}|\((?:{_NAME.pattern},?)+\)|[A-Z]{{2,3}}")
_MEMBERSHIP = re.compile(r"[a-zA-Z] ?\\in(?![a-zA-Z])(?! ?\\mathbb\{R\} ?[:|\\])")


def right_hand_sides(ours: str, gold: str) -> tuple[str, str]:
    """Removes `x =` if only one side has it or both have the same. Of a chain of equations the last
    member counts, of an approximation the side that is written like the reference."""
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
        first, last = compact(our_parts[0]), our_parts[-1]
        if _is_name(last) and len(our_parts) == 2:  # 5 = x
            return our_parts[0], gold
        letters = set(re.findall(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", first)))
        if _NAMES.fullmatch(first) or len(letters) != 1 or not re.search("[0-9]", first):
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
    if read_quantity(values[0]) is None and not is_constant(values[0]):
        return False
    sides = split_top_level(ours, EQUALS)
    return len(sides) > 1 and not any(map(_is_name, sides))


def _is_name(side: str) -> bool:
    return _NAMES.fullmatch(compact(side)) is not None
