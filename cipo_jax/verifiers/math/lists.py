r"""Lists, tuples, intervals and sets as they are written: brackets and items.

This file decides where one item ends and the next begins. A comma and a space separate items
(`100, 200`); a comma alone separates them too, unless the whole is one number with thousands
separators (`1,736`). When two lists are equal is decided in `equality.py`.
"""

import itertools
import re

from cipo_jax.verifiers.math.spelling import matching

MAX_ITEMS = 32

_EVERY = re.compile(r",|;|\bor\b|\band\b")
_SPACED = re.compile(r",(?![0-9])|;|\bor\b|\band\b")
_NAMED = re.compile(r"([a-zA-Z])(?:_\{?([0-9]{1,3})\}?)? ?=(?!=)")
_THOUSANDS = re.compile(r"[+-]?[$£€¥]?[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,]).*")


def items(normal: str, count: int | None = None) -> tuple[str, list[str]]:
    r"""The brackets and the items of a list; ("", [normal]) if it is none. \pm gives two items.

    Args:
      count: where commas can be read in two ways (`100,200`), the reading with so many items.
    """
    text = normal.replace("\\{", "\\lbrace ").replace("\\}", "\\rbrace ").strip()
    brackets = ""
    if text.startswith("\\lbrace") and text.endswith("\\rbrace") and text.count("\\lbrace") == 1:
        brackets, text = "{}", text[len("\\lbrace") : -len("\\rbrace")]
    elif text[:1] in ("(", "[") and matching(text, 0) == len(text) - 1 and text[-1] in ")]":
        brackets, text = text[0] + text[-1], text[1:-1]
    elif text[:1] == "{" and matching(text, 0) == len(text) - 1:  # bare braces
        brackets, text = "{}", text[1:-1]
    grouped, every = _readings(text, bool(brackets))
    if count is not None and len(grouped) != count == len(every):
        grouped = every
    expanded = [signed for item in grouped for signed in _both_signs(item)]
    if len(expanded) <= 1 and brackets != "{}" and not (brackets == "()" and expanded):
        return "", [normal]
    return brackets, expanded


def is_list(normal: str) -> bool:
    """Are there several items, without brackets around them?"""
    return len(_readings(normal, False)[0]) > 1


def by_name(named: list[str]) -> list[str]:
    """The items `y = 1`, `x = 2` in the order of their names, as those of (x, y, z), (m, n) or
    (x_1, x_2). As they are, if one is not named so, or two have the same name."""
    found = [_NAMED.match(item) for item in named]
    names = [(name[1], int(name[2] or 0)) for name in found if name]
    if len(names) < len(named) or len(set(names)) < len(names):
        return named
    one_letter = len({letter for letter, _ in names}) == 1
    letters = sorted(letter for letter, _ in names)
    follow = all(ord(b) - ord(a) == 1 for a, b in itertools.pairwise(letters))
    if not (one_letter or follow):
        return named
    return [item for _, item in sorted(zip(names, named, strict=True))]


def split_top_level(text: str, separator: re.Pattern[str]) -> list[str]:
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


def _readings(text: str, in_brackets: bool) -> tuple[list[str], list[str]]:
    """The items, thousands separators kept where they may be some; and as if there were none."""
    every = [item for item in split_top_level(text, _EVERY) if item]  # "1, 2, and 3"
    spaced = [item for item in split_top_level(text, _SPACED) if item]
    if in_brackets and len(spaced) == 1:
        return every, every
    grouped: list[str] = []
    for item in spaced:
        is_number = _THOUSANDS.fullmatch(item) and len(split_top_level(item, _EVERY)) > 1
        grouped += [item] if is_number else [i for i in split_top_level(item, _EVERY) if i]
    return grouped, every


def _both_signs(item: str) -> list[str]:
    r"""The two items of one with \pm, and perhaps \mp; else the item itself."""
    if item.count("\\pm") + item.count("\\mp") == 0 or item.count("\\pm") > 1:
        return [item]
    upper = item.replace("\\pm", "+").replace("\\mp", "-")
    lower = item.replace("\\pm", "-").replace("\\mp", "+")
    return [upper.strip("+ "), lower.strip("+ ")]
