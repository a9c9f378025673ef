r"""Mathematical equality of two expressions, which math-verify reads as LaTeX.

This file decides how SymPy's objects compare: constants and functions by value (`exact.py`),
matrices entry by entry, and the rest (equations, sets, undefined functions) as math-verify does.
What may be parsed at all is decided in `limits.py`. Importing this file takes half a second.
"""

import logging
import re
from typing import Any

import math_verify
import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig
from sympy.core.function import AppliedUndef

from cipo_jax.verifiers.math.exact import (
    TooLargeError,
    constants_equal,
    functions_equal,
    near,
    proportional,
)
from cipo_jax.verifiers.math.quantity import Tolerance

__all__ = ["TooLargeError", "equal"]

# It warns about its own time limit being off: SIGALRM works in no thread but the main one and does
# not interrupt what hangs.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_RELATIONS = (sympy.Eq, sympy.Ne, sympy.core.relational._Inequality)
_MAX_DEGREE = 4
_LETTER = re.compile(r"\\mathbb ?\{[A-Z]\}|\\[a-zA-Z]+|([a-zA-Z])")
_REPLACEMENTS = "jklmnopqrstuvwxyzabc"
_NOT_EVALUATED = (AppliedUndef, sympy.Derivative, sympy.Integral, sympy.Limit, sympy.Sum)


def equal(ours: str, gold: str, tolerance: Tolerance | None = None) -> bool:
    """Are two expressions, in normal form, equal?

    Raises:
      TooLargeError: a number in them has too many digits.
    """
    ours, gold = _with_case(ours, gold)
    reference, answer = _parse(gold), _parse(ours)
    if reference is None or answer is None:
        return False
    return _equal(answer, reference, tolerance)


def _with_case(ours: str, gold: str) -> tuple[str, str]:
    """Both with other letters for the capitals whose small letters occur as well: math-verify makes
    one variable of A and a. Where each side has a single letter, X may stand for x."""
    letters = [{m[1] for m in _LETTER.finditer(side) if m[1]} for side in (ours, gold)]
    if all(len(of_side) == 1 for of_side in letters):
        return ours, gold
    used = set.union(*letters)
    unused = iter([letter for letter in _REPLACEMENTS if not {letter, letter.upper()} & used])
    others = {a: next(unused, a) for a in sorted(used) if a.isupper() and a.lower() in used}

    def replaced(side: str) -> str:
        return _LETTER.sub(lambda m: others.get(m[1], m[0]) if m[1] else m[0], side)

    return replaced(ours), replaced(gold)


def _equal(ours: Any, gold: Any, tolerance: Tolerance | None) -> bool:
    if isinstance(ours, sympy.MatrixBase) and isinstance(gold, sympy.MatrixBase):
        return ours.shape == gold.shape and all(
            _equal(o, g, tolerance) for o, g in zip(ours.flat(), gold.flat(), strict=True)
        )
    if isinstance(ours, sympy.Expr) and isinstance(gold, sympy.Expr):
        if ours.is_number and gold.is_number:
            is_decimal = any(side.has(sympy.Float) for side in (ours, gold))
            verdict = constants_equal(ours, gold, is_decimal)
            if verdict is False and tolerance is not None:
                return near(ours, gold, tolerance)
        elif _names(ours) == _names(gold) and not ours.has(*_NOT_EVALUATED):
            verdict = functions_equal(ours, gold)
        else:
            verdict = None
        if verdict is not None:
            return verdict
    if _have_other_variables(ours, gold):
        return False
    if any(_is_interval(a) and _are_points(b) for a, b in ((ours, gold), (gold, ours))):
        return False  # math-verify takes an open interval for the pair of its end points
    if isinstance(ours, _RELATIONS) and isinstance(gold, _RELATIONS):
        verdict = _relations_equal(ours, gold)
        if verdict is not None:
            return verdict
    return math_verify.verify(gold, ours, allow_set_relation_comp=True, timeout_seconds=None)


def _is_interval(side: Any) -> bool:
    if isinstance(side, sympy.And | sympy.Or):
        return any(map(_is_interval, side.args))
    return isinstance(side, _RELATIONS) and not isinstance(side, sympy.Eq)


def _are_points(side: Any) -> bool:
    return isinstance(side, sympy.FiniteSet | sympy.Tuple) and not any(map(_is_interval, side.args))


def _relations_equal(ours: Any, gold: Any) -> bool | None:
    """Are two equations or inequalities, written as f = 0 and c f = 0, the same up to the number c?
    None: they are not, and may describe the same set in another way."""
    f, g = (side.lhs - side.rhs for side in (ours, gold))
    if isinstance(ours, sympy.Eq) and isinstance(gold, sympy.Eq):
        f, g = (sympy.fraction(sympy.together(side))[0] for side in (f, g))
        same_relation = either_sign = True
    else:
        if type(ours) is not type(gold):  # a < b is b > a
            f = -f
        same_relation = type(ours) in (type(gold), type(gold.reversed))
        either_sign = isinstance(gold, sympy.Ne)
    if same_relation and proportional(f, g, either_sign):
        return True
    # Solving equations of a high degree takes for ever.
    low = all(len(side.free_symbols) == 1 and _degree(side) <= _MAX_DEGREE for side in (f, g))
    return None if low else False


def _degree(expression: Any) -> float:
    """Of a polynomial in one variable; infinite for another expression."""
    (symbol,) = expression.free_symbols
    return sympy.degree(expression, symbol) if expression.is_polynomial(symbol) else float("inf")


def _names(expression: Any) -> set[str]:
    return {symbol.name for symbol in expression.free_symbols}


def _parse(normal: str) -> Any | None:
    """The SymPy object that math-verify reads in `normal`, as LaTeX; None if it cannot."""
    # Its unit removal is off: it takes the letters of 5m and 3t for units.
    rules = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none"
    )
    parsed = math_verify.parse(
        f"${normal}$",
        [LatexExtractionConfig(normalization_config=rules)],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return parsed[0] if parsed else None


def _have_other_variables(ours: Any, gold: Any) -> bool:
    """Are two expressions, or two equations, in different variables? It saves solving for them.

    A lone symbol may be a word that the other side has as a product of letters.
    """
    comparable = any(
        isinstance(ours, kind) and isinstance(gold, kind)
        for kind in (sympy.Expr, sympy.core.relational.Relational)
    )
    is_word = isinstance(ours, sympy.Symbol) or isinstance(gold, sympy.Symbol)
    return comparable and not is_word and ours.free_symbols != gold.free_symbols
