"""Times of day and dates as they are written.

This file decides which texts name the same time or the same day. A time is written with or without
its half of the day (`4:30 p.m.`, `16:30`, `4:30`), a date with or without its year.
"""

import re
from typing import NamedTuple

_TIME = re.compile(
    r"(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-5][0-9]))?(?::(?P<second>[0-5][0-9]))?"
    r"(?: ?(?:o'clock )?(?:(?P<half>[ap])\.? ?m\.?"
    r"|(?:in the )?(?P<part>morning|afternoon|evening)))?",
    re.I,
)
_NAMED = {"noon": "12:00 pm", "12 noon": "12:00 pm", "midnight": "12:00 am"}
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?: ?,? (?P<year>[0-9]{4}))?"
_DATES = tuple(
    re.compile(pattern, re.I)
    for pattern in (rf"{_MONTH} {_DAY}{_YEAR}", rf"(?:the )?{_DAY} (?:of )?{_MONTH}{_YEAR}")
)


class _Time(NamedTuple):
    """`hour` of 24 where `half_known`, else as written; `has_half`: a.m. or p.m. stands with it."""

    hour: int
    minute: int
    second: int
    half_known: bool
    has_half: bool


def moments_equal(ours: str, gold: str) -> bool | None:
    """Do both name the same time of day, or the same day? None if the reference names neither."""
    verdict = _times_equal(ours, gold)
    return _dates_equal(ours, gold) if verdict is None else verdict


def _times_equal(ours: str, gold: str) -> bool | None:
    """Do both name the same time of day? None if the reference names none,
    or may be a ratio, as the answer is.

    A reference that says whether it is morning is not met by an answer that leaves it open. Where
    the reference leaves it open, the answer may say more.
    """
    theirs = _read_time(gold)
    if theirs is None or (not theirs.half_known and ":" not in gold):
        return None
    mine = _read_time(ours)
    if mine is None and not theirs.half_known and re.search(r"\\frac|/", ours):
        return None  # 2:15 may be a ratio
    if mine is None or mine[1:3] != theirs[1:3]:
        return False
    if theirs.half_known or not mine.half_known:
        return mine.hour == theirs.hour and mine.half_known >= theirs.half_known
    return mine.hour == theirs.hour or (mine.has_half and mine.hour % 12 == theirs.hour % 12)


def _dates_equal(ours: str, gold: str) -> bool | None:
    """Do both name the same day? A year may be missing. None if the reference names no day."""
    theirs, mine = _read_date(gold), _read_date(ours)
    if theirs is None:
        return None
    if mine is None or mine[:2] != theirs[:2]:
        return False
    return None in (mine[2], theirs[2]) or mine[2] == theirs[2]


def _read_time(text: str) -> _Time | None:
    text = text.strip().lower()
    found = _TIME.fullmatch(_NAMED.get(text, text))
    if found is None or int(found["hour"]) > 24:
        return None
    hour, half = int(found["hour"]), found["half"] or found["part"]
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (half not in ("a", "morning"))
    is_24 = found["minute"] is not None and (hour == 0 or hour > 12 or found["hour"][0] == "0")
    return _Time(
        hour, int(found["minute"] or 0), int(found["second"] or 0), bool(half) or is_24, bool(half)
    )


def _read_date(text: str) -> tuple[str, int, str | None] | None:
    for pattern in _DATES:
        if found := pattern.fullmatch(text.strip()):
            return found["month"][:3].lower(), int(found["day"]), found["year"]
    return None
