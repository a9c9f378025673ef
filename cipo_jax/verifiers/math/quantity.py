r"""The normal form of a written answer, and rational numbers with a unit.

This file decides which spellings are the same (`normalise`, `compact`), and reads numbers: integers
with thousands separators, decimals, fractions, mixed numbers, powers of ten, percent, currency,
degrees, units. It compares two such numbers exactly, and parses no expressions.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

RELATIVE_TOLERANCE = Fraction(1, 10**6)  # between a decimal and what has no finite decimal

_SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
     "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "°": r"^\circ ", "∪": r"\cup ",
     "∈": r"\in ", "±": r"\pm ", "²": "^2", "³": "^3", "\u00a0": " ", "\u202f": " ", "\u2009": " "}
)  # fmt: skip
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\!", ""),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\s", " "),
        (r"\{,\}", ","),
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?", ""),
        (r"\\(?:displaystyle|textstyle|rm|bf|it)(?![a-zA-Z])", " "),
        # A letter set upright is a unit, not a variable: it keeps a dot.
        (r"\\(?:text|mbox|mathrm)\s*\{\s*([mgshL])\s*\}", r" \1."),
        (r"\\(?:text|mbox|hbox|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit)\s*"
         r"\{([^{}]*)\}", r" \1 "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(le|ge)(?:q|qslant)(?![a-zA-Z])", r"\\\1"),
        (r"\\varnothing(?![a-zA-Z])", r"\\emptyset"),
        (r"\\(?:simeq|thickapprox)(?![a-zA-Z])", r"\\approx"),
        (r"(?:\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degrees?)\s*[CF]?\s*(?=$|[,;)\]}])", " degrees"),
        (r"\\frac\s*([0-9])\s*(?=[0-9{\\])", r"\\frac{\1}"),
        (r"\\frac\s*\{([^{}]*)\}\s*([0-9])", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*([0-9])", r"\\sqrt{\1}"),
        (r"\s*([_^])\s*(-?[0-9]+|[a-zA-Z])", r"\1{\2}"),
        (r"\s*([_^])\s*", r"\1"),
        (r"(?<!\\)\$", ""),
        (r"\\([$%])", r"\1"),
        (r"\s*(?:%|\b(?:percent|percentage|pct)\b)", "%"),
        (r"\s+", " "),
    )
)  # fmt: skip


def normalise(answer: str) -> str:
    r"""One spelling for what only looks different. The words of `\text{}` stand free."""
    answer = answer.translate(_SYMBOLS)
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    return answer.strip()


def compact(normal: str) -> str:
    """Without spaces, except those between digits: 1 1/2 is not 11/2."""
    return re.sub(r"(?<![0-9]) +| +(?![0-9])", "", normal)


_DECIMAL = r"(?:(?:[0-9]{1,3}(?:[, ][0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<whole>[0-9]+)?\\frac\{{(?P<top>-?{_DECIMAL})\}}\{{(?P<bottom>-?{_DECIMAL})\}}"
    rf"|(?:(?P<whole2>[0-9]+) )?(?P<top2>{_DECIMAL})/(?P<bottom2>{_DECIMAL})"
    rf"|(?P<mantissa>{_DECIMAL})[eE]\+?(?P<exponent>-?[0-9]{{1,4}})"
    rf"|(?:(?P<mantissa2>{_DECIMAL})(?:\\times|\\cdot|\*|x))?10\^\{{(?P<exponent2>-?[0-9]{{1,4}})\}}"
    r"|(?P<head>[0-9]*\.[0-9]*)\\overline\{(?P<period>[0-9]{1,20})\}"
    rf"|(?P<decimal>{_DECIMAL})"
)
_CURRENCY = {"$": "dollar", "£": "pound sterling", "€": "euro"}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# The name of a unit, then its other spellings. Plurals in -s need no entry.
_UNITS = {
    spelling: spellings.split()[0]
    for spellings in (
        *("mm millimeter millimetre", "cm centimeter centimetre", "m meter metre"),
        *("km kilometer kilometre", "inch in inches", "foot ft feet", "yard yd", "mile mi"),
        *("mg milligram", "g gram", "kg kilogram", "ounce oz", "pound lb", "ton"),
        *("ml milliliter millilitre", "L l liter litre", "gallon gal", "acre"),
        *("s second sec", "minute min", "h hour hr", "day", "week", "month", "year yr"),
        *("dollar usd buck", "cent", "euro", "degree deg", "radian rad", "mph", "kph kmh"),
    )
    for spelling in spellings.split()
}
_UNNAMED_UNITS = ("unit", "units")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
# After a number these words change its value, or it is not a number with a unit at all.
_NOT_UNITS = frozenset(
    word
    for line in (
        "or and not to plus minus times over by divided squared cubed factorial choose mod modulo",
        "base pi sqrt log ln sin cos tan dozen half halves if where when for is",
        "third fourth quarter fifth sixth seventh eighth ninth tenth hundredth thousandth",
        "thirds fourths fifths sixths sevenths eighths ninths tenths hundredths thousandths",
    )
    for word in line.split()
)
_TAIL = re.compile(r"(?<=[0-9)}. ])[A-Za-z][A-Za-z ./^{}23]{0,60}$")
_BASE = re.compile(r"([0-9]+)_\{([0-9]+)\}")
_WORD = re.compile(r"([A-Za-z]+)\.?(?:\^\{([23])\})?")


@dataclass(frozen=True)
class Quantity:
    """A rational number as written: with a point, with a percent sign, with a known unit."""

    value: Fraction
    is_decimal: bool
    is_percent: bool
    unit: str | None


def read_quantity(normal: str) -> Quantity | None:
    """The rational number that the normal form spells, perhaps with a unit; None if it spells
    anything else."""
    core, unit, scale = split_unit(normal, any_word=True)
    based = _BASE.fullmatch(compact(core))
    if based:  # 1202_3: like a unit, the base may be missing, but not differ
        core, unit = based[1], f"base {based[2]}"
    sign = -1 if core.startswith("-") else 1
    core = core[1:].strip() if core.startswith(("-", "+")) else core
    if core[:1] in _CURRENCY:
        unit, core = _CURRENCY[core[0]], core[1:].strip()
    is_percent = core.endswith("%")
    match = _NUMBER.fullmatch(compact(core.removesuffix("%")))
    if match is None:
        return None
    exponent = match["exponent"] or match["exponent2"]
    if exponent:
        mantissa = _fraction(match["mantissa"] or match["mantissa2"] or "1")
        value = mantissa * Fraction(10) ** int(exponent)
    elif match["period"]:
        shift = 10 ** len(match["head"].partition(".")[2])
        nines = 10 ** len(match["period"]) - 1
        value = _fraction("0" + match["head"]) + Fraction(int(match["period"]), nines * shift)
        return Quantity(sign * value * 10**scale, False, is_percent, unit)
    elif match["decimal"]:
        value = _fraction(match["decimal"])
    else:
        whole = _fraction(match["whole"] or match["whole2"] or "0")
        top = _fraction(match["top"] or match["top2"])
        bottom = _fraction(match["bottom"] or match["bottom2"])
        if bottom == 0:
            return None
        value = whole + top / bottom
    is_decimal = "." in core or bool(exponent)
    return Quantity(sign * value * 10**scale, is_decimal, is_percent, unit)


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", "").removesuffix("."))


def split_unit(normal: str, any_word: bool) -> tuple[str, str | None, int]:
    """Takes the words of a unit off the end of a normal form.

    Returns the text before them; the unit, if all its words are known; and their power of ten (3
    for thousand). Nothing is taken off if one of the words is unknown, unless `any_word` allows
    words like `apples` as a unit.
    """
    nothing = normal, None, 0
    tail = _TAIL.search(normal)
    words = re.split(r"[ /]+", tail[0].strip()) if tail else []
    if tail is None or (len(words) > 1 and normal[tail.start() - 1] != " "):
        return nothing
    units: list[str | None] = []
    scale, power = 0, 1
    for i, written in enumerate(words):
        word = _WORD.fullmatch(written)
        if word is None or word[1].lower() in _NOT_UNITS:
            return nothing
        name = word[1] if len(word[1]) == 1 else word[1].lower()
        known = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
        if len(name) == 1 and "." not in written and "/" not in tail[0]:
            return nothing  # a variable
        if i == 0 and name in _SCALES:
            scale = _SCALES[name]
        elif name in _POWERS:
            power = _POWERS[name]
        elif known:
            exponent = int(word[2] or power)
            units.append(known if exponent == 1 else f"{known}^{exponent}")
        elif name in _UNNAMED_UNITS or (
            any_word and len(name) > 2 and normal[tail.start() - 1] == " "
        ):
            units.append(None)
        elif name != "per":
            return nothing
    named = " ".join(unit for unit in units if unit) if units and None not in units else None
    return normal[: tail.start()].strip(), named, scale


def quantities_equal(ours: Quantity, gold: Quantity) -> bool:
    """Equality by value, under the rules for percent signs, units and decimals that
    `equality.py` states."""
    if ours.unit and gold.unit and ours.unit != gold.unit:
        return False
    readings = [ours.value]
    if ours.is_percent != gold.is_percent:
        readings.append(ours.value / 100 if ours.is_percent else ours.value * 100)
    if gold.value in readings:
        return True
    fraction = gold.value if ours.is_decimal else ours.value
    if ours.is_decimal == gold.is_decimal or _is_finite_decimal(fraction):
        return False
    return any(abs(r - gold.value) <= RELATIVE_TOLERANCE * abs(gold.value) for r in readings)


def _is_finite_decimal(value: Fraction) -> bool:
    return pow(10, value.denominator.bit_length(), value.denominator) == 0
