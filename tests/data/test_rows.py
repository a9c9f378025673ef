"""Files that are wrong as files: each mistake is named with file and line."""

import gzip
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from etils import epath

from cipo_jax.data.rows import HubSource, Row, hub_source, read_file, read_hub
from cipo_jax.data.sources import read_rows
from cipo_jax.types import CipoError

GOOD = b'{"id": "a", "n": 1}\n'


def written(tmp_path: Path, content: bytes, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_rows_know_their_line(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + b"\n" + GOOD)
    assert [row.where for row in read_file(path)] == [f"{path}:1", f"{path}:3"]
    packed = written(tmp_path, gzip.compress(GOOD), "rows.jsonl.gz")
    assert [row.columns for row in read_file(packed)] == [{"id": "a", "n": 1}]
    listed = written(tmp_path, json.dumps([{"id": "b"}]).encode(), "rows.json")
    assert [row.id for row in read_file(listed)] == ["b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (GOOD + b'{"id": "b"', r"rows\.jsonl:2: not JSON.*may have been cut"),
        (GOOD + b"{'id': 1}\n" + GOOD, r"rows\.jsonl:2: not JSON: (?!.*cut)"),
        (
            GOOD + '{"id": "é"}\n'.encode("latin-1"),
            r"2: not UTF-8 \(byte 8\); wanted text in UTF-8",
        ),
        (GOOD + b'{"id": \n' + GOOD, r"2: not JSON: Expecting value at character 7; wanted one"),
        (GOOD + b"[1]\n", r"rows\.jsonl:2: got list, wanted a json object"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CipoError, match=message):
        list(read_file(written(tmp_path, content)))


def test_a_cut_gzip_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD * 1000)
    path = written(tmp_path, whole[: len(whole) // 2], "rows.jsonl.gz")
    with pytest.raises(CipoError, match=r"rows\.jsonl\.gz:\d+: cannot be read.*been cut"):
        list(read_file(path))
    with pytest.raises(CipoError, match=r"rows\.jsonl\.gz: cannot be read: Not a gzipped"):
        list(read_file(written(tmp_path, GOOD, "rows.jsonl.gz")))


def test_an_empty_list_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(CipoError, match=r"rows\.json: got an empty list, wanted a json list of"):
        list(read_file(written(tmp_path, b"[]\n", "rows.json")))
    with pytest.raises(CipoError, match=r"nowhere\.jsonl: cannot be read"):
        list(read_file(tmp_path / "nowhere.jsonl"))


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + GOOD)
    assert [row.columns for row in read_file(path)] == [{"id": "a", "n": 1}]


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    library.disable_progress_bars()
    return library


def test_local_data_sets_in_each_form(tmp_path: Path, datasets: ModuleType) -> None:
    whole = datasets.Dataset.from_list([{"q": str(i), "n": i} for i in range(5)])
    datasets.DatasetDict({"train": whole, "test": whole.select([4])}).save_to_disk(tmp_path / "all")
    whole.save_to_disk(tmp_path / "one")
    (tmp_path / "none").mkdir()
    whole.select([]).to_parquet(tmp_path / "none" / "train.parquet")
    (tmp_path / "parquet").mkdir()
    whole.to_parquet(tmp_path / "parquet" / "train.parquet")
    for name in ("all", "one", "parquet"):
        rows = list(read_hub(hub_source(f"hf:{tmp_path / name}:train")))
        assert [row.columns for row in rows] == [{"q": str(i), "n": i} for i in range(5)]
        assert rows[3].where == f"{tmp_path / name}[train]:3"
    assert [r.columns["n"] for r in read_hub(hub_source(f"hf:{tmp_path / 'all'}:test"))] == [4]
    sliced = read_hub(hub_source(f"hf:{tmp_path / 'parquet'}:train[1:3]"))
    assert [row.columns["n"] for row in sliced] == [1, 2]
    with pytest.raises(
        CipoError, match=r"all\[dev\]: .*got split 'dev', wanted one of train, test"
    ):
        list(read_hub(hub_source(f"hf:{tmp_path / 'all'}:dev")))
    with pytest.raises(CipoError, match=r"parquet\[dev\]: .*dev"):
        list(read_hub(hub_source(f"hf:{tmp_path / 'parquet'}:dev")))
    with pytest.raises(CipoError, match="none.train.: .*no data"):
        list(read_hub(hub_source(f"hf:{tmp_path / 'none'}:train")))


@pytest.mark.parametrize(
    ("split", "numbers"),
    [("train[:2]", [0, 1]), ("train[50%:]", [2, 3, 4]), ("train[-1:]+train[:1]", [4, 0])],
)
def test_slices_of_saved_data_sets(
    tmp_path: Path, datasets: ModuleType, split: str, numbers: list[int]
) -> None:
    whole = datasets.Dataset.from_list([{"n": i} for i in range(5)])
    datasets.DatasetDict({"train": whole}).save_to_disk(tmp_path / "all")
    whole.save_to_disk(tmp_path / "one")
    for name in ("all", "one"):
        rows = list(read_hub(hub_source(f"hf:{tmp_path / name}:{split}")))
        assert [row.columns["n"] for row in rows] == numbers
        for wrong in ("nonsense", "nonsense[:2]", "train[:", "train[:2]+nonsense"):
            with pytest.raises(CipoError, match=r"got split '.*', wanted one of train.*\[:1000\]"):
                list(read_hub(hub_source(f"hf:{tmp_path / name}:{wrong}")))
    assert len(list(read_hub(hub_source(f"hf:{tmp_path / 'one'}:test")))) == 5


def test_names_of_hub_data_sets(tmp_path: Path) -> None:
    assert hub_source("hf:openai/gsm8k/main:train[:10%]") == HubSource(
        "openai/gsm8k", "train[:10%]", "main"
    )
    assert hub_source("hf:a/b@v1:test") == HubSource("a/b", "test", revision="v1")
    for wrong in ("hf:gsm8k:train", "hf:a/b", "hf:a/b/c/d:train", "hf:/no/such:train", "hf::x"):
        with pytest.raises(CipoError, match="wanted hf:owner/name:split"):
            hub_source(wrong)


def test_missing_columns_name_what_is_there() -> None:
    row = Row("f:7", {"q": "?", "n": 3, "blank": " "})
    with pytest.raises(CipoError, match=r"f:7: question or text: missing; .*: q, n, blank"):
        row.text("question", "text")
    with pytest.raises(CipoError, match="f:7: n: got 3, wanted a text"):
        row.text("n")
    with pytest.raises(CipoError, match="f:7: blank: got ' ', wanted a text"):
        row.text("blank")
    with pytest.raises(CipoError, match="f:7: q: got .*, wanted a list of texts"):
        row.texts("q")


def test_the_hub_without_its_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CipoError, match=r"pip install datasets.*data_dir"):
        list(read_hub(HubSource("someone/something")))


def test_a_remote_file_is_read_and_a_missing_one_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(path: epath.Path) -> bytes:
        if path.name != "rows.jsonl":
            raise RuntimeError(f"NotFoundError: {path}")  # remote stores raise errors of their own
        return GOOD * 2

    monkeypatch.setattr(type(epath.Path("gs://bucket")), "read_bytes", stored)
    rows = list(read_rows("gs://bucket/rows.jsonl"))
    assert [row.where for row in rows] == [f"gs://bucket/rows.jsonl:{n}" for n in (1, 2)]
    with pytest.raises(CipoError, match="gs://bucket/no.jsonl: cannot be read: NotFoundError"):
        list(read_rows("gs://bucket/no.jsonl"))
