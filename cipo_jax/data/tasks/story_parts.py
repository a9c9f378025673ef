"""What a story of the word problems is made of: sentences, and the arithmetic that each asks for.

A story is told in parts: an opening, events, a question; perhaps an idle sentence whose number
nobody needs. A part has wordings, numbers, and worked lines. A line is a label and a formula of two
operands:

    a, b   the part's own numbers           v   the amount before the part
    u      the result of the line above     f   the amount after the opening

The result of a part's last line is the new amount; an opening without lines sets it to its number.

In wordings, {a} and {b} are numbers; {name} is the person whose story it is, {she}, {She} and {her}
stand for that person; {friend} is somebody else, another one in each part; {before} and {now} are
the persons of a comparison. Other fields are words of the setting. No number is below 2, so that
plural nouns fit.

This file decides the form of a story. The stories are in `stories_of_things.py` and
`stories_of_activities.py`; how a problem is drawn, solved and corrupted is decided in
`word_problems.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

# From the amount before a part to the numbers that may stand there; none: the part does not fit.
Numbers = Callable[[int], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Part:
    """A sentence or two. `name` is unique within a story.

    Attributes:
      events: how many events must come before a question, at least and at most.
    """

    name: str
    texts: tuple[str, ...]
    numbers: tuple[Numbers, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    events: tuple[int, int] = (0, 99)


@dataclasses.dataclass(frozen=True)
class Story:
    """One kind of story.

    Attributes:
      settings: each gives the words of the wordings' other fields.
    """

    name: str
    settings: tuple[Mapping[str, str], ...]
    openings: tuple[Part, ...]
    events: tuple[Part, ...]
    questions: tuple[Part, ...]
    idle: tuple[Part, ...]

    def part(self, name: str) -> Part:
        """Raises `KeyError` for an unknown name."""
        parts = (*self.openings, *self.events, *self.questions, *self.idle)
        return {part.name: part for part in parts}[name]


def within(low: int, high: int) -> Numbers:
    return lambda amount: range(low, high + 1)


def part_of(amount: int) -> Sequence[int]:
    return range(2, min(amount - 1, 60))


def beyond(amount: int) -> Sequence[int]:
    return range(amount + 2, amount + 60)


def tens_beyond(amount: int) -> Sequence[int]:
    return range(amount // 10 * 10 + 10, amount + 60, 10)


def divisor(amount: int) -> Sequence[int]:
    return [n for n in range(2, 13) if amount % n == 0 and amount > n]


def even(amount: int) -> Sequence[int]:
    """For wordings with "half", which have no number: only whether the part fits."""
    return () if amount % 2 or amount < 4 else (2,)


FEW, SOME, MANY = within(2, 9), within(2, 30), within(5, 60)


def settings(fields: str, *rows: str) -> tuple[dict[str, str], ...]:
    """Rows of comma-separated words, one for each field."""
    names = fields.split(", ")
    return tuple(dict(zip(names, row.split(", "), strict=True)) for row in rows)


_SHE = ("Anna", "Maria", "Priya", "Mei", "Zoe", "Lena", "Sofia", "Fatima", "Ruth")
_HE = ("Ben", "Omar", "Tom", "Raj", "Kofi", "Luis", "Ivan", "Noah", "Karl")
# (name, she, her)
PEOPLE = (*((name, "she", "her") for name in _SHE), *((name, "he", "him") for name in _HE))
