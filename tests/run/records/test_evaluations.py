"""The directories of evaluations: names of their own, and no results written over."""

from pathlib import Path

import pytest

from cipo_jax.run.records.archive import AttemptArchive
from cipo_jax.run.records.evaluations import results_directory
from cipo_jax.types import CipoError


def test_evaluations_of_one_checkpoint_have_directories_of_their_own(tmp_path: Path) -> None:
    for number in ("", "-2", "-3"):
        with results_directory(tmp_path, "", "step-000004") as directory:
            assert directory.name == f"step-000004{number}"
            (directory / "results.json").write_text("{}")
    with pytest.raises(RuntimeError), results_directory(tmp_path, "", "step-000005") as empty:
        raise RuntimeError
    assert not empty.exists()
    with pytest.raises(RuntimeError), results_directory(tmp_path, "", "step-000005") as empty:
        AttemptArchive(empty)
        raise RuntimeError
    assert not empty.exists()


def test_results_under_a_name_are_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), results_directory(tmp_path, "a", "step-000004") as first:
        AttemptArchive(first).write("aime24", 2, [])
        raise RuntimeError
    with results_directory(tmp_path, "a", "step-000004") as again:
        assert again == first
        assert not list(again.glob("attempts/*")), "those of an evaluation that did not end"
        with (
            pytest.raises(CipoError, match="config.eval.name=.*a: is in use by process"),
            results_directory(tmp_path, "a", "step-000004"),
        ):
            pass
        (again / "results.json").write_text("{}")
    with (
        pytest.raises(
            CipoError, match=r"config.eval.name: .*a has results already; choose another"
        ),
        results_directory(tmp_path, "a", "step-000004"),
    ):
        pass
