"""Tables, which modes that draw nothing print as well."""

import subprocess
import sys

from cipo_jax.report.markdown import markdown_table


def test_a_table_has_a_line_for_each_row() -> None:
    table = markdown_table(("method", "p"), [("a", 1), ("b", "")])
    assert table == ["| method | p |", "|---|---|", "| a | 1 |", "| b |  |"]


def test_an_evaluation_does_not_import_matplotlib() -> None:
    code = "import sys, cipo_jax.commands.evaluate; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
