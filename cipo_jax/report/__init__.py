"""One run as a page, report.html, written from its run directory alone.

Decided here: what the page shows, in which order, and how it looks. Not decided here: what a metric
is (`run/measures.py`) or what a run leaves in its directory (`run/records/`). This room may import
`config`, `types`, the readers of `run/records/` and the rules of `run/watch/health.py`.

To add a figure: append a `Plot` with the metrics' names to its section in `plots.py`. A new section
of figures is one more entry of what `plots.plots` returns.

To add a table: write a function in `tables.py` that returns a `Table`, and put what it returns into
a `Section` in `page.write_report`. A new kind of cell is a name in `tables.Kind` and a branch of
the macro `cell` in `templates/blocks.html`.

To add another kind of block: write a frozen dataclass with `macro`, a macro of that name in
`templates/blocks.html`, and add the class to `page.Block`. HTML is written in templates only, which
escape every value; looks are in `templates/report.css`.
"""
