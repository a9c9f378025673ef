"""From a raw config, or the file that keeps it with a run, to the frozen `Config`.

An unknown key, an ill-typed value, or one that its key's annotation does not allow fails here, at
any depth. Not decided here: which values those are (keys.py, ranges.py), and which values cannot be
used together (checks.py).
"""

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from cipo_jax.config.checks import check_combinations
from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.ranges import did_you_mean, item_of, plain_type, rules
from cipo_jax.types import CipoError

_Section = TypeVar("_Section")

# What a run did whose config lacks the key, where that is not today's default.
_BEFORE = {"replay.target": "constant", "correction.right_limits": []}


def resolve(raw: Mapping[str, Any] | ConfigDict) -> Config:
    """Checks `raw` key by key and returns the frozen `Config`.

    Raises:
      CipoError: an unknown key, a value of another type or out of range, or values that contradict
        each other; the message names the key, the value, and what would be right.
    """
    config = resolve_section(Config, raw.to_dict() if isinstance(raw, ConfigDict) else raw)
    check_combinations(config)
    return config


def resolve_section(cls: type[_Section], raw: Mapping[str, Any], where: str = "config") -> _Section:
    """An instance of a config dataclass from a mapping, each value checked by itself.

    Args:
      raw: {key: value}, of sections {key: mapping}. Keys that are left out have their default.
      where: how messages name the section; a key is "<where>.<key>".

    Raises:
      CipoError: an unknown key, a value of another type, or one that is not allowed.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    values = {}
    for key, value in raw.items():
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {where}.{close[0]}?" if close else f"known: {', '.join(hints)}"
            raise CipoError(f"{where}.{key}: unknown key; {hint}")
        if not dataclasses.is_dataclass(hints[key]):
            values[key] = _value(hints[key], value, f"{where}.{key}")
        elif isinstance(value, Mapping):
            values[key] = resolve_section(hints[key], value, f"{where}.{key}")
        else:
            raise CipoError(f"{where}.{key}: got {value!r}, wanted a section with its own keys")
    return cls(**values)


def provenance(
    config: Config,
    from_file: Config,
    command_line: AbstractSet[str],
    written: AbstractSet[str] = frozenset(),
) -> dict[str, dict]:
    """Where each value came from: {"section.key": {"value", "source"}}.

    Args:
      from_file: the config before command-line overrides.
      command_line: the dotted names that were overridden there.
      written: those that the file is known to set, be it to the default.
    """
    defaults, in_file, values = flatten(Config()), flatten(from_file), {}
    for key, value in flatten(config).items():
        in_it = key in written or in_file[key] != defaults[key]
        source = "command line" if key in command_line else "file" if in_it else "default"
        values[key] = {"value": value, "source": source}
    return values


def read_values(path: Path) -> dict[str, Any]:
    """{"section.key": value} from the config.json of a run: `provenance` as json.

    Raises:
      CipoError: it cannot be read.
    """
    try:
        return {key: entry["value"] for key, entry in json.loads(path.read_text()).items()}
    except (OSError, ValueError) as error:
        why = f"is not a run's config ({error}); remove it or choose another"
        raise CipoError(f"{path}: {why}") from error
    except (TypeError, KeyError, AttributeError) as error:
        wanted = '{"section.key": {"value": ..., "source": ...}, ...}'
        why = f"is not a run's config; wanted {wanted}; remove it or choose another"
        raise CipoError(f"{path}: {why}") from error


def with_newer_keys(saved: Mapping[str, Any]) -> dict[str, Any]:
    """{"section.key": value}, as in json, of a run that has `saved` these; keys that are newer than
    the run are at what it did, which is their default except for those of `_BEFORE`."""
    return json.loads(json.dumps(flatten(Config()))) | _BEFORE | dict(saved)


def read_resolved(path: Path) -> dict[str, Any]:
    """The raw config, for `resolve`, of `read_values` and `with_newer_keys`."""
    raw: dict[str, Any] = {}
    for key, value in with_newer_keys(read_values(path)).items():
        section, _, name = key.rpartition(".")
        (raw.setdefault(section, {}) if section else raw)[name] = value
    return raw


def _value(annotation: Any, value: Any, where: str) -> Any:
    """`value` as its key's type; an int may stand for a float, a list for a tuple, nothing else."""
    wanted = plain_type(annotation)
    if wanted is float and type(value) is int:
        value = float(value)
    elif wanted is tuple and isinstance(value, list | tuple):
        item = item_of(annotation)
        value = tuple(_value(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if type(value) is not wanted:
        name = type(value).__name__
        raise CipoError(f"{where}: got {value!r} ({name}), wanted {wanted.__name__}")
    for rule in rules(annotation):
        if not rule.holds(value):
            hint = did_you_mean(value, rule.words)
            raise CipoError(f"{where}: got {value!r}, wanted {rule.wanted}{hint}")
    if isinstance(value, float) and not math.isfinite(value):
        raise CipoError(f"{where}: got {value!r}, wanted a finite number")
    return value


def changed_config(config: Config, overrides: Mapping[str, Any]) -> Config:
    """`config` with {"section.key": value} in place."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    return dataclasses.replace(
        config,
        **{s: dataclasses.replace(getattr(config, s), **values) for s, values in sections.items()},
    )
