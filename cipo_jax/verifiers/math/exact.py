"""Exact comparison of two SymPy expressions, by value.

This file decides when two constants are the same number, and when two expressions in variables are
the same function. Rational numbers are compared as such, whatever their size. Other constants are
compared to 50 digits more than their own numbers have, so that 1 added to a large number counts.
Only decimals have a tolerance. Nothing here computes a number of more than 2**20 bits, or limits
time. Importing it takes a while: it imports SymPy.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy
from sympy.core.evalf import PrecisionExhausted

from cipo_jax.verifiers.math.quantity import RELATIVE_TOLERANCE, Tolerance, is_finite_decimal

_MAX_BITS = 1 << 20
_MORE_DIGITS = 50
_MAX_DIGITS = 20_000
_POINTS = (  # values of the variables in the order of their names, over and over
    ("2", "3", "5", "4"),
    ("3", "2", "4", "5"),
    ("5/2", "7/3", "9/4", "11/5"),
    ("1/3", "2/5", "3/7", "1/4"),
    ("-1/3", "1/4", "-2/7", "3/8"),
    ("1/2", "-3/5", "2/7", "-1/4"),
    ("-2", "-3", "-5", "-4"),
    ("-7/2", "5/3", "-9/4", "7/5"),
)
_MIN_POINTS = 3  # at which both have a value


class TooLargeError(Exception):
    """A number with more digits than are computed here."""


def constants_equal(
    ours: Any, gold: Any, is_decimal: bool, finite_are_exact: bool = True
) -> bool | None:
    """Are two SymPy expressions without variables the same number? None: cannot be said.

    Args:
      is_decimal: a decimal stands in one of them, so that they may differ by the tolerance,
      finite_are_exact: but not if both have finitely many decimals.

    Raises:
      TooLargeError: a number in them is too large.
    """
    our_fraction, gold_fraction = _rational(ours), _rational(gold)
    if our_fraction is not None and gold_fraction is not None:
        if our_fraction[0] * gold_fraction[1] == gold_fraction[0] * our_fraction[1]:
            return True
        if not is_decimal:
            return False
        a, b = Fraction(*our_fraction), Fraction(*gold_fraction)
        if finite_are_exact and is_finite_decimal(a) and is_finite_decimal(b):
            return False
        return abs(a - b) <= RELATIVE_TOLERANCE * abs(b)
    try:
        ours, gold = ours.doit(), gold.doit()
        if ours.has(sympy.zoo, sympy.nan, sympy.oo) or gold.has(sympy.zoo, sympy.nan, sympy.oo):
            return None
        if is_decimal:
            our_value, gold_value = sympy.N(ours, 30), sympy.N(gold, 30)
            distance = abs(our_value - gold_value)
            return bool(distance <= float(RELATIVE_TOLERANCE) * abs(gold_value))
        digits = _MORE_DIGITS + int((_bits(ours) + _bits(gold)) * math.log10(2))
        if digits > _MAX_DIGITS:
            raise TooLargeError
        return _is_zero(ours - gold, digits)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return None


def functions_equal(ours: Any, gold: Any) -> bool | None:
    """Are two SymPy expressions in the same variables equal wherever both are real? None: cannot be
    said. An i that is one of the variables may also be the imaginary unit.

    Raises:
      TooLargeError: a number in them is too large.
    """
    names = sorted({symbol.name for symbol in ours.free_symbols | gold.free_symbols})
    may_differ = _may_differ(ours, gold)
    ours, gold = _without_floats(ours), _without_floats(gold)
    verdict = _equal_at_points(ours, gold, names, may_differ, _both_real)
    if verdict is not True and "i" in names:
        ours, gold = (_at(side, {"i": sympy.I}) for side in (ours, gold))
        others = [name for name in names if name != "i"]
        if not others:
            return constants_equal(ours, gold, may_differ)
        verdict = _equal_at_points(ours, gold, others, may_differ, lambda *_: True)
    return verdict


def _at(expression: Any, values: dict[str, Any]) -> Any:
    """With values in the place of variables. Two symbols of one name are one variable, whatever
    SymPy assumes of them."""
    found = {s: values[s.name] for s in expression.free_symbols if s.name in values}
    return expression.xreplace(found)


def _equal_at_points(
    ours: Any,
    gold: Any,
    names: list[str],
    may_differ: bool,
    comparable: Callable[[Any, Any], bool],
) -> bool | None:
    compared = 0
    for point in _POINTS:
        values = _values(point, names)
        our_value, gold_value = _at(ours, values), _at(gold, values)
        if not comparable(our_value, gold_value):
            continue
        equal = constants_equal(our_value, gold_value, may_differ, finite_are_exact=False)
        if equal is None:
            continue
        if not equal:
            return False
        compared += 1
    return True if compared >= _MIN_POINTS else None


def _values(point: tuple[str, ...], names: list[str]) -> dict[str, Any]:
    return {
        name: sympy.Rational(point[i % len(point)]) + i // len(point)
        for i, name in enumerate(names)
    }


def proportional(f: Any, g: Any, either_sign: bool) -> bool:
    """Is f a number times g, in the same variables? The number is not 0, and without `either_sign`
    positive.

    Raises:
      TooLargeError: a number in them is too large.
    """
    names = sorted({symbol.name for symbol in f.free_symbols | g.free_symbols})
    may_differ = _may_differ(f, g)
    f, g = _without_floats(f), _without_floats(g)
    first, compared = None, 0
    for point in _POINTS:
        values = _values(point, names)
        try:
            f_value, g_value = (_at(side, values) for side in (f, g))
        except (TypeError, ValueError, ArithmeticError, AttributeError):
            continue
        if not _both_real(f_value, g_value):
            continue
        zeros = [constants_equal(value, sympy.S.Zero, False) for value in (f_value, g_value)]
        if zeros[0] is not zeros[1] or None in zeros:
            return False
        if zeros[0]:
            continue
        if first is None:
            first = f_value, g_value
            if not either_sign and sympy.N(f_value / g_value, 5) < 0:
                return False
        cross = f_value * first[1], first[0] * g_value
        if not constants_equal(*cross, may_differ, finite_are_exact=False):
            return False
        compared += 1
    return compared >= _MIN_POINTS


def _may_differ(*sides: Any) -> bool:
    """Is there a decimal, and a number that has no finite decimal?"""
    if not any(side.has(sympy.Float) for side in sides):
        return False
    numbers = {n for side in sides for n in sympy.preorder_traversal(side) if n.is_number}
    values = [_rational(number) for number in numbers]
    return any(value is None or not is_finite_decimal(Fraction(*value)) for value in values)


def _without_floats(side: Any) -> Any:
    """With the decimals as exact numbers: SymPy would round their products."""
    return side.xreplace({x: sympy.Rational(str(x)) for x in side.atoms(sympy.Float)})


def _both_real(*sides: Any) -> bool:
    try:
        for side in sides:
            if _bits(side) > _MAX_BITS:
                raise TooLargeError
            value = side if side.is_Rational else sympy.N(side, 15)
            if not value.is_number or value.is_finite is False or value.has(sympy.nan):
                return False
            real, imaginary = value.as_real_imag()
            if abs(imaginary) > 1e-10 * abs(real):
                return False
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False
    return True


def _is_zero(difference: Any, digits: int) -> bool:
    """Is a constant 0, as far as can be seen with so many digits?"""
    if difference.is_zero:
        return True
    parts = (difference,) if difference.is_real else difference.as_real_imag()
    for part in parts:
        try:
            if part != 0 and part.evalf(2, maxn=digits, strict=True) != 0:
                return False
        except PrecisionExhausted:
            continue
        except NotImplementedError:
            return bool(sympy.N(part, 30) == 0)
    return True


def _bits(expression: Any) -> float:
    """At most about so many bits have the numbers that stand in an expression, and its powers and
    factorials of numbers."""
    total = 0.0
    for node in sympy.preorder_traversal(expression):
        if node.is_Integer:
            total += abs(int(node)).bit_length()
        elif node.is_Rational:
            total += node.p.bit_length() + node.q.bit_length()
        elif node.is_Pow and node.exp.is_number and node.base.is_number:
            exponent = abs(float(node.exp)) if node.exp.is_real else 1.0
            total += exponent * max(_log2(node.base), 1)
        elif isinstance(node, sympy.factorial) and node.args[0].is_Integer:
            total += math.lgamma(abs(int(node.args[0])) + 1) / math.log(2)
        if total > _MAX_BITS:
            raise TooLargeError
    return total


def _log2(number: Any) -> float:
    if number.is_Rational:
        return max(abs(number.p).bit_length(), number.q.bit_length())
    return abs(math.log2(abs(complex(number.evalf(5))) or 1))


def _rational(expression: Any) -> tuple[int, int] | None:
    """(numerator, denominator > 0), not reduced; None if the expression is not rational, or not by
    the operations known here."""
    if expression.is_Rational:
        return expression.p, expression.q
    if expression.is_Float:
        return Fraction(str(expression)).as_integer_ratio()
    if not isinstance(
        expression,
        sympy.Add | sympy.Mul | sympy.Pow | sympy.factorial | sympy.binomial | sympy.Abs,
    ):
        return None
    arguments = [_rational(argument) for argument in expression.args]
    if any(argument is None for argument in arguments):
        return None
    result = _combined(expression, arguments)  # type: ignore[arg-type]
    if result is not None and max(abs(result[0]).bit_length(), result[1].bit_length()) > _MAX_BITS:
        raise TooLargeError
    return result


def _combined(expression: Any, arguments: list[tuple[int, int]]) -> tuple[int, int] | None:
    top, bottom = arguments[0]
    if expression.is_Add or expression.is_Mul:
        for p, q in arguments[1:]:
            if max(abs(top), bottom, abs(p), q).bit_length() > _MAX_BITS:
                raise TooLargeError
            top = top * q + p * bottom if expression.is_Add else top * p
            bottom *= q
        return top, bottom
    if isinstance(expression, sympy.Abs):
        return abs(top), bottom
    integers = [p // q for p, q in arguments if p % q == 0]
    if isinstance(expression, sympy.factorial):
        if not integers or integers[0] < 0:
            return None
        if math.lgamma(integers[0] + 1) > _MAX_BITS * math.log(2):
            raise TooLargeError
        return math.factorial(integers[0]), 1
    if isinstance(expression, sympy.binomial):
        if len(integers) < 2 or min(integers) < 0:
            return None
        if integers[0] > _MAX_BITS:
            raise TooLargeError
        return math.comb(integers[0], integers[1]), 1
    exponent, whole = arguments[1]
    if exponent % whole:
        return None  # a root
    exponent //= whole
    if exponent < 0:
        if top == 0:
            return None
        top, bottom, exponent = (bottom, top, -exponent) if top > 0 else (-bottom, -top, -exponent)
    if max(abs(top), bottom).bit_length() * exponent > _MAX_BITS and max(abs(top), bottom) > 1:
        raise TooLargeError
    return top**exponent, bottom**exponent


def near(ours: Any, gold: Any, tolerance: Tolerance) -> bool:
    """Are two constants within a tolerance?"""
    try:
        values = [Fraction(str(sympy.N(side, 30))) for side in (ours, gold)]
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False
    return tolerance.covers(*values)
