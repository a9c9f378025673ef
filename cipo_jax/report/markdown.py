"""Tables as markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table."""
    texts = [f"| {' | '.join(map(str, cells))} |" for cells in (head, *rows)]
    return [texts[0], "|" + "---|" * len(head), *texts[1:]]


def signed_interval(low: float, high: float) -> str:
    """The bounds of a difference's interval, to three decimals."""
    return f"{low:+.3f} to {high:+.3f}"
