"""The numbers that a page quotes from studies, and the records that they have to come from.

Prose is everything but rows of tables, code, links and comments. Its numbers are those with a
decimal point, or with `%` or `points` behind them; lambda, seconds, minutes and hours are no
results. Where they come from is said by a comment in the paragraph, or in a paragraph of its own
for the rest of the section:

    <!-- of main/lists/cipo/w2r, regimes/few -->    study/task/method/measure, or the first of these
    <!-- no record: single runs on seed 100 -->     nothing can be checked, and why

Else they come from the section's own tables of studies, or, if it has none, from those of the page.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

_OF, _NONE = re.compile(r"<!-- of (.*?) -->", re.DOTALL), re.compile(r"<!-- no record: \w.*? -->")
_NOT_PROSE = re.compile(
    r"`[^`]*`|\]\([^)]*\)|<!--.*?-->|lambda (?:= )?[\d.]+|\bv?\d+\.\d+\.\d+", re.DOTALL
)
_NUMBER = re.compile(
    r"(?<![\w.])(?P<digits>\d*\.\d+|\d+)(?!\w|\.\d| hours| minutes| seconds)(?P<unit>%| points?)?"
)
_IN_CELL = re.compile(r"(?<![\w.])[-+]?(?:\d*\.\d+|\d+)(?![\w.]*\d)")

# (study, task, method, measure) -> the numbers that its reports and records have.
Values = Mapping[tuple[str, ...], Collection[float]]


@dataclasses.dataclass
class Paragraph:
    """Prose of a page.

    Attributes:
      sources: what a comment says, "" for no record; None without a comment.
      near: numbers of its section's tables of studies, or of the page's.
    """

    heading: str
    text: str
    sources: str | None
    near: Collection[float]


def paragraphs(page: str, headings: Collection[str], only: str = "") -> Iterator[Paragraph]:
    """The paragraphs of a page.

    Args:
      headings: heading lines of the tables of studies; other tables are prose.
      only: a pattern of the headings of sections that are read, with their sub-sections.
    """
    page = re.sub(r"(?ms)^```.*?^```$", "", page)
    whole = cells(line for table in tables(page) if table[0] in headings for line in table[2:])
    level = 0
    for section in re.split(r"(?m)^(?=#{1,6} )", page):
        first, _, body = section.partition("\n")
        marks = len(first) - len(first.lstrip("#"))
        if level and marks <= level:
            level = 0
        if re.search(only, first) and not level:
            level = marks
        if only and not level:
            continue
        own = [table for table in tables(body) if table[0] in headings]
        rows = {line for table in own for line in table}
        near = cells(line for table in own for line in table[2:]) if own else whole
        of_section: str | None = None
        for block in re.split(r"\n\s*\n", body):
            text = "\n".join(line for line in block.splitlines() if line not in rows)
            named, none = _OF.search(text), _NONE.search(text)
            said = named[1] if named else "" if none else None
            if said is not None and not _NOT_PROSE.sub("", text).strip():
                of_section = said
            yield Paragraph(first, text, of_section if said is None else said, near)


def tables(page: str) -> list[list[str]]:
    """The lines of each table."""
    found: list[list[str]] = [[]]
    for line in page.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def cells(rows: Iterator[str]) -> set[float]:
    """The numbers in rows of a table."""
    return {float(n) for row in rows for n in _IN_CELL.findall(row.replace(",", ""))}


def values_of(study: str, report: str) -> dict[tuple[str, ...], set[float]]:
    """The numbers of a study's report by (study, task, method, measure)."""
    found: dict[tuple[str, ...], set[float]] = {}
    for section in re.split(r"(?m)^## ", report)[1:]:
        task, _, body = section.partition("\n")
        for head, _, *rows in tables(body):
            names = _split(head)
            for method, *values in map(_split, rows):
                pairs = list(zip(names[1:], values, strict=True))
                if names[1] == "measure":
                    pairs = [(values[0], " ".join(values[1:]))]
                for measure, text in pairs:
                    key = study, task, method, measure
                    found.setdefault(key, set()).update(cells(iter([text])))
    return found


def _split(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def strangers(paragraph: Paragraph, values: Values) -> list[str]:
    """The numbers of a paragraph that are not those of its sources, as they are written.

    Raises:
      KeyError: there is no such source.
    """
    if paragraph.sources == "":
        return []
    pool = set(paragraph.near)
    if paragraph.sources is not None:
        pool = set()
        for source in re.split(r",\s*", paragraph.sources):
            path = tuple(source.strip().split("/"))
            keys = [key for key in values if key[: len(path)] == path]
            if not keys:
                raise KeyError(source)
            pool |= {value for key in keys for value in values[key]}
    quoted = (match for match in _NUMBER.finditer(_NOT_PROSE.sub(" ", paragraph.text)))
    return [
        match[0]
        for match in quoted
        if ("." in match["digits"] or match["unit"])
        and not _is_one_of(match["digits"], match["unit"], pool)
    ]


def _is_one_of(digits: str, unit: str | None, pool: Collection[float]) -> bool:
    """Whether rounding one of `pool`, or a hundred times it, gives the number."""
    places = len(digits.partition(".")[2])
    scales: Sequence[float] = (100,) if unit else (1, 100)
    wanted = f"{float(digits):.{places}f}"
    return any(f"{abs(scale * v):.{places}f}" == wanted for v in pool for scale in scales)
