r"""Rational numbers as they are written, perhaps with a unit.

This file decides what a literal number is: integers with thousands separators, decimals, fractions,
mixed numbers, powers of ten, percent, currency, degrees, units. It compares two such numbers
exactly, and parses no expressions.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cipo_jax.types import CipoError
from cipo_jax.verifiers.math.spelling import compact, matching

RELATIVE_TOLERANCE = Fraction(1, 10**6)  # between a decimal and what has no finite decimal

# Thousands all by one sign.
_WHOLE = r"(?:[0-9]{1,3}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+|(?:'[0-9]{3})+)|[0-9]+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<whole>[0-9]+)?\\frac\{{(?P<top>-?{_DECIMAL})\}}\{{(?P<bottom>-?{_DECIMAL})\}}"
    rf"|(?:(?P<whole2>[0-9]+) )?(?P<top2>{_DECIMAL})/(?P<bottom2>-?{_DECIMAL})"
    rf"|(?P<mantissa>{_DECIMAL})[eE]\+?(?P<exponent>-?[0-9]{{1,4}})"
    rf"|(?:(?P<mantissa2>{_DECIMAL})(?:\\times|\\cdot|\*|x))?10\^\{{(?P<exponent2>-?[0-9]{{1,4}})\}}"
    r"|(?P<head>[0-9]*\.[0-9]*)\\overline\{(?P<period>[0-9]{1,20})\}"
    r"|(?P<head2>[0-9]*\.[0-9]*?)"
    r"(?:(?P<period2>[0-9])(?P=period2){2,}|(?P<period3>[0-9]{2,9}?)(?P=period3)+)\\ldots"
    rf"|(?P<decimal>{_DECIMAL})"
)
_IN_PARENTHESES = re.compile(rf"^\((-?{_DECIMAL})\)(?=/)|(?<=/)\((-?{_DECIMAL})\)$")
# 0.1\dot{6}, 0.\dot{1}2\dot{3}
_DOTTED = re.compile(r"(?<=[0-9.])\\dot ?\{?([0-9])\}?(?:([0-9]*)\\dot ?\{?([0-9])\}?)?$")
_CURRENCY = {"$": "dollar", "£": "pound sterling", "€": "euro", "¥": "yen"}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# The name of a unit, then its other spellings. Plurals in -s need no entry.
_UNITS = {
    spelling: spellings.split()[0]
    for spellings in (
        *("mm millimeter millimetre", "cm centimeter centimetre", "m meter metre"),
        *("km kilometer kilometre", "inch in inches", "foot ft feet", "yard yd", "mile mi"),
        *("mg milligram", "g gram", "kg kilogram", "ounce oz", "pound lb", "ton"),
        *("ml milliliter millilitre", "L l liter litre", "gallon gal", "acre"),
        *("nm nanometer nanometre", "hz hertz", "pa pascal", "ev electronvolt", "kev", "au"),
        *("kj kilojoule", "kw kilowatt", "ms millisecond", "mol mole", "pc parsec", "kpc"),
        *("s second sec", "minute min", "h hour hr", "day", "week", "month", "year yr"),
        *("dollar usd buck", "cent", "euro", "degree deg", "radian rad"),
        *("N newton", "J joule", "V volt", "K kelvin", "A ampere amp", "W watt"),
        *("kn kilonewton", "ohm", "celsius centigrade", "fahrenheit"),
    )
    for spelling in spellings.split()
}
_SPEEDS = {"mph": "mile h", "kph": "km h", "kmh": "km h", "kmph": "km h"}
_UNNAMED_UNITS = ("unit", "units")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_EXPONENTS = {"squared": 2, "cubed": 3}
# After a number these words change its value, or it is not a number with a unit at all.
_NOT_UNITS = frozenset(
    word
    for line in (
        "or and not to plus minus times over by divided squared cubed factorial choose mod modulo",
        "base pi sqrt log ln sin cos tan dozen half halves if where when for is",
        "third quarter dozens score scores gross tens",
    )
    for word in line.split()
)
# And parts: third, sixteenths, twentieths, millionths.
_PARTS = re.compile(
    r"(?:thirds|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|hundred|thousand|[mbtr]+illion|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twent|thirt|fort|fift|sixt|sevent|eight|ninet)ie)ths?)"
)
_TAIL = re.compile(r"(?<=[0-9)}. ])[A-Za-z][A-Za-z ./^{}23]{0,60}$")
_MODULUS = re.compile(r"(.*)\\pmod\{([^{}]*)\}")
_BASE = re.compile(r"([0-9]+)_\{([0-9]+)\}")
_PER = re.compile(r"[ .]+(s|h|sec|min|hr)\.?\^\{-1\}$")  # m s^{-1}
_UNIT_FRACTION = re.compile(r" ?\\frac\{ ?([a-z]{1,10})\.? ?\}\{ ?([a-z]{1,10})\.? ?\}$")
_WORD = re.compile(r"([A-Za-z]+)\.?(?:\^\{([23])\})?")


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be from the reference by the benchmark's protocol.

    Attributes:
      absolute, relative: distances; either suffices.
    """

    absolute: Fraction = Fraction(0)
    relative: Fraction = Fraction(0)

    def covers(self, ours: Fraction, gold: Fraction) -> bool:
        """Is `ours` so near?"""
        return abs(ours - gold) <= max(self.absolute, self.relative * abs(gold))


