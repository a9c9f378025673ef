"""Pages: one run as report.html, written from its run directory alone; what pages of several runs
share with it.

    blocks.py        notes, tables, sections: what a page is made of, as plain data
    page.py          the page of a run: which sections, in which order
    facts.py         its head: method, model, data, device, date, version, progress
    evaluations.py   its table before and after
    tables.py        its other tables
    plots.py         which metrics are drawn together
    figures.py       curves shortened, smoothed and coloured; what a pointer shows
    drawing.py       a figure as SVG
    pairs.py         which attempts and corrections are shown, and how they are packed
    comparison.py    methods beside each other: figures of a page, png and svg
    markdown.py      sections as text
    html.py          a page as one file; templates/ has its HTML, its looks and its script

Decided here: what pages show, in which order, and how it looks. Not decided here: what a metric is
(`run/measures.py`), what a run leaves in its directory (`run/records/`), and what the pages of a
study and of a comparison say (`commands/`). This room may import `config`, `types` and `run`.

To add a figure: append a `Plot` with the metrics' names to its section in `plots.py`. A new section
of figures is one more entry of what `plots.plots` returns.

To add a table: write a function that returns a `Table`, and put what it returns into a `Section` in
`page.write_report`. A new kind of cell is a name in `blocks.Kind` and a branch of the macro `cell`
in `templates/blocks.html`.

To add another kind of block: write a frozen dataclass with `macro`, and a macro of that name in
`templates/blocks.html`. HTML is written in templates only, which escape every value; looks are in
`templates/report.css`, what the page does in `templates/report.js`.

To add a page: make a `html.Page` and give it to `html.write_page`.
"""
