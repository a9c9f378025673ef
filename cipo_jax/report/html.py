"""A page as one self-contained HTML file: a head, and sections of blocks.

Decides what all pages share: the head, the order of its parts, which template writes a block, and
what a page may load, which is nothing. HTML is written in templates only. They escape every value,
since texts on a page may have been written by a model; a content security policy allows the page's
one script by its hash. What stands on a page is decided by whoever makes it.
"""

import base64
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from cipo_jax.report import figures
from cipo_jax.report.blocks import Section
from cipo_jax.run.records.files import write_text


class Page(NamedTuple):
    """What stands on a page.

    Attributes:
      kind: what it is a page of, such as "cipo_jax run".
      name: the heading.
      verdicts: the result, in a sentence each.
      facts: {label: value}.
      command: as it can be typed; "" if it is not known.
      command_of: its label.
      warnings: {what: where}, of values that were not finite.
      sections: of different titles.
      packed: as `pairs.pack_pairs` gives them; "" for a page without pairs.
    """

    kind: str
    name: str
    verdicts: Sequence[str]
    facts: Mapping[str, str]
    sections: Sequence[Section]
    command: str = ""
    command_of: str = "Command"
    warnings: Mapping[str, str] = {}
    packed: str = ""


def write_page(path: Path, page: Page) -> Path:
    """Writes the page to `path` and returns that. An undefined name in a template raises."""
    # Here and not at the top: only a page needs jinja2, and a run starts sooner without it.
    import jinja2

    assets = importlib.resources.files("cipo_jax.report") / "templates"
    script = (assets / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cipo_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html").render(
        page=page,
        style=Markup((assets / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        max_points=figures.MAX_POINTS,
        max_stacked_points=figures.MAX_STACKED_POINTS,
        smoothed_points=figures.SMOOTHED_POINTS,
        band=figures.BAND,
    )
    # Names and values may hold half a surrogate pair, which UTF-8 cannot: U+FFFD is shown.
    write_text(path, text, errors="xmlcharrefreplace")
    return path
