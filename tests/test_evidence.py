"""docs/evidence.md says what its records say."""

import json
from pathlib import Path

import pytest
from places import ROOT

from cipo_jax.commands.study.report import format_study

# Intervals by resampling, for all measures of all studies.
pytestmark = [pytest.mark.slow, pytest.mark.long]

DOCS = ROOT / "docs"
RECORDS = {path.stem: json.loads(path.read_text()) for path in (DOCS / "evidence").glob("*.json")}


@pytest.fixture(scope="module")
def reported() -> list[str]:
    """The lines of the reports of all studies."""
    return [line for results in RECORDS.values() for line in format_study(results).splitlines()]


def tables(page: Path) -> list[list[str]]:
    """The lines of each table."""
    found: list[list[str]] = [[]]
    for line in page.read_text().splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


@pytest.mark.parametrize("page", ["evidence.md", "../README.md"])
def test_tables_of_a_study_have_rows_of_its_report(page: str, reported: list[str]) -> None:
    of_studies = [table for table in tables(DOCS / page) if table[0] in reported]
    assert of_studies, "none of the page's tables has a heading of a study's report"
    for table in of_studies:
        assert [row for row in table if row not in reported] == []


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_the_records_are_of_runs_that_can_be_run_again(name: str) -> None:
    for record in RECORDS[name]["runs"]:
        run = f"{record['task']}/{record['method']}"
        assert f"--config=configs/studies/{name}.py:{run}" in record["command"]
        assert f"--workdir=studies/{name}/{run}-{record['seed']}" in record["command"]
