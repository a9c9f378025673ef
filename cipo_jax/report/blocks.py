"""What sections of a page are made of: notes and tables, as plain data, and how a section is one.

Figures (`figures.py`) and the browser of pairs (`pairs.py`) are blocks as well. The macro of
templates/blocks.html with a block's name writes it; `markdown.py` writes notes and tables as text.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

Kind = Literal["text", "code", "metric", "estimate", "spark", "interval"]
# Of a row in a table: text, or as `Table` says.
Cell = str | int | tuple[str, ...] | tuple[float, ...]
DRAWN: tuple[Kind, ...] = ("spark", "interval")  # kinds that only a page can show


class Block(Protocol):
    """A part of a section; `macro` names the macro of blocks.html that writes it."""

    @property
    def macro(self) -> str: ...


class Section(NamedTuple):
    """A heading and the blocks below it; a `narrow` one shares a line with the next narrow one,
    where the page is wide."""

    title: str
    blocks: Sequence[Block]
    narrow: bool = False

    @property
    def id(self) -> str:
        return "-".join(self.title.lower().split())


@dataclasses.dataclass(frozen=True)
class Note:
    """A paragraph; in the style "list", lines of which each stands by itself."""

    macro: ClassVar[str] = "note"
    text: str
    style: Literal["nothing", "note", "list"] = "nothing"  # CSS class


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of values; the first value of a row is its heading.

    Attributes:
      label: what a screen reader calls the table.
      columns: the title of each column.
      rows: a value for each column. In a column of kind "estimate" it is a number and lines on its
        interval and its cases, in a "metric" a name and its explanation, in a "spark" the points of
        a small curve, in an "interval" what `interval_places` gives, in others text; lines,
        explanation and points may be "".
      kinds: of the first columns; further ones are "text". A "code" is shown in fixed width.
      numbers: whether all columns but the first are aligned to the right.
      folded: if not "", only this line of the table is shown until it is clicked.
    """

    macro: ClassVar[str] = "table"
    label: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    kinds: Sequence[Kind] = ()
    numbers: bool = False
    folded: str = ""

    def kind(self, column: int) -> Kind:
        return self.kinds[column] if column < len(self.kinds) else "text"


def file_size(num_bytes: int) -> str:
    """In decimal units, as "1.6 MB"."""
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:,.1f} kB"


def interval_places(low: float, value: float, high: float, scale: float) -> tuple[float, ...]:
    """The cell of a difference in a column of kind "interval".

    Args:
      scale: the largest bound that has room; 0 stands in the middle.
    """
    unit = 47 / (scale or 1.0)
    return tuple(round(50 + unit * x, 1) for x in (low, value, high, 0.0))
