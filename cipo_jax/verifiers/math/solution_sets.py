r"""Sets of real numbers as they are written: intervals, inequalities, unions of them.

This file decides which set a text describes: `x < 1 or x > 2` is $(-\infty,1)\cup(2,\infty)$,
`(-\infty,\infty)` is $\mathbb{R}$. It reads the parts as they stand and leaves overlapping parts
and everything else to math-verify. When two end points are equal is decided in `equality.py`.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from cipo_jax.verifiers.math.lists import items, split_top_level
from cipo_jax.verifiers.math.quantity import read_quantity
from cipo_jax.verifiers.math.spelling import compact, matching

# What makes a text a set of reals: without one of these it may as well be a tuple.
_IS_SET = re.compile(r"real|[<>]|\\(?:le|ge|ne|cup|setminus)(?![a-zA-Z])|\\mathbb\{R\}|\\infty")
_UNION = re.compile(r"\\cup(?![a-zA-Z])|\\lor(?![a-zA-Z])|\bor\b")
_COMMA = re.compile(",")
_BOTH = re.compile(r"\\land(?![a-zA-Z])|\band\b")
_RELATION = re.compile(r"<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z])|\\ne(?![a-zA-Z])|=")
_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|ne|cup)(?![a-zA-Z])")
_AND = re.compile(rf"\\cap(?![a-zA-Z])|{_BOTH.pattern}")
_MINUS = re.compile(r"\\setminus(?![a-zA-Z])|(?<=[)\]}R])\s*-(?=\s*\\?\{)|\bexcept(?: for)?\b")
_PIECES = re.compile(r",|;|\\cup(?![a-zA-Z])|\\l(?:or|and)(?![a-zA-Z])|\bor\b|\band\b")
_ABSOLUTE = re.compile(r"\|([a-zA-Z])\|")
_MEMBER = re.compile(r"[a-zA-Z] ?\\in(?![a-zA-Z]) ?")
_NAME = re.compile(r"[a-zA-Z](?:_\{\w+\})?|\\[a-z]+")
_BUILDER = re.compile(r"\\\{ ?[a-z] ?(?:\\in ?\\mathbb\{R\} ?)?(?::|\||\\mid) ?(.*)\\\}")
_REALS = re.compile(r"\\mathbb\{R\}|\\R|R|(?:the |all )*real(?: number)?s?")
_INFINITY = "\\infty"
# The brackets at -a and a: of |x| < a around the interval, of |x| > a at its outer ends.
_BOTH_SIDES = {"<": ("(", ")"), "\\le": ("[", "]"), ">": (")", "("), "\\ge": ("]", "[")}


class Part(NamedTuple):
    """An interval; a point is one from itself to itself."""

    left: str  # ( or [
    low: str
    high: str
    right: str  # ) or ]


def sets_equal(ours: str, gold: str, equal: Callable[[str, str], bool]) -> bool | None:
    """Compares two sets of reals part by part; None if one is none, or is read only in part."""
    if not (_IS_SET.search(ours) or _IS_SET.search(gold)):
        return None
    our_set, gold_set = _read(ours), _read(gold)
    if our_set is None or gold_set is None:
        if not (_IS_SET.search(gold) or _RELATION.search(ours)):
            return None
        # A comma may stand for "or", and for "and". Where neither fits, the lists are compared.
        for word in (" or ", " and "):
            our_set, gold_set = (
                _read(word.join(split_top_level(side, _COMMA))) for side in (ours, gold)
            )
            if our_set and gold_set and _equal_sets(our_set, gold_set, equal):
                return True
        return None
    return _equal_sets(our_set, gold_set, equal)


def _equal_sets(
    our_set: tuple[str, list[Part]],
    gold_set: tuple[str, list[Part]],
    equal: Callable[[str, str], bool],
) -> bool | None:
    (our_name, left), (gold_name, parts) = our_set, gold_set
    left = list(left)
    if our_name and gold_name and our_name != gold_name:
        return False
    if len(left) != len(parts):
        return None  # two parts may make up one
    for part in parts:
        same = next((p for p in left if _same(p, part, equal)), None)
        if same is None:
            return False
        left.remove(same)
    return True


def interval_and_points(ours: str, gold: str) -> bool:
    r"""Is one side an interval, written as an inequality or as x \in (1,4), and the other a list of
    numbers? The interval's end points are such a list."""
    return any(_is_interval(a) and _are_points(b) for a, b in ((ours, gold), (gold, ours)))


