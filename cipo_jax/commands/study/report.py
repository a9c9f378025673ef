"""The report of a study: results.json, a table, figures; from run directories alone.

The records of all runs (`measures.py`) are results.json; table and figures are functions of
it, so they can be made again without the runs. Figures are drawn in `figures.py`.

Intervals are 95% and over seeds and test problems, see `statistics.over_seeds`; differences are
paired: a seed is one cold start and one order of training problems, shared by all methods.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.commands.study.measures import (
    FINAL,
    STAGES,
    Record,
    by_first_error,
    by_method,
    measure_run,
    measures,
    pass_ks,
    pass_of,
    repeats,
    tasks_of,
)
from cipo_jax.run.statistics import Estimate, difference_by_seed, over_seeds, t_interval
from cipo_jax.types import CipoError

_LAST_STEPS = 10


def write_study_report(
    places: Sequence[tuple[str, str, int, Path]], reference: str, out: Path
) -> dict[str, Any]:
    """Writes results.json, table.md and the figures to `out`; prints the table.

    Args:
      places: (task, method, seed, run directory); runs without a last evaluation are left out.
      reference: the method that the others are compared with.

    Returns:
      The content of results.json.

    Raises:
      CipoError: no run has been evaluated.
    """
    from cipo_jax.commands.study.figures import draw_study  # here: matplotlib takes half a second

    records = [
        {"task": task, "method": method, "seed": seed} | measure_run(directory)
        for task, method, seed, directory in places
        if (directory / FINAL / "results.json").is_file()
    ]
    if not records:
        raise CipoError(f"{out}: no run of the study has been finished; there is nothing to report")
    results = {"reference": reference, "runs": records}
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, separators=(",", ":")) + "\n")
    table = format_study(results)
    (out / "table.md").write_text(table)
    figures = draw_study(results, out)
    print(table + "".join(f"figure  {path}\n" for path in figures), flush=True)
    return results


def format_study(results: Mapping[str, Any]) -> str:
    """The results as markdown."""
    lines = [
        "# Study",
        "",
        "Means over seeds with 95% bootstrap intervals over seeds and test problems. What each "
        "measure is: `study_measures.measures`, docs/study.md.",
    ]
    for task in tasks_of(results):
        methods = by_method(results, task)
        lines += ["", f"## {task}", "", "Attempts:", "", *_value_table(methods, of_attempts=True)]
        lines += ["", "Corrections:", "", *_value_table(methods, of_attempts=False)]
        if results["reference"] in methods:
            lines += ["", *_difference_table(methods, results["reference"])]
        lines += ["", *_difficulty_table(methods), *_mechanism_table(methods)]
        lines += _repeat_table(methods)
        lines += ["", *_compute_table(methods)]
    return "\n".join(lines) + "\n"


def _value_table(methods: Mapping[str, list[Record]], of_attempts: bool) -> list[str]:
    """The measures of attempts, or those of corrections."""
    found = {name: measures(records) for name, records in methods.items()}
    names = [
        name
        for name in dict.fromkeys(m for values in found.values() for m in values)
        if (name.startswith("pass@") or name in ("length", "entropy")) == of_attempts
    ]
    lines = [f"| method | seeds | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for method, values in found.items():
        cells = []
        for name in names:
            if name not in values:
                cells.append("")
                continue
            cells.append(_interval(over_seeds(*values[name]), 1 if name == "length" else 3))
        lines.append(f"| {method} | {len(methods[method])} | {' | '.join(cells)} |")
    return lines


def _interval(e: Estimate, digits: int = 3) -> str:
    return f"{e.value:.{digits}f} [{e.low:.{digits}f}, {e.high:.{digits}f}]"


def _difference_table(methods: Mapping[str, list[Record]], reference: str) -> list[str]:
    """Every method minus the reference, on the seeds that both have."""
    lines = [
        f"Difference from {reference}, paired by seed and problem. Bootstrap as above; t: "
        "Student's t over the seeds alone, the one to go by with few seeds. Ahead: seeds in which "
        f"the method is above {reference}.",
        "",
        "| method | measure | difference | 95% bootstrap | p | 95% t | ahead |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, records in methods.items():
        if method == reference:
            continue
        seeds = {r["seed"] for r in records} & {r["seed"] for r in methods[reference]}
        if not seeds:
            continue
        ours, theirs = (
            measures([r for r in side if r["seed"] in seeds])
            for side in (records, methods[reference])
        )
        for name in (name for name in ours if name in theirs):
            d = difference_by_seed(ours[name], theirs[name])
            each = np.array(
                [
                    a.sum() / b.sum() - c.sum() / e.sum()
                    for a, b, c, e in zip(*ours[name], *theirs[name], strict=True)
                ]
            )
            low, high = t_interval(each)
            t = "one seed" if math.isinf(low) else f"{low:+.3f} to {high:+.3f}"
            lines.append(
                f"| {method} | {name} | {d.value:+.3f} | {d.low:+.3f} to {d.high:+.3f} | {d.p:.4f} "
                f"| {t} | {int((each > 0).sum())}/{len(each)} |"
            )
    return lines


def _difficulty_table(methods: Mapping[str, list[Record]]) -> list[str]:
    """pass@1 and pass@k of the largest k by number of operations."""
    some = next(iter(methods.values()))
    operations = np.array(some[0]["problems"]["operations"])
    values, counts = np.unique(operations, return_counts=True)
    heads = [f"{n} operations ({count})" for n, count in zip(values, counts, strict=True)]
    k = max(min(pass_ks(records)[-1] for records in methods.values()), 1)
    lines = [
        f"pass@1 / pass@{k} by number of operations (test problems):",
        "",
        f"| method | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
    ]
    for method, records in methods.items():
        one, many = pass_of(records, 1), pass_of(records, k)
        of = np.array([r["problems"]["operations"] for r in records])
        cells = [f"{one[of == n].mean():.3f} / {many[of == n].mean():.3f}" for n in values]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def _mechanism_table(methods: Mapping[str, list[Record]]) -> list[str]:
    """What may explain the differences; nothing where no run has any of it."""
    lines = []
    for method, records in methods.items():
        stages = by_first_error(records)
        cells = [
            " / ".join(f"{over_seeds(*ratio).value:.3f}" for ratio in stages.get(stage, ()))
            for stage in STAGES
        ]
        for name, digits in (("cosine", 3), ("ratio", 2), ("rho", 2), ("retention", 2)):
            values = [v for r in records if (v := _training_mean(r, name)) is not None]
            cells.append(f"{np.mean(values):.{digits}f}" if len(values) == len(records) else "")
        if any(cells):
            lines.append(f"| {method} | {' | '.join(cells)} |")
    if not lines:
        return []
    heads = [f"{stage} error" for stage in STAGES]
    return [
        "",
        "w2r / resampled w2r by the third of the worked solution in which the attempt leaves it. "
        "Over the training steps: the cosine between the gradients of the two streams, the norm of "
        "the correction stream's over the base stream's, rho, and retention.",
        "",
        f"| method | {' | '.join(heads)} | cosine | norms | rho | retention |",
        "|---|" + "---|" * (len(heads) + 4),
        *lines,
    ]


def _repeat_table(methods: Mapping[str, list[Record]]) -> list[str]:
    """Whether errors are repeated; nothing where no record says."""
    rows = {name: found for name, records in methods.items() if (found := repeats(records))}
    if not rows:
        return []
    names = list(dict.fromkeys(name for found in rows.values() for name in found))
    lines = [
        "",
        "Of wrong attempts that have an answer, the share whose correction gives the same answer; "
        "resampled: the share that another attempt does.",
        "",
        f"| method | {' | '.join(names)} |",
        "|---|" + "---|" * len(names),
    ]
    for method, found in rows.items():
        cells = [_interval(over_seeds(*found[name])) if name in found else "" for name in names]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def _training_mean(record: Record, name: str) -> float | None:
    """The mean over the steps that measured it; "ratio": of the gradients' norms."""
    training = record["training"]
    if not any(training["anchors"]):
        return None  # no correction stream
    if name == "ratio":
        pairs = zip(training["correction_norm"], training["base_norm"], strict=True)
        values = [a / b for a, b in pairs if a is not None and b]
    else:
        values = [v for v in training[name] if v is not None]
    return float(np.mean(values)) if values else None


