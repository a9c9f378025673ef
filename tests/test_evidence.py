"""docs/evidence.md says what its records say."""

import json
from typing import Any

import numpy as np
import pytest
from places import ROOT
from quoted_numbers import cells_of, paragraphs, split, strangers, tables, values_of

from cipo_jax.commands.study.measures import by_method, tasks_of
from cipo_jax.commands.study.report import format_study

# Intervals by resampling, for all measures of all studies.
pytestmark = [pytest.mark.slow, pytest.mark.long]

DOCS = ROOT / "docs"
RECORDS = {path.stem: json.loads(path.read_text()) for path in (DOCS / "evidence").glob("*.json")}


@pytest.fixture(scope="module")
def reports() -> dict[str, str]:
    return {study: format_study(results) for study, results in RECORDS.items()}


@pytest.fixture(scope="module")
def values(reports: dict[str, str]) -> dict[tuple[str, ...], set[float]]:
    """What can be quoted: see `quoted_numbers`, and the means of the training series."""
    found: dict[tuple[str, ...], set[float]] = {}
    for study, report in reports.items():
        found |= values_of(study, report)
        for task in tasks_of(RECORDS[study]):
            for method, records in by_method(RECORDS[study], task).items():
                for name in records[0]["training"].keys() - {"step"}:
                    key = study, task, method, name
                    found[key] = found.get(key, set()) | training_means(records, name)
    return found


def training_means(records: list[dict[str, Any]], name: str) -> set[float]:
    """Over the first ten steps, the last ten and all: the means of the seeds' means."""
    series = [[v for v in record["training"][name] if v is not None] for record in records]
    if not all(series):
        return set()
    parts = (slice(10), slice(-10, None), slice(None))
    return {float(np.mean([np.mean(of[part]) for of in series])) for part in parts}


def test_tables_of_a_study_have_rows_of_its_report(reports: dict[str, str]) -> None:
    reported = {line for report in reports.values() for line in report.splitlines()}
    of_studies = [t for t in tables((DOCS / "evidence.md").read_text()) if t[0] in reported]
    assert of_studies, "none of the page's tables has a heading of a study's report"
    for table in of_studies:
        assert [row for row in table if row not in reported] == []


def test_the_short_tables_of_the_first_page_have_cells_of_one_task(
    reports: dict[str, str],
) -> None:
    called = {"CIPO": "cipo", "GRPO": "grpo", "GRPO, larger groups": "grpo_samples"}
    called["GRPO, more steps"] = "grpo_steps"
    known = [cells for report in reports.values() for cells in cells_of(report).values()]
    short = [t for t in tables((ROOT / "README.md").read_text()) if t[0].startswith("| method ")]
    assert len(short) == 2
    for table in short:
        (_, *names), _, *rows = map(split, table)
        shown = {
            (called[method], name): cell
            for method, *of in rows
            for name, cell in zip(names, of, strict=True)
        }
        assert len(shown) >= 9 and any(shown.items() <= cells.items() for cells in known)


@pytest.mark.parametrize(("page", "only"), [("evidence.md", ""), ("../README.md", "^## Result")])
def test_numbers_in_prose_are_those_of_the_records(
    page: str, only: str, reports: dict[str, str], values: dict[tuple[str, ...], set[float]]
) -> None:
    headings = {table[0] for report in reports.values() for table in tables(report)}
    found = list(paragraphs((DOCS / page).read_text(), headings, only))
    assert found, f"{page}: no section {only}"
    wrong = [
        f"{paragraph.heading}: {', '.join(numbers)} not of {paragraph.sources or 'any source'}, "
        f"see quoted_numbers.py, in {paragraph.text!r}"
        for paragraph in found
        if (numbers := strangers(paragraph, values))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_the_records_are_of_runs_that_can_be_run_again(name: str) -> None:
    for record in RECORDS[name]["runs"]:
        run = f"{record['task']}/{record['method']}"
        assert f"--config=configs/studies/{name}.py:{run}" in record["command"]
        assert f"--workdir=studies/{name}/{run}-{record['seed']}" in record["command"]
