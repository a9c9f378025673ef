"""The numbers that a page quotes from studies, and the records that they have to come from.

Prose is everything but rows of studies' tables, code, links and comments. Its numbers are those
with a decimal point, or with `%` or `points` behind them; lambda, times, durations and the 95% of
intervals are no results. A comment in the paragraph or list item, or in a paragraph of its own for
the rest of the section, says where they come from:

    <!-- of main/lists/cipo/w2r, regimes/few/grpo*/pass@1 -->   study/task/method/measure, or the
                                                                first of these; * is anything
    <!-- no record: single runs on seed 100 -->                 nothing can be checked, and why

Without one, a number has no source.
"""

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

_OF, _NONE = re.compile(r"<!-- of (.*?) -->", re.DOTALL), re.compile(r"<!-- no record: \w.*? -->")
_NOT_PROSE = re.compile(
    r"`[^`]*`|\]\([^)]*\)|<!--.*?-->|lambda (?:= |of )?[\d.]+\b|\b\d+\.\d+\.\d+|95% t\b|95% int\w+",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?<![\w.])(?P<digits>\d*\.\d+|\d+)(?!\w|\.\d| times| hours| minutes| seconds)"
    r"(?P<unit>%| points?)?"
)
_IN_CELL = re.compile(r"(?<![\w.])[-+]?(?:\d*\.\d+|\d+)(?![\w.]*\d)")

# (study, task, method, measure) -> the numbers that its reports and records have.
Values = Mapping[tuple[str, ...], Collection[float]]


class Paragraph(NamedTuple):
    """A paragraph, or an item of a list.

    Attributes:
      heading: the line of its section.
      sources: what a comment says, "" for no record; None without a comment.
    """

    heading: str
    text: str
    sources: str | None


def paragraphs(page: str, headings: Collection[str], only: str = "") -> Iterator[Paragraph]:
    """The prose of a page.

    Args:
      headings: heading lines of the tables of studies; other tables are prose.
      only: a pattern of the headings of sections that are read, with their sub-sections.
    """
    page = re.sub(r"(?ms)^```.*?^```$", "", page)
    level = 0
    for section in re.split(r"(?m)^(?=#{1,6} )", page):
        first, _, body = section.partition("\n")
        marks = len(first) - len(first.lstrip("#"))
        level = 0 if level and marks <= level else level
        if not level and re.search(only, first):
            level = marks
        if only and not level:
            continue
        rows = {row for table in tables(body) if table[0] in headings for row in table}
        prose = "\n".join(line for line in body.splitlines() if line not in rows)
        of_section: str | None = None
        for text in re.split(r"\n\s*\n|\n(?=\s*- )", prose):
            named, none = _OF.search(text), _NONE.search(text)
            said = named[1] if named else "" if none else None
            if said is not None and not _NOT_PROSE.sub("", text).strip():
                of_section = said
            yield Paragraph(first, text, of_section if said is None else said)


def tables(page: str) -> list[list[str]]:
    """The lines of each table."""
    found: list[list[str]] = [[]]
    for line in page.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def values_of(study: str, report: str) -> dict[tuple[str, ...], set[float]]:
    """The numbers of a study's report by (study, task, method, measure)."""
    found: dict[tuple[str, ...], set[float]] = {}
    for section in re.split(r"(?m)^## ", report)[1:]:
        task, _, body = section.partition("\n")
        for head, _, *rows in tables(body):
            names = split(head)
            for method, *values in map(split, rows):
                pairs: Iterable[tuple[str, str]] = zip(names[1:], values, strict=True)
                if names[1] == "measure":
                    pairs = [(values[0], " ".join(values[1:]))]
                for measure, text in pairs:
                    numbers = map(float, _IN_CELL.findall(text.replace(",", "")))
                    found.setdefault((study, task, method, measure), set()).update(numbers)
    return found


def cells_of(report: str) -> dict[str, dict[tuple[str, str], str]]:
    """{task: {(method, measure): the cell of a report's tables of values}}."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for section in re.split(r"(?m)^## ", report)[1:]:
        task, _, body = section.partition("\n")
        for head, _, *rows in tables(body):
            (first, *names), cells = split(head), found.setdefault(task, {})
            for method, *values in map(split, rows):
                if first == "method" and names[0] == "seeds":
                    cells |= {(method, n): v for n, v in zip(names, values, strict=True)}
    return found


def split(row: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def strangers(paragraph: Paragraph, values: Values) -> list[str]:
    """The numbers of a paragraph that are not those of its sources, as they are written.

    Raises:
      KeyError: there is no such source.
    """
    if paragraph.sources == "":
        return []
    pool: set[float] = set()
    for source in filter(None, re.split(r",\s*", paragraph.sources or "")):
        path = source.strip().split("/")
        keys = [key for key in values if all(map(fnmatch.fnmatchcase, key[: len(path)], path))]
        if not keys:
            raise KeyError(f"{paragraph.heading}: no records of {source}")
        pool |= {value for key in keys for value in values[key]}
    quoted = _NUMBER.finditer(_NOT_PROSE.sub(" ", paragraph.text))
    return [
        match[0]
        for match in quoted
        if ("." in match["digits"] or match["unit"])
        and not _is_one_of(match["digits"], match["unit"], pool)
    ]


def _is_one_of(digits: str, unit: str | None, pool: Collection[float]) -> bool:
    """Whether rounding one of `pool`, or a hundred times it, gives the number."""
    places = len(digits.partition(".")[2])
    wanted, scales = f"{float(digits):.{places}f}", (100,) if unit else (1, 100)
    return any(f"{abs(scale * v):.{places}f}" == wanted for v in pool for scale in scales)
