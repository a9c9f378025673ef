"""Where a checkpoint comes from: the config it was saved under, and the versions of libraries.

Config and checkpoint are compared value by value: a key that is newer than the checkpoint counts as
what leaves things as they were. A checkpoint of an earlier version has only a hash of the values.
It changes with every new key, so if it differs, the config.json of the run decides.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from cipo_jax import __version__
from cipo_jax.config.keys import Config
from cipo_jax.run.records.directory import fixed_values, told, value_differences

# Those whose version may change what a continued run computes.
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def origin(config: Config) -> dict[str, Any]:
    """{"config": {key: value} of those that may not change, "config_hash": a hash of them,
    "versions": {library: version}}."""
    fixed = fixed_values(config)
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        "config": fixed,
        "config_hash": digest[:16],
        "versions": {"cipo_jax": __version__, **versions},
    }


def other_config(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In what a saved origin has another config than `now`, to follow "another config"; "" if
    nothing; None if that cannot be told, because it has a hash alone."""
    if "config" in saved and "config" in now:
        differences = value_differences(saved["config"], now["config"])
        return f":{told(differences)}\n" if differences else ""
    return "" if not saved or saved["config_hash"] == now["config_hash"] else None


def other_versions(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """ "library old, now new" for each library with another version."""
    return [
        f"{name} {old}, now {now['versions'].get(name)}"
        for name, old in saved.get("versions", {}).items()
        if now["versions"].get(name) != old
    ]
