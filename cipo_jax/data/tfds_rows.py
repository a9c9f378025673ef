"""Rows of TFDS data sets, read by position from array_record files. TensorFlow is not needed.

This file decides how a TFDS source is found and its values turned into plain Python ones.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cipo_jax.data.rows import Row
from cipo_jax.data.tasks import arithmetic_tfds
from cipo_jax.types import CipoError

_SOURCE = re.compile(r"tfds:(?P<name>.+?):(?P<split>[A-Za-z_]\w*(\[.*\])?(\+.*)?)")


def read_tfds(source: str) -> Iterator[Row]:
    """The rows of "tfds:name[/config][:version]:split" or "tfds:directory:split".

    A name is looked up in `TFDS_DATA_DIR` (by default ~/tensorflow_datasets) and prepared there on
    first use; a directory is that of a prepared version, local or on gs://.

    Raises:
      CipoError: the source is not written so, or the data cannot be loaded.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise CipoError(f"{source!r}: wanted tfds:name:split or tfds:directory/1.0.0:split")
    name, split = match["name"], match["split"]
    where = f"{name}[{split}]"
    try:
        if name.startswith("gs://") or Path(name).is_dir():
            data = tfds.builder_from_directory(name).as_data_source(split=split)
        elif name.split(":")[0] == arithmetic_tfds.NAME:
            # Named by its class: looking up names costs an import of every TFDS data set.
            version = name.partition(":")[2] or None
            builder = arithmetic_tfds.CipoArithmetic(file_format="array_record", version=version)
            builder.download_and_prepare()
            data = builder.as_data_source(split=split)
        else:
            prepare = {"file_format": tfds.core.FileFormat.ARRAY_RECORD}
            data = tfds.data_source(name, split=split, builder_kwargs=prepare)
    except Exception as error:  # whatever TFDS, its file formats and the network may raise
        reason = str(error).split("\n")[0]  # an unknown name is followed by all known ones
        raise CipoError(
            f"{source}: cannot be loaded by tensorflow_datasets ({reason}); check name and split. "
            "A prepared data set must be in array_record format"
        ) from error
    for number in range(len(data)):
        place = f"{where}:{number}"
        yield Row(place, {k: _plain(v, f"{place}: {k}") for k, v in data[number].items()})


def _plain(value: Any, where: str) -> Any:
    """Texts for bytes, Python numbers and lists for NumPy's."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CipoError(f"{where}: not UTF-8 (byte {error.start})") from error
    if isinstance(value, dict):
        return {k: _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), where)
    if isinstance(value, list):
        return [_plain(v, where) for v in value]
    return value
