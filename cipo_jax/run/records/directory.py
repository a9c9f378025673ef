"""The run directory: which config and which data it belongs to, and so which runs may continue it.

Decides the keys that may change between two starts of a run, and writes config.json and data.json.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.resolve import read_values, with_newer_keys
from cipo_jax.run.records.files import explained, write_json
from cipo_jax.types import CipoError

# Keys that may differ when a run is continued: they change neither the parameters' shapes nor what
# the steps already done have computed.
MAY_CHANGE_ON_RESUME = (
    *("num_steps", "max_sampled_tokens", "mesh.", "eval.", "checkpoint.", "log."),
    *("batch.row_tokens", "batch.microbatch_rows", "verifier.workers"),
    *("sampling.slots", "sampling.cache_tokens", "sampling.tensor", "sampling.chunk"),
)
# Keys of the model that its parameters do not show.
_NOT_SHAPES = ("model.remat", "model.unroll", "model.compute_dtype", "model.param_dtype")


def claim_workdir(
    workdir: Path,
    config: Config,
    values: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Mapping[str, Any]] | None = None,
    writes: bool = True,
) -> None:
    """Makes `workdir` the run directory of `config`, or checks that it already is.

    Args:
      values: the output of `resolve.provenance`, written as config.json.
      data: {"data.train": {source: {"problems", "fingerprint"}}, ...}, written as data.json; None
        neither checks nor writes it.
      writes: whether this host writes; others only check.

    Raises:
      CipoError: `workdir` belongs to a run that `config` cannot continue, with the keys that
        differ, or the data have changed since, with the sources. Nothing is written then.
    """
    file = workdir / "config.json"
    if file.exists() and (differences := config_differences(file, config)):
        raise CipoError(
            f"--workdir={workdir} holds a run with another config:{told(differences)}\n"
            "Choose another --workdir, or restore those values to continue that run."
        )
    if data is not None:
        _check_data(workdir / "data.json", data)
    if not writes:
        return
    with explained(f"--workdir={workdir}"):
        workdir.mkdir(parents=True, exist_ok=True)
    write_json(file, values)
    if data is not None:
        write_json(workdir / "data.json", data)


def _check_data(file: Path, data: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises `CipoError` if `file` says that the run has begun with other problems."""
    if not file.exists():
        return
    try:
        saved = json.loads(file.read_text())
        changes = [
            f"  config.{key}: {name}: {_described(saved[key].get(name))} then, "
            f"{_described(now)} now"
            for key, sources in data.items()
            for name, now in sources.items()
            if saved[key].get(name) != now
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        why = f"is not a run's data.json ({e!r}); choose another --workdir"
        raise CipoError(f"{file}: {why}") from e
    if changes:
        raise CipoError(
            f"--workdir={file.parent} holds a run that began with other data:\n"
            + "\n".join(changes)
            + "\nRestore the data to continue that run, or start from its parameters in another "
            f"--workdir by --config.init_from={file.parent}"
        )


def _described(source: Mapping[str, Any] | None) -> str:
    if source is None:
        return "nothing"
    count = "unlimited" if source["problems"] is None else source["problems"]
    return f"{count} problems (fingerprint {source['fingerprint']})"


def fixed_values(config: Config) -> dict[str, Any]:
    """{key: value} of the keys that must agree to share parameters and history, as in json."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten(config).items()
        if not key.startswith(MAY_CHANGE_ON_RESUME)
    }


def value_differences(
    saved: Mapping[str, Any], current: Mapping[str, Any]
) -> dict[str, tuple[object, object]]:
    """{key: (saved value, current value)} where the `fixed_values` of a run and of now differ. A
    key that `saved` does not have is newer, and counts as what leaves things as they were (see
    `with_newer_keys`); one that `current` does not have is gone, and counts for nothing."""
    saved = with_newer_keys(saved)
    return {key: (saved[key], value) for key, value in current.items() if saved[key] != value}


def config_differences(
    file: Path, config: Config, only: str = ""
) -> dict[str, tuple[object, object]]:
    """`value_differences` of a run's config.json and `config`, of keys that begin with `only`."""
    current = {k: v for k, v in fixed_values(config).items() if k.startswith(only)}
    return value_differences(read_values(file), current)


def told(differences: Mapping[str, tuple[object, object]]) -> str:
    """A line for each difference, to follow a message."""
    return "".join(f"\n  config.{k}: {o!r} there, {n!r} now" for k, (o, n) in differences.items())


def model_differences(file: Path, config: Config) -> dict[str, tuple[object, object]]:
    """Those of `config_differences` that keep parameters from fitting: of the model and the
    tokenizer, but not of dtypes and of how the update is computed. With `model.source` on both
    sides, that checkpoint decides the sizes, and it may have been moved."""
    found = {
        key: values
        for prefix in ("model.", "data.tokenizer")
        for key, values in config_differences(file, config, only=prefix).items()
        if key not in _NOT_SHAPES
    }
    if config.model.source and all(found.get("model.source", (True,))):
        return {key: values for key, values in found.items() if not key.startswith("model.")}
    return found
