"""Rows of a file or of a Hugging Face data set, each with the place it came from.

This file decides how rows are read, which names a column may have, and which sources are refused:
wrong encoding, no json, a cut end, no rows. What is made of the columns is decided in `datasets.py`
and `data/benchmarks/rows.py`.
"""

import dataclasses
import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from cipo_jax.types import CipoError

# The names that data sets have for one thing, the usual one first.
ALIASES = {
    "question": ("question", "problem", "prompt"),
    "answer": ("answer", "final_answer", "expected_answer"),
    "tests": ("tests",),
    "id": ("id", "task_id", "unique_id", "question_id", "ID"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row, and how to take required columns from it."""

    where: str  # "file:line" or "hub id[split]:number"
    columns: dict[str, Any]  # as read

    @property
    def id(self) -> str:
        """The row's id as text, or its file and line."""
        found = self.present(*ALIASES["id"])
        return str(self.columns[found[0]]) if found else self.where.rpartition("/")[2]

    def present(self, *names: str) -> list[str]:
        """Those of the columns that are there and not null, in the order of `names`."""
        return [name for name in names if self.columns.get(name) is not None]

    def first(self, *names: str) -> Any:
        """The value of the first of the columns that is present. Raises CipoError if none is."""
        if found := self.present(*names):
            return self.columns[found[0]]
        wanted, others = " or ".join(names), ", ".join(self.columns) or "none"
        raise CipoError(f"{self.where}: {wanted}: missing; columns of the row: {others}")

    def text(self, *names: str) -> str:
        """As `first`, and it must be a text that is not blank."""
        return self.checked_text(names[0], self.first(*names))

    def texts(self, *names: str) -> list[str]:
        """As `first`, and it must be a list of texts that is not empty."""
        value = self.first(*names)
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        if not is_list or not value or not all(isinstance(part, str) for part in value):
            raise CipoError(f"{self.where}: {names[0]}: got {value!r:.60}, wanted a list of texts")
        return list(value)

    def checked_text(self, name: str, value: Any) -> str:
        """`value` if it is a text that is not blank, else CipoError with the column's name."""
        if not isinstance(value, str) or not value.strip():
            raise CipoError(f"{self.where}: {name}: got {value!r:.60}, wanted a text")
        return value


class HubSource(NamedTuple):
    """A data set on the hub, or in a local directory."""

    name: str  # "owner/name", or the directory
    split: str = "test"  # may be a slice
    config: str = ""  # name of its configuration; "" for the default
    files: str = ""  # pattern of jsonl files in its repository, to be read without a loading script
    revision: str = ""  # commit, branch or tag; "" for the newest


def read_file(path: str | Path) -> Iterator[Row]:
    """The rows of a local or gs:// file: json lines (`.jsonl`, also `.jsonl.gz`) or one json list
    (`.json`).

    Raises:
      CipoError: names file and line of whatever cannot be read.
    """
    file, found = epath.Path(path), False
    if file.suffix == ".json":
        content = b"".join(line for _, line in _lines(file))
        rows = _json(content, str(file), cut=True) if content.strip() else []
        if not isinstance(rows, list):
            raise CipoError(f"{file}: got {type(rows).__name__}, wanted a json list of objects")
        if content.strip() and not rows:
            raise CipoError(f"{file}: got an empty list, wanted a json list of objects")
        for number, columns in enumerate(rows, start=1):
            found = True
            yield _row(f"{file}:item {number}", columns)
    else:
        for number, line in _lines(file):
            if line.strip():
                found = True
                where = f"{file}:{number}"
                yield _row(where, _json(line, where, cut=not line.endswith(b"\n")))
    if not found:
        raise CipoError(f"{file}: the file is empty, wanted one json object a line")


def hub_source(source: str) -> HubSource:
    """Reads "hf:owner/name[/config][@revision]:split" or "hf:directory:split".

    Raises:
      CipoError: it is not written so.
    """
    match = re.fullmatch(r"hf:(?P<name>[^:@]+)(@(?P<revision>[^:]+))?:(?P<split>.+)", source)
    if match is not None:
        name, split, revision = match["name"], match["split"], match["revision"] or ""
        if Path(name).is_dir():
            return HubSource(name, split)
        parts = name.split("/")
        if len(parts) in (2, 3) and all(parts):
            return HubSource("/".join(parts[:2]), split, "".join(parts[2:]), revision=revision)
    raise CipoError(
        f"{source!r}: wanted hf:owner/name:split, hf:owner/name/config:split, or "
        "hf:directory:split with an existing directory"
    )


def read_hub(source: HubSource) -> Iterator[Row]:
    """The rows of a data set; from the hub it is downloaded on first use.

    Raises:
      CipoError: the `datasets` package is missing, or the data cannot be loaded.
    """
    try:
        # Here and not at the top: an optional package, and a slow import.
        import datasets
    except ImportError as error:
        raise CipoError(
            f"{source.name}: reading it needs the package `datasets` "
            "(pip install 'cipo_jax[datasets]', or pip install datasets); "
            "or use a jsonl file, for benchmarks by --config.eval.data_dir"
        ) from error
    where = f"{source.name}[{source.split}]"
    is_saved = any((Path(source.name) / n).is_file() for n in ("state.json", "dataset_dict.json"))
    try:
        if is_saved:
            data = _saved_split(datasets.load_from_disk(source.name), source.split)
        elif source.files:
            files = f"hf://datasets/{source.name}/{source.files}"
            data = datasets.load_dataset("json", data_files=files, split="train")
        else:
            config, revision = source.config or None, source.revision or None
            data = datasets.load_dataset(source.name, config, split=source.split, revision=revision)
    except Exception as error:  # whatever the network, the hub or a loading script may raise
        raise CipoError(
            f"{where}: cannot be loaded by the package datasets ({error}); check name, split and "
            "network, or use a jsonl file, for benchmarks by --config.eval.data_dir"
        ) from error
    for number, columns in enumerate(data):
        yield Row(f"{where}:{number}", dict(columns))


def _saved_split(saved: Any, split: str) -> Any:
    """The split of what `save_to_disk` wrote: several splits by name, or one data set. A data set
    that does not say which it is may be called by any of the usual names."""
    import datasets  # as in `read_hub`

    if not isinstance(saved, dict):
        names = [str(saved.split)] if saved.split else ["train", "validation", "test"]
        saved = dict.fromkeys(names, saved)
    if split in saved:
        return saved[split]
    try:
        wanted = datasets.ReadInstruction.from_spec(split)
        slices = wanted.to_absolute({name: len(data) for name, data in saved.items()})
    except (ValueError, AssertionError) as error:
        known, example = ", ".join(saved), f"{next(iter(saved))}[:1000]"
        raise CipoError(
            f"got split {split!r}, wanted one of {known}, or a slice as {example}"
        ) from error
    return datasets.concatenate_datasets(
        [saved[part.splitname].select(range(part.from_, part.to)) for part in slices]
    )


def _lines(path: epath.Path) -> Iterator[tuple[int, bytes]]:
    """(number, line with its line feed) of a file, unpacked if it ends in .gz."""
    number = 0
    try:
        # Iterating over a remote file takes one that is not there for one that is empty.
        is_remote = "://" in str(path)
        with io.BytesIO(path.read_bytes()) if is_remote else path.open("rb") as stored:
            lines = gzip.GzipFile(fileobj=stored) if path.suffix == ".gz" else stored
            for number, line in enumerate(lines, start=1):
                yield number, line
    except FileNotFoundError as error:
        raise CipoError(f"{path}: cannot be read: there is no such file") from error
    except IsADirectoryError as error:
        raise CipoError(f"{path}: cannot be read: is a directory; wanted a jsonl file") from error
    except Exception as error:  # OSError, EOFError, zlib.error, or what a remote store raises
        place = f"{path}:{number + 1}" if number else str(path)
        cut = " (the file may have been cut)" if isinstance(error, EOFError) else ""
        raise CipoError(f"{place}: cannot be read: {error}{cut}; fetch the file again") from error


def _json(raw: bytes, where: str, cut: bool) -> Any:
    """`raw` decoded; `cut`: no line feed follows it, so the file may end too early."""
    hint = "; the file ends here, it may have been cut" if cut else ""
    try:
        return json.loads(raw.decode("utf-8-sig").rstrip())  # a byte order mark is ignored
    except UnicodeDecodeError as error:
        raise CipoError(
            f"{where}: not UTF-8 (byte {error.start}){hint}; wanted text in UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        why = str(error)
        if isinstance(error, json.JSONDecodeError):
            why = f"{error.msg} at character {error.pos + 1}"
        raise CipoError(f"{where}: not JSON: {why}{hint}; wanted one object a line") from error


def _row(where: str, columns: Any) -> Row:
    if not isinstance(columns, dict):
        raise CipoError(f"{where}: got {type(columns).__name__}, wanted a json object")
    return Row(where, columns)
