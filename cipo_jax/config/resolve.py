"""From a raw config to the frozen `Config`, and to the file that keeps it with a run.

An unknown or ill-typed key fails here at any depth, with the nearest name.
"""

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cipo_jax.config.checks import check_values
from cipo_jax.config.keys import Config, flatten
from cipo_jax.types import CipoError


def resolve(raw: Mapping[str, Any] | ConfigDict) -> Config:
    """Checks `raw` key by key and returns the frozen `Config`.

    Raises:
      CipoError: an unknown key, a value of another type, or values that contradict each other;
        the message names the key, the value, and what would be right.
    """
    plain = raw.to_dict() if isinstance(raw, ConfigDict) else raw
    config = _section(Config, plain, path="config")
    check_values(config)
    return config


def provenance(config: Config, from_file: Config, command_line: set[str]) -> dict[str, dict]:
    """Where each value came from: {"section.key": {"value", "source"}}.

    `from_file` is the config before command-line overrides; `command_line` holds the dotted names
    that were overridden there.
    """
    defaults = flatten(Config())
    file_values = flatten(from_file)
    return {
        key: {
            "value": value,
            "source": "command line"
            if key in command_line
            else "default"
            if file_values[key] == defaults[key]
            else "file",
        }
        for key, value in flatten(config).items()
    }


def write_resolved(path: Path, values: Mapping[str, Mapping]) -> None:
    """Writes the output of `provenance` as json."""
    path.write_text(json.dumps(values, indent=1) + "\n")


def read_resolved(path: Path) -> dict[str, Any]:
    """The raw config, for `resolve`, of a file that `write_resolved` or a run has written.

    Raises:
      CipoError: it cannot be read.
    """
    try:
        flat = {key: entry["value"] for key, entry in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CipoError(f"{path}: is not a run's config ({error})") from error
    raw: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        (raw.setdefault(section, {}) if section else raw)[name] = value
    return raw


def _section(cls: type, raw: Mapping[str, Any], path: str) -> Any:
    """An instance of the config dataclass `cls` from a mapping; `path` names it in errors."""
    hints = typing.get_type_hints(cls)
    for key in raw:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {path}.{close[0]}?" if close else f"known: {', '.join(hints)}"
            raise CipoError(f"{path}.{key}: unknown key; {hint}")
    values = {}
    for key, value in raw.items():
        where, wanted = f"{path}.{key}", hints[key]
        if dataclasses.is_dataclass(wanted):
            if not isinstance(value, Mapping):
                raise CipoError(f"{where}: got {value!r}, wanted a section with its own keys")
            values[key] = _section(typing.cast(type, wanted), value, where)
        else:
            values[key] = _leaf(wanted, value, where)
    return cls(**values)


def _leaf(wanted: Any, value: Any, where: str) -> Any:
    """`value` as type `wanted`; an int may stand for a float, a list for a tuple, nothing else."""
    if typing.get_origin(wanted) is tuple:
        item = typing.get_args(wanted)[0]
        if isinstance(value, list | tuple):
            return tuple(_leaf(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    elif wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif type(value) is wanted:
        return value
    name = getattr(wanted, "__name__", str(wanted))
    raise CipoError(f"{where}: got {value!r} ({type(value).__name__}), wanted {name}")
