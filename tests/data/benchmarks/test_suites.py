"""The benchmarks' records, on rows of our own making in the benchmarks' own columns."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from places import TESTS

from cipo_jax.data.benchmarks.suites import CORRECT, CRITIQUE, SUITES, load_suite
from cipo_jax.types import CipoError

FIXTURES = TESTS / "fixtures" / "suites"


def copied(tmp_path: Path, name: str, change: Any) -> Path:
    """A directory with one fixture file, its rows changed by `change`."""
    rows = [json.loads(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in change(rows)))
    return tmp_path


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_loads_and_is_asked(name: str) -> None:
    loaded = load_suite(name, str(FIXTURES))
    suite = loaded.suite
    assert len(loaded.items) == 4
    assert suite.prompt.count("{question}") == 1
    assert suite.correction_prompt.count("{question}") == 1
    assert suite.correction_prompt.count("{attempt}") == 1
    assert suite.protocol and suite.samples >= max(suite.pass_at)
    for item in loaded.items:
        assert (item.problem.answer is None) != (item.problem.tests is None)
        assert item.where.startswith(f"{FIXTURES}/")
        assert (item.given is not None) == (suite.task == CORRECT)
        assert (item.given_correct is not None) == (suite.task in (CORRECT, CRITIQUE))
    # The answer of a problem must not be in its prompt: here, of a critique.
    if suite.task == CRITIQUE:
        assert not any("incorrect" in item.problem.question for item in loaded.items)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    def without_answer(rows: list[dict]) -> list[dict]:
        return [{k: v for k, v in r.items() if i != 2 or k != "answer"} for i, r in enumerate(rows)]

    directory = copied(tmp_path, "math500", without_answer)
    with pytest.raises(CipoError, match=r"math500\.jsonl:3: answer.*missing; .*unique_id"):
        load_suite("math500", str(directory))


def test_duplicate_ids_are_named_with_both_lines(tmp_path: Path) -> None:
    directory = copied(tmp_path, "math500", lambda rows: [*rows, rows[1]])
    message = r"math500\.jsonl:5: id: 'test/1' is also the id of .*math500\.jsonl:2"
    with pytest.raises(CipoError, match=message):
        load_suite("math500", str(directory))


def test_an_empty_selection_is_refused(tmp_path: Path) -> None:
    directory = copied(tmp_path, "criticbench", lambda rows: rows[-1:])
    with pytest.raises(CipoError, match="criticbench_math: no problems in"):
        load_suite("criticbench_math", str(directory))


def test_unknown_suites_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CipoError, match=r"eval\.suites: got 'maths', wanted some of aime24, "):
        load_suite("maths", str(FIXTURES))
    with pytest.raises(CipoError, match=r"has no file for minerva; wanted minerva_math\.jsonl or"):
        load_suite("minerva", str(tmp_path))
    with pytest.raises(CipoError, match="data_dir: got .*wanted a directory"):
        load_suite("minerva", str(tmp_path / "nowhere"))
    with pytest.raises(CipoError, match=r"data_dir: got '', .*gsm8k_given is not on the hub"):
        load_suite("gsm8k_given")


def test_files_may_lie_one_level_below(tmp_path: Path) -> None:
    (tmp_path / "math").mkdir()
    shutil.copy(FIXTURES / "aime25.jsonl", tmp_path / "math")
    loaded = load_suite("aime25", str(tmp_path), first=2)
    assert loaded.source == str(tmp_path / "math" / "aime25.jsonl") and len(loaded.items) == 2


def test_the_release_window_includes_its_ends() -> None:
    def months(start: str, end: str) -> list[str]:
        items = load_suite("livecodebench", str(FIXTURES), 0, start, end).items
        return [str(item.problem.meta["date"])[5:7] for item in items]

    assert months("", "") == ["03", "04", "05", "06"]
    assert months("2024-04-15", "2024-05-15") == ["04", "05"]
    assert months("2024-05-16", "") == ["06"]
    with pytest.raises(CipoError, match=r"no problems in .* released 2025-01-01 to \.\.\."):
        months("2025-01-01", "")


def test_rows_without_tests_are_counted_and_other_languages_left_out() -> None:
    loaded = load_suite("debugbench", str(FIXTURES))
    assert [item.group for item in loaded.items] == ["double", "mean", "last", "initials"]
    assert (
        len(loaded.skipped) == 1 and "'tree/5' has no example that can be run" in loaded.skipped[0]
    )


def test_the_tests_shown_are_those_of_the_protocol() -> None:
    first = load_suite("mbpp", str(FIXTURES)).items[0].problem
    assert first.tests is not None
    for shown in first.tests["asserts"]:
        assert shown in first.question
    assert not any(hidden in first.question for hidden in first.tests["challenge_asserts"])
    plus = load_suite("mbpp_plus", str(FIXTURES)).items[0].problem
    assert plus.tests is not None and "results" in plus.tests["asserts"][-1]
    assert "results" not in plus.question
