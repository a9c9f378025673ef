"""Reading json files and the numbers in them, with errors that name file, key and value."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cipo_jax.types import CipoError


def read_json(file: Path) -> dict[str, Any]:
    """The json object in `file`.

    Raises:
      CipoError: no such file, or something else in it.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CipoError(f"{file}: no such file; wanted a Hugging Face checkpoint") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CipoError(f"{file}: not valid json: {error}") from error
    if not isinstance(values, dict):
        raise CipoError(f"{file}: wanted a json object, got {type(values).__name__}")
    return values


def read_number(
    where: Path | str, values: Mapping[str, Any], key: str, kind: type, default: Any = None
) -> Any:
    """`values[key]`, or `default` where it is absent or null, as a `kind`: int or float.

    Args:
      where: the file, and the place in it, for the error.

    Raises:
      CipoError: the value is not a positive number of that kind.
    """
    value = values.get(key)
    value = default if value is None else value
    allowed = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, allowed) or value <= 0:
        raise CipoError(f"{where}: {key}: got {value!r}, wanted a positive {kind.__name__}")
    return kind(value)