def connectives_differ(ours: str, gold: str) -> bool:
    """Do inequalities hold together on one side, and on the other one or another of them?"""
    if not all(_INEQUALITY.search(side) for side in (ours, gold)):
        return False
    our_kinds, gold_kinds = (
        [len(split_top_level(side, kind)) > 1 for kind in (_UNION, _AND)] for side in (ours, gold)
    )
    return sum(our_kinds) == sum(gold_kinds) == 1 and our_kinds != gold_kinds


def is_unsolved(ours: str, gold: str) -> bool:
    """Is the reference a set of reals, and the answer an inequality that is still to be solved for
    its variable, as 2x < 4 is?"""
    if not _IS_SET.search(gold) or _read(gold) is None:
        return False
    pieces = split_top_level(ours, _PIECES)
    sides = [split_top_level(piece, _RELATION) for piece in pieces if _RELATION.search(piece)]
    return any(not any(_is_name(_end(side)) for side in of_piece) for of_piece in sides)


def _is_interval(text: str) -> bool:
    if member := _MEMBER.match(text):
        return text[member.end() : member.end() + 1] in ("(", "[")
    read = _read(text) if _INEQUALITY.search(text) else None
    return read is not None and any(part.low != part.high for part in read[1])


def _are_points(text: str) -> bool:
    brackets, points = items(_MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text)
    if brackets not in ("", "{}") or (brackets == "" and len(points) < 2):
        return False
    return not _INEQUALITY.search(text) and not any(
        _MEMBER.match(point) or (point[:1] in ("(", "[") and "," in point) for point in points
    )


def _same(ours: Part, gold: Part, equal: Callable[[str, str], bool]) -> bool:
    return (ours.left, ours.right) == (gold.left, gold.right) and all(
        equal(o, g) if _INFINITY not in o + g else compact(o) == compact(g)
        for o, g in ((ours.low, gold.low), (ours.high, gold.high))
    )


def _read(normal: str) -> tuple[str, list[Part]] | None:
    """The variable, if one is named, and the parts."""
    text = normal.strip()
    if builder := _BUILDER.fullmatch(text):
        text = builder[1].strip()
    names: set[str] = set()
    parts: list[Part] = []
    for piece in split_top_level(text, _UNION):
        read = _piece(piece, names)
        if read is None:
            return None
        parts += read
    if len(names) > 1 or all(part.low == part.high for part in parts):
        return None  # points alone are a list
    return "".join(names), parts


def _piece(text: str, names: set[str]) -> list[Part] | None:
    text = _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text
    whole, *removed = split_top_level(text, _MINUS)
    if len(removed) == 1 and whole:
        return _without(_piece(whole, names), removed[0])
    if removed:
        return None
    if _REALS.fullmatch(text):
        return [Part("(", "-" + _INFINITY, _INFINITY, ")")]
    if text.startswith("\\{") and text.endswith("\\}"):
        points = split_top_level(text[2:-2], _COMMA)
        return [Part("[", p, p, "]") for p in points] if all(points) else None
    if text[:1] in ("(", "[") and matching(text, 0) == len(text) - 1 and text[-1] in ")]":
        ends = [_end(e) for e in split_top_level(text[1:-1], re.compile(",|;"))]
        return [Part(text[0], ends[0], ends[1], text[-1])] if len(ends) == 2 else None
    halves = [_inequality(half, names) for half in split_top_level(text, _BOTH)]
    if len(halves) == 1:
        return halves[0]
    return _intersection(halves)


