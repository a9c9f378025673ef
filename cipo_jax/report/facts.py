"""The head of a run's page: what was run, on what, when, and how far it is."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cipo_jax.report.blocks import file_size
from cipo_jax.report.tables import Records, some
from cipo_jax.run.records.terminal import format_duration, method_name
from cipo_jax.types import CipoError


def facts(
    workdir: Path,
    records: Records,
    config: Mapping[str, Any],
    starts: Sequence[Mapping[str, Any]],
    archive_bytes: int,
) -> dict[str, str]:
    """{label: value}; what is not recorded is left out.

    Args:
      records: lines of metrics.jsonl.
      config: {"section.key": {"value", "source"}}.
      starts: lines of starts.jsonl.
      archive_bytes: of the archived attempts.

    Raises:
      CipoError: data.json is damaged.
    """
    found = {
        "Method": _method(config),
        "Model": _model(config, starts),
        "Training problems": _training_data(workdir, config),
        "Held-out problems": _held_out(config),
        "Each step": _step(config),
    }
    if starts:
        first, last = starts[0], starts[-1]
        again = f", continued {last['time']} UTC" if len(starts) > 1 else ""
        found["Device"] = f"{last['devices']} ({last['machine']})"
        found["Started"] = f"{first['time']} UTC{again}"
        found["Version"] = ", ".join(
            f"{name} {last['versions'].get(name, '?')}" for name in ("cipo_jax", "jax")
        )
    return {k: v for k, v in found.items() if v} | _progress(records, config, archive_bytes)


def command_line(starts: Sequence[Mapping[str, Any]]) -> str:
    """The command of the last start; "" if none is recorded."""
    return starts[-1]["command"] if starts else ""


def not_finite(records: Records) -> dict[str, str]:
    """{metric: the first steps at which it was NaN or infinite}."""
    places: dict[str, list[str]] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                places.setdefault(name, []).append(f"{record['phase']} {record['step']}")
    return {name: some(of_metric) for name, of_metric in places.items()}


def _progress(records: Records, config: Mapping[str, Any], archive_bytes: int) -> dict[str, str]:
    train = [r for r in records if r["phase"] == "train"]
    first = min((r["step"] for r in train), default=1)
    # A run that went on without its metrics has them from the restored step.
    missing = f" (before step {first}: not counted)" if first > 1 else ""

    def total(name: str) -> float:
        return sum(r[name] for r in train if math.isfinite(r.get(name, math.nan)))

    planned = config.get("num_steps", {}).get("value", "?")
    fired = sum(r["phase"] == "health" for r in records)
    return {
        "RL steps": f"{max((r['step'] for r in train), default=0)} of {planned}",
        "Tokens sampled": f"{total('tokens/sampled'):,.0f}{missing}",
        "Tokens trained": f"{total('tokens/trained'):,.0f}{missing}",
        "Time in RL steps": format_duration(total("time/step")) + missing,
        "Archive": file_size(archive_bytes),
        "Health rules": f"fired {fired} time{'s' * (fired != 1)}" if fired else "none fired",
    }


def _method(config: Mapping[str, Any]) -> str:
    weight = config.get("correction.weight", {}).get("value")
    return "" if weight is None else method_name(float(weight))


def _model(config: Mapping[str, Any], starts: Sequence[Mapping[str, Any]]) -> str:
    source = config.get("model.source", {}).get("value")
    if source is None:
        return ""
    name = source.rstrip("/").rpartition("/")[2] if source else "from scratch"
    return f"{name}, {starts[-1]['parameters']:,} parameters" if starts else name


def _training_data(workdir: Path, config: Mapping[str, Any]) -> str:
    """The name of the problems, and how many there are."""
    name = config.get("data.train", {}).get("value")
    file = workdir / "data.json"
    if not name or not file.exists():
        return name or ""
    try:
        sources = json.loads(file.read_text(encoding="utf-8"))["data.train"]
        counts = [source["problems"] for source in sources.values()]
        return f"{name}, {'unlimited' if None in counts else format(sum(counts), ',')}"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CipoError(f"{file}: not a run's data.json ({error!r}); restore it") from error


def _step(config: Mapping[str, Any]) -> str:
    """Of how many attempts and corrections the numbers of a step are."""
    keys = ("rollout.problems_per_step", "rollout.group_size", "correction.group_size")
    problems, group_size, corrections = (config.get(key, {}).get("value") for key in keys)
    if None in (problems, group_size):
        return ""
    base = f"{problems} problems x {group_size} attempts"
    if not config.get("correction.weight", {}).get("value"):
        return base
    share = config.get("correction.replay_fraction", {}).get("value", math.nan)
    return f"{base} + {problems * share:.0f} anchors x {corrections} corrections"


def _held_out(config: Mapping[str, Any]) -> str:
    """The name of the problems, and how many of them get how many attempts."""
    keys = ("data.eval", "data.eval_problems", "eval.samples")
    name, problems, samples = (config.get(key, {}).get("value") for key in keys)
    return f"{name}, {problems} at most, {samples} attempts each" if name else ""