def _compute_table(methods: Mapping[str, list[Record]]) -> list[str]:
    lines = [
        "What it took, means over seeds. Budget: sampled tokens over those the run was to sample. "
        f"Reward: of attempts at training problems in the last {_LAST_STEPS} steps.",
        "",
        "| method | steps | group size | sampled tokens | budget | trained tokens | minutes "
        "| reward |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, records in methods.items():

        def mean(name: str, of: Sequence[Record] = records) -> float:
            return float(np.mean([r[name] for r in of]))

        wanted = [r["max_sampled_tokens"] for r in records]
        budget = mean("sampled_tokens") / float(np.mean(wanted)) if all(wanted) else None
        timed = all(r["seconds"] is not None for r in records)
        minutes = f"{mean('seconds') / 60:.1f}" if timed else ""
        last = [v for r in records for v in r["training"]["reward"][-_LAST_STEPS:] if v is not None]
        reward = f"{np.mean(last):.3f}" if last else ""
        lines.append(
            f"| {method} | {mean('steps'):.0f} | {mean('group_size'):g} "
            f"| {mean('sampled_tokens'):,.0f} | {'' if budget is None else f'{budget:.3f}'} "
            f"| {mean('trained_tokens'):,.0f} | {minutes} | {reward} |"
        )
    return lines
