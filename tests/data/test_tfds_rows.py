"""The embedded arithmetic set as a TFDS data set, without TensorFlow."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from cipo_jax.data.datasets import load_problems
from cipo_jax.data.sources import read_rows
from cipo_jax.data.tasks import arithmetic
from cipo_jax.data.tasks.arithmetic_tfds import SIZES, prepare
from cipo_jax.data.tasks.generated import GeneratedProblems
from cipo_jax.types import CipoError


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("tfds"))


def test_what_was_prepared_is_read_back(directory: Path) -> None:
    for split in ("dev", "test"):
        placed = load_problems(f"tfds:{directory}:{split}")
        made = GeneratedProblems(arithmetic.TASK, 0, split).first(SIZES[split])
        assert {(p.id, p.question, p.answer) for _, p in placed} == {
            (p.id, p.question, p.answer) for p in made
        }
        assert placed[7].where == f"{directory}[{split}]:7"


def test_slices_and_the_name(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(directory.parents[1]))
    sliced = list(read_rows(f"tfds:{directory}:train[:10%]"))
    assert len(sliced) == 410
    for name in ("cipo_arithmetic", "cipo_arithmetic:1.0.0"):
        assert list(read_rows(f"tfds:{name}:train[:10%]"))[5].columns == sliced[5].columns


def test_a_prepared_data_set_may_be_in_a_bucket(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tfds.builder_from_directory(directory)
    monkeypatch.setattr(tfds, "builder_from_directory", {"gs://b/set/1.0.0": local}.__getitem__)
    rows = list(read_rows("tfds:gs://b/set/1.0.0:dev"))
    assert len(rows) == SIZES["dev"] and rows[3].where == "gs://b/set/1.0.0[dev]:3"


def test_neither_preparing_nor_reading_imports_tensorflow(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from cipo_jax.data.tasks.arithmetic_tfds import prepare\n"
        "from cipo_jax.data.sources import read_rows\n"
        f"directory = prepare({str(tmp_path)!r})\n"
        "print(len(list(read_rows(f'tfds:{directory}:dev'))))\n"
        "print(*sorted({'tensorflow', 'jax'} & set(sys.modules)))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-2:] == ["256", ""]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tfds:{d}:dev2", "Unknown split 'dev2'"),
        ("tfds:{d}", "wanted tfds:name:split"),
        ("tfds:no_such_data_set:train", "not found"),
        ("tfds:cipo_arithmetic:9.9.9:train", "cannot be loaded"),
    ],
)
def test_wrong_names(directory: Path, source: str, message: str) -> None:
    with pytest.raises(CipoError, match=message):
        list(read_rows(source.format(d=directory)))
