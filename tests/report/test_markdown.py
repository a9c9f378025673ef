"""Tables, which modes that draw nothing print as well."""

import subprocess
import sys

import pytest

from cipo_jax.report.blocks import Note, Section, Table
from cipo_jax.report.markdown import markdown_page, markdown_table


def test_a_table_has_a_line_for_each_row() -> None:
    table = markdown_table(("method", "p"), [("a", 1), ("b", "")])
    assert table == ["| method | p |", "|---|---|", "| a | 1 |", "| b |  |"]


def test_a_page_as_text_leaves_out_what_only_a_page_can_show() -> None:
    table = Table("t", ("a", "", "b"), [("x", (1.0, 2.0, 3.0, 50.0), 7)], ("text", "interval"))
    text = markdown_page("Title", "About.", [Section("Part", [Note("Words."), table])])
    assert text == "# Title\n\nAbout.\n\n## Part\n\nWords.\n\n| a | b |\n|---|---|\n| x | 7 |\n"


@pytest.mark.slow
def test_an_evaluation_does_not_import_matplotlib() -> None:
    code = "import sys, cipo_jax.commands.evaluate; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
