r"""Is an answer worked out, or is it the question in other signs?

An answer that has the reference's value may still be no answer: `\binom{8}{4}`, copied from the
question, has the value 70. This file decides what is refused for that:

    1. The reference is a plain number: only a literal number counts (see `quantity.py`).
    2. It is another expression: the answer may not leave an operation to be carried out that the
       reference does not have (a sum, an integral, a limit; in constants also a root, a logarithm,
       a sine, a factorial, a floor, ...).
    3. Else, an answer that is written otherwise than the reference may not stand in the question,
       in this order of terms and factors or another.

It knows the signs only; whether the values are equal is decided in `equality.py`.
"""

import collections
import re

from cipo_jax.verifiers.math.spelling import compact, normalise

_LETTER = r"(?![a-zA-Z])"
_OPERATIONS = {
    "sum": r"\\sum|\\prod" + _LETTER,
    "integral": r"\\i*int" + _LETTER,
    "limit": r"\\lim",
    "derivative": r"\\frac\{(?:d|\\partial)(?:\^\{\d\})?[a-zA-Z]?\}\{(?:d|\\partial) ?[a-zA-Z]",
    "determinant": r"\\det|vmatrix",
    "greatest common divisor or least common multiple": r"\\(?:gcd|lcm)" + _LETTER,
}
_OPERATIONS_ON_NUMBERS = {
    "root": r"\\sqrt|\^\{-?(?:[0-9]*\.[0-9]|\(?[0-9]+/|\\frac)",
    "logarithm": r"\\(?:log|ln|lg)" + _LETTER,
    "trigonometric function": r"\\(?:arc|a)?(?:sin|cos|tan|cot|sec|csc)h?" + _LETTER,
    "factorial or binomial": r"!|binom|choose",
    "maximum or minimum": r"\\(?:max|min)" + _LETTER,
    "rounding": r"\\l(?:floor|ceil)" + _LETTER,
    "remainder": r"\\bmod" + _LETTER,
}
_TRANSCENDENTAL = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)|e\^|\\(?:log|ln)")
_VARIABLE = re.compile(r"(?<![a-zA-Z\\])(?!e(?![a-zA-Z])|i(?![a-zA-Z]))[a-zA-Z]|\\(?:alpha|theta)")
_TOKEN = re.compile(r"\\[a-zA-Z]+|[0-9]*\.?[0-9]+|\S")
_INTEGER, _DECIMAL = re.compile(r"[+-]?[0-9,]*\.?"), re.compile(r"[+-]?[0-9,.]*")
_MAX_QUESTION = 20_000  # characters


def left_to_do(ours: str, gold: str) -> str:
    """The operation that the answer leaves to be carried out and the reference has not, or ""."""
    operations = _OPERATIONS
    if is_constant(ours):
        operations = operations | _OPERATIONS_ON_NUMBERS
    for name, signs in operations.items():
        if name == "root" and _TRANSCENDENTAL.search(gold) and not _TRANSCENDENTAL.search(ours):
            continue  # the root is what the sine was left to be carried out to
        if re.search(signs, ours) and not re.search(signs, gold):
            return name
    return ""


def is_constant(normal: str) -> bool:
    """Are there no variables in a normal form? Greek letters are taken for constants."""
    return not _VARIABLE.search(re.sub(r"\\[a-zA-Z]+", "", normal))


def is_copied(ours: str, gold: str, question: str) -> bool:
    """Does the answer stand in the question, and is it written otherwise than the reference?

    Args:
      ours, gold: normal forms.
      question: as it was asked.
    """
    answer, reference = _tokens(ours), _tokens(gold)
    is_converted = "\\frac" in reference or "%" in reference
    plain = _INTEGER if is_converted else _DECIMAL
    if not question or plain.fullmatch("".join(answer)):
        return False  # it may stand there for another reason
    wanted = collections.Counter(answer)
    if wanted == collections.Counter(reference):
        return False
    asked = _tokens(normalise(question[:_MAX_QUESTION].replace("$", " ")))
    size = len(answer)
    window = collections.Counter(asked[:size])
    for start in range(len(asked) - size + 1):
        if start:
            window[asked[start - 1]] -= 1
            window[asked[start + size - 1]] += 1
        if window == wanted:
            return True
    return False


def _tokens(normal: str) -> list[str]:
    """Numbers, commands and signs, a fraction in one way only, no signs of multiplication."""
    text = re.sub(r"(?<![0-9.])([0-9.]+) ?/ ?([0-9.]+)(?![0-9.])", r"\\frac{\1}{\2}", normal)
    text = re.sub(r"\\(?:cdot|times)(?![a-zA-Z])|\*", " ", text)
    return _TOKEN.findall(compact(text))