def read_tolerance(written: Any) -> Tolerance | None:
    """The tolerance in `Problem.meta`: {"absolute": number, "relative": number}, either as number
    or text; a number alone is absolute; None for None.

    Raises:
      CipoError: it is written otherwise.
    """
    if written is None:
        return None
    named = written if isinstance(written, Mapping) else {"absolute": written}
    try:
        distances = {name: Fraction(str(value)) for name, value in named.items()}
        if min(distances.values(), default=0) < 0:
            raise ValueError("negative")
        return Tolerance(**distances)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        wanted = 'a number, or {"absolute": number} or {"relative": number}'
        raise CipoError(f"tolerance: got {written!r:.60}, wanted {wanted}") from error


@dataclass(frozen=True)
class Quantity:
    """A rational number as written: with a point, with a percent sign, with a known unit."""

    value: Fraction
    is_decimal: bool
    is_percent: bool
    unit: str | None


def read_quantity(normal: str) -> Quantity | None:
    """The rational number, perhaps with a unit, that the normal form spells; None if it spells
    anything else."""
    if ", " in normal:  # 2, 000 is a list
        return None
    core, unit, scale = split_unit(normal, any_word=True)
    modulus = _MODULUS.fullmatch(core)
    if modulus:
        core, unit = modulus[1].strip(), f"mod {modulus[2]}"
    based = _BASE.fullmatch(compact(core))
    if based:  # 1202_3: base and modulus are like a unit, they may be missing but not be others
        core, unit = based[1], f"base {based[2]}"
    sign = -1 if core.startswith("-") else 1
    core = core[1:].strip() if core.startswith(("-", "+")) else core
    if core[:1] in _CURRENCY:
        unit, core = _CURRENCY[core[0]], core[1:].strip()
        if sign == 1 and core.startswith("-"):  # $-5
            sign, core = -1, core[1:].strip()
    elif core[-1:] in _CURRENCY:
        unit, core = _CURRENCY[core[-1]], core[:-1].strip()
    core = _without_parentheses(core)
    if core.startswith("(-") and _IN_PARENTHESES.match(core):  # (-1)/3
        core, sign = f"({core[2:]}", -sign
    core = _IN_PARENTHESES.sub(r"\1\2", core)  # -(1/3), 1/(3)
    core = _DOTTED.sub(r"\\overline{\1\2\3}", core)
    is_percent = core.endswith("%")
    match = _NUMBER.fullmatch(compact(core.removesuffix("%")))
    if match is None:
        return None
    exponent = match["exponent"] or match["exponent2"]
    if exponent:
        mantissa = _fraction(match["mantissa"] or match["mantissa2"] or "1")
        value = mantissa * Fraction(10) ** int(exponent)
    elif period := match["period"] or match["period2"] or match["period3"]:
        head = match["head"] or match["head2"]
        shift = 10 ** len(head.partition(".")[2])
        nines = 10 ** len(period) - 1
        value = _fraction("0" + head) + Fraction(int(period), nines * shift)
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