def _inequality(text: str, names: set[str]) -> list[Part] | None:
    sides = [_end(side) for side in split_top_level(text, _RELATION)]
    relations = _RELATION.findall(text)
    if len(sides) != len(relations) + 1 or not all(sides):
        return None
    if len(sides) == 2 and not (_is_name(sides[0]) or "|" in sides[0]):  # 3 < x
        sides.reverse()
        relations = [_reversed(relations[0])]
    if len(sides) == 2 and (absolute := _ABSOLUTE.fullmatch(compact(sides[0]))):  # |x| < 2
        number = read_quantity(sides[1])
        if number is None or number.value <= 0 or relations[0] not in _BOTH_SIDES:
            return None
        names.add(absolute[1])
        at_low, at_high = _BOTH_SIDES[relations[0]]
        if relations[0] in ("<", "\\le"):
            return [Part(at_low, f"-{sides[1]}", sides[1], at_high)]
        return [
            Part("(", "-" + _INFINITY, f"-{sides[1]}", at_low),
            Part(at_high, sides[1], _INFINITY, ")"),
        ]
    if len(sides) == 2 and _is_name(sides[0]) and not _is_name(sides[1]):
        names.add(sides[0])
        bound = sides[1]
        return {
            "<": [Part("(", "-" + _INFINITY, bound, ")")],
            "\\le": [Part("(", "-" + _INFINITY, bound, "]")],
            ">": [Part("(", bound, _INFINITY, ")")],
            "\\ge": [Part("[", bound, _INFINITY, ")")],
            "\\ne": [Part("(", "-" + _INFINITY, bound, ")"), Part("(", bound, _INFINITY, ")")],
            "=": [Part("[", bound, bound, "]")],
        }[relations[0]]
    if len(sides) == 3 and _is_name(sides[1]):  # 1 < x < 2
        low, name, high = sides
        if relations[0] in (">", "\\ge"):
            low, high, relations = high, low, [_reversed(r) for r in reversed(relations)]
        if not all(r in ("<", "\\le") for r in relations):
            return None
        names.add(name)
        left, right = ("[" if relations[0] == "\\le" else "("), "]" if relations[1] != "<" else ")"
        return [Part(left, low, high, right)]
    return None


def _intersection(halves: list[list[Part] | None]) -> list[Part] | None:
    """Of a half line that begins and one that ends."""
    if len(halves) != 2 or any(half is None or len(half) != 1 for half in halves):
        return None
    (first,), (second,) = halves  # type: ignore[misc]
    if first.high != _INFINITY:
        first, second = second, first
    if first.high != _INFINITY or second.low != "-" + _INFINITY:
        return None
    return [Part(first.left, first.low, second.high, second.right)]


def _without(parts: list[Part] | None, removed: str) -> list[Part] | None:
    """The line without some points, which are numbers."""
    if parts is None or len(parts) != 1:
        return None
    points = split_top_level(re.sub(r"^\\?\{|\\?\}$", "", removed), re.compile(",|\band\b"))
    values = {p: q.value for p in points if (q := read_quantity(p)) is not None}
    if len(values) != len(points) or parts[0].low != "-" + _INFINITY:
        return None
    if parts[0].high != _INFINITY:
        return None
    ends = ["-" + _INFINITY, *sorted(points, key=lambda p: values[p]), _INFINITY]
    return [Part("(", low, high, ")") for low, high in zip(ends, ends[1:], strict=False)]


def _end(text: str) -> str:
    return re.sub(r"^\+ ?|(?<=-) ", "", text.strip())


def _is_name(text: str) -> bool:
    return text != _INFINITY and _NAME.fullmatch(text) is not None and text != "\\pi"


def _reversed(relation: str) -> str:
    return {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}.get(relation, relation)
