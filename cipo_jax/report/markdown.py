"""Sections and tables as markdown."""

from collections.abc import Iterable, Sequence

from cipo_jax.report.blocks import DRAWN, Note, Section, Table


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table."""
    texts = [f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows)]
    return [texts[0], "|" + "---|" * len(head), *texts[1:]]


def markdown_page(title: str, about: str, sections: Iterable[Section]) -> str:
    """A page of notes and tables, as text. Other blocks, and columns that are drawings, are left
    out: only a page in HTML can show them."""
    parts = [f"# {title}", about]
    for section in sections:
        parts.append(f"## {section.title}")
        for block in section.blocks:
            if isinstance(block, Note):
                parts.append(block.text)
            elif isinstance(block, Table):
                kept = [i for i in range(len(block.columns)) if block.kind(i) not in DRAWN]
                rows = [[row[i] for i in kept] for row in block.rows]
                head = [block.columns[i] for i in kept]
                parts.append("\n".join(markdown_table(head, rows)))
    return "\n\n".join(parts) + "\n"


def signed_interval(low: float, high: float) -> str:
    """The bounds of a difference's interval, to three decimals."""
    return f"{low:+.3f} to {high:+.3f}"