def _without_parentheses(core: str) -> str:
    while core[:1] == "(" and matching(core, 0) == len(core) - 1:
        core = core[1:-1].strip()
    return core


def _fraction(digits: str) -> Fraction:
    return Fraction(re.sub("[, ']", "", digits).removesuffix("."))


def split_unit(normal: str, any_word: bool) -> tuple[str, str | None, int]:
    """Takes the words of a unit off the end of a normal form.

    Returns what stands before them; the unit, if all its words are known; and the power of ten
    they stand for (3 for thousand). Nothing is taken off if one of the words is not known, unless
    `any_word` lets words like `apples` pass for a unit.
    """
    nothing = normal, None, 0
    normal = _PER.sub(r"/\1", _UNIT_FRACTION.sub(r" \1/\2", normal))
    tail = _TAIL.search(normal)
    words = re.split(r"[ /]+", tail[0].strip()) if tail else []
    if tail is None or (len(words) > 1 and normal[tail.start() - 1] != " "):
        return nothing
    units: list[str | None] = []
    scale, power = 0, 1
    for i, written in enumerate(words):
        word = _WORD.fullmatch(written)
        if word and units and word[1].lower() in _EXPONENTS:  # cm squared, but not 5 squared
            units[-1] = f"{units[-1]}^{_EXPONENTS[word[1].lower()]}" if units[-1] else None
            continue
        if word and word[1] in _ALPHABET and len(word[1]) > 2:
            return nothing  # the product xyz
        if word is None or word[1].lower() in _NOT_UNITS or _PARTS.fullmatch(word[1].lower()):
            return nothing
        name = word[1] if len(word[1]) == 1 else word[1].lower()
        known = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
        if len(name) == 1 and "." not in written and "/" not in tail[0]:
            return nothing  # a variable
        if i == 0 and name.removesuffix("s") in _SCALES:
            scale = _SCALES[name.removesuffix("s")]
        elif name in _POWERS:
            power = _POWERS[name]
        elif known:
            exponent = int(word[2] or power)
            units.append(known if exponent == 1 else f"{known}^{exponent}")
        elif name in _SPEEDS:
            units.append(_SPEEDS[name])
        elif name == "per":
            continue
        elif name in _UNNAMED_UNITS or (
            any_word and len(name) > 2 and normal[tail.start() - 1] == " "
        ):
            units.append(None)
        else:
            return nothing
    named = " ".join(unit for unit in units if unit) if units and None not in units else None
    return normal[: tail.start()].strip(), named, scale


def units_agree(ours: str | None, gold: str | None) -> bool:
    """Are two units the same, as far as they are said? Degrees may be of any scale."""
    if not ours or not gold or ours == gold:
        return True
    scales = {unit.removeprefix("degree ") for unit in (ours, gold)} - {"degree"}
    return len(scales) == 1 and bool(scales & {"celsius", "fahrenheit"})


def quantities_equal(ours: Quantity, gold: Quantity, tolerance: Tolerance | None = None) -> bool:
    """Equality by value, under the rules for percent signs, units and decimals that
    `equality.py` states."""
    if not units_agree(ours.unit, gold.unit):
        return False
    readings = [ours.value]
    if ours.is_percent != gold.is_percent:
        readings.append(ours.value / 100 if ours.is_percent else ours.value * 100)
    if gold.value in readings:
        return True
    if tolerance and any(tolerance.covers(reading, gold.value) for reading in readings):
        return True
    fraction = gold.value if ours.is_decimal else ours.value
    if ours.is_decimal == gold.is_decimal or is_finite_decimal(fraction):
        return False
    return any(abs(r - gold.value) <= RELATIVE_TOLERANCE * abs(gold.value) for r in readings)


def is_finite_decimal(value: Fraction) -> bool:
    """Has it finitely many decimals?"""
    return pow(10, value.denominator.bit_length(), value.denominator) == 0
