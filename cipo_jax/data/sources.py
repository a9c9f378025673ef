"""How a source of problems is written in the config, and which reader it gets.

    arithmetic, lists, programs, word_problems   the embedded tasks
    path/to/file.jsonl              json lines; also .jsonl.gz, .json (a list), gs://bucket/f.jsonl
    hf:owner/name:split             the hub; hf:owner/name/config:split, hf:owner/name@main:split
    hf:directory:split              a local directory, of `save_to_disk` or of parquet or json files
    tfds:name:split                 TFDS; tfds:name/config:1.0.0:split, tfds:directory/1.0.0:split
    a.jsonl, b.jsonl                both as one
    a.jsonl=0.7, b.jsonl=0.3        a mixture with weights

A split may be a slice, as `train[:1000]`. What the columns of a row mean is decided in
`datasets.py`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cipo_jax.data.rows import Row, hub_source, read_file, read_hub
from cipo_jax.data.tasks.embedded import GENERATED
from cipo_jax.types import CipoError


class Source(NamedTuple):
    """One source of a mixture."""

    name: str  # as written, without its weight
    weight: float | None  # relative to the others'; None if none is written


def parse_sources(text: str, key: str) -> tuple[Source, ...]:
    """The sources that `text` lists; `key`, of the config, is for messages.

    Raises:
      CipoError: an empty entry, a source twice, a weight that is 0, or weights for some only.
    """
    sources = []
    for part in text.split(","):
        match = re.fullmatch(r"(.*?)\s*(?:=\s*(\d+\.?\d*|\.\d+))?", part.strip())
        assert match is not None
        sources.append(Source(match[1], None if match[2] is None else float(match[2])))
    names, weights = zip(*sources, strict=True)
    if not all(names):
        raise CipoError(f"config.{key}: got {text!r}, wanted sources separated by commas")
    if len(set(names)) < len(names):
        raise CipoError(f"config.{key}: got {text!r}, with a source twice; give it more weight")
    if 0 in weights:
        raise CipoError(f"config.{key}: got {text!r}, wanted weights > 0")
    if None in weights and any(weights):
        raise CipoError(f"config.{key}: got {text!r}, wanted a weight for every source, or none")
    if len(names) > 1 and None in weights and GENERATED.keys() & set(names):
        raise CipoError(
            f"config.{key}: got {text!r}, wanted weights, as in {names[0]}=0.5,{names[1]}=0.5: an "
            "embedded task is unlimited, so it cannot be joined with others as a whole"
        )
    return tuple(sources)


def check_sources(text: str, key: str) -> None:
    """Refuses a list that is ill-formed or names a file that does not exist. None is read.

    Raises:
      CipoError: as `parse_sources`, or there is no such file.
    """
    for name, _ in parse_sources(text, key):
        try:
            _require(name)
        except CipoError as error:
            raise CipoError(f"config.{key}: {error}") from error


def read_rows(name: str) -> Iterator[Row]:
    """The rows of a source that is not generated.

    Raises:
      CipoError: the source cannot be read; names the place of the mistake.
    """
    _require(name)
    if name.startswith("hf:"):
        return read_hub(hub_source(name))
    if name.startswith("tfds:"):
        # Here and not at the top: most runs do not read TFDS, and the import is slow.
        from cipo_jax.data.tfds_rows import read_tfds

        return read_tfds(name)
    return read_file(name)


def _require(name: str) -> None:
    """Raises `CipoError` if a source is a file that does not exist or of a store that is not read,
    or is not written as one of the hub is."""
    if name.startswith("hf:"):
        hub_source(name)
    scheme, is_remote, _ = name.removeprefix("tfds:").partition("://")
    if is_remote and scheme != "gs":
        raise CipoError(
            f"{name}: files of {scheme}:// are not read; wanted a local file, which you can "
            "download first, or gs://bucket/file.jsonl"
        )
    is_file = name not in GENERATED and not name.startswith(("hf:", "tfds:")) and "://" not in name
    if is_file and not Path(name).exists():
        raise CipoError(
            f"{name}: there is no such file; wanted a jsonl file, hf:name:split, tfds:name:split, "
            f"or one of {', '.join(map(repr, GENERATED))}, the embedded tasks"
        )
