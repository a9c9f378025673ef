r"""What an expression parser is not given, because it could keep it busy for ever.

Powers of powers, factorials and binomials make numbers of any size out of a few characters. This
file reads signs, and knows nothing of meaning. Time is limited by the pool.
"""

import re

from cipo_jax.verifiers.math.spelling import matching

MAX_CHARS = 1_000  # of an answer that is compared by meaning
MAX_DEPTH = 12  # nested brackets
_MAX_DIGITS = 4  # of an exponent, of the argument of a factorial or binomial
_MAX_BARS = 16  # a parser tries which of them belong together
_MAX_POWER_DIGITS = 100_000  # of a power of a number

_EXPONENT = re.compile(r"(?:\^|\*\*)[({\s+-]*([0-9]+)")
_FACTORIAL = re.compile(r"([0-9]+) ?!")


def depth(text: str) -> int:
    """How deep brackets are nested."""
    current = deepest = 0
    for char in text:
        current += (char in "([{") - (char in ")]}")
        deepest = max(deepest, current)
    return deepest


def refusal(normal: str) -> str:
    """Why `normal` is not to be parsed, or ""."""
    exponents = [m[1] for m in _EXPONENT.finditer(normal)]
    if any(len(digits) > _MAX_DIGITS for digits in exponents):
        return f"an exponent of more than {_MAX_DIGITS} digits"
    longest = max(map(len, re.findall("[0-9]+", normal)), default=0)
    if longest * max(map(int, exponents), default=0) > _MAX_POWER_DIGITS:
        return f"a power of more than {_MAX_POWER_DIGITS:,} digits"
    if _has_numeric_tower(normal):
        return "a power in the exponent of a power"
    variables = re.search("[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", normal))
    if re.search(r"![)}\]\s]*!", normal) or (re.search(r"[)}\]] ?!", normal) and not variables):
        return "a factorial of an expression"
    if len(re.findall(r"\^\{?-?[0-9]{3}", normal)) > 1 and re.search(r"[)}\]]\^", normal):
        return "a large power of a large power"
    if normal.count("|") > _MAX_BARS:
        return f"more than {_MAX_BARS} vertical bars"
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
            end = matching(normal, start)
            exponent, after = normal[start + 1 : end], normal[end + 1 :].lstrip()
        else:
            exponent = re.match(r"[+-]?[0-9.]*", normal[start:])[0]  # type: ignore[index]
            after = normal[start + len(exponent) :].lstrip()
        if after.startswith(("^", "**")):
            return True
        if re.search(r"\^|\*\*", exponent) and not re.search("[a-z]", exponent):
            return True
    return False
