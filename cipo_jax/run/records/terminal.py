"""What a run prints: header, a line a step, an attempt beside its correction, the summary."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cipo_jax.config.keys import Config
from cipo_jax.run.measures import transition
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.types import Attempt

if TYPE_CHECKING:  # the report shares this file, and needs no JAX
    from cipo_jax.run.parts import Parts
    from cipo_jax.run.update import Update


def print_header(config: Config, parts: "Parts", workdir: Path, update: "Update") -> None:
    """What is about to run, on what, and how large it is."""
    model, mesh, sizes = parts.policy.model, parts.policy.mesh, update.sizes
    axes = " x ".join(f"{name} {length}" for name, length in mesh.shape.items())
    r, k = config.rollout, config.correction
    method = f"CIPO, lambda {k.weight:g}" if k.weight else "GRPO (correction.weight = 0)"
    isolation = f"verifier {parts.isolation}\n" if parts.isolation else ""
    print(
        f"method   {method}\n"
        f"policy   {sizes.parameters:,} parameters ({config.model.source or 'from scratch'}), "
        f"{model.num_layers} layers, {sizes.weight_bytes / 2**20:,.1f} MiB of {model.param_dtype} "
        f"weights, {model.compute_dtype} compute\n"
        f"devices  {mesh.size} x {mesh.devices.flat[0].device_kind}; mesh {axes}; "
        f"weights and optimiser {sizes.device_bytes / 2**20:,.1f} MiB per device\n"
        f"step     {r.problems_per_step} problems x {r.group_size} attempts + "
        f"{config.num_anchors} anchors x {k.group_size} corrections; {config.num_steps} steps\n"
        f"{isolation}"
        f"workdir  {workdir}",
        flush=True,
    )


# What the terminal shows of a step: (label, metric, how a value is written).
_STEP_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("reward", "base/reward/mean", "{:.3f}".format),
    ("corr", "correction/reward/mean", "{:.3f}".format),
    ("fix", "correction/fix_rate", "{:.2f}".format),
    ("break", "correction/break_rate", "{:.2f}".format),
    ("rho", "replay/rho", "{:.2f}".format),
    ("loss", "loss/total", "{:+.4f}".format),
    ("grad", "grad_norm", "{:.2f}".format),
    ("len", "base/length/mean", "{:.0f}".format),
    ("time", "time/step", "{:.1f}s".format),
)


def format_step_line(
    step: int, num_steps: int, scalars: Mapping[str, float], seconds_left: float
) -> str:
    """One terminal line for a train step: rewards, fix / break rates, rho, loss, gradient norm,
    length in tokens, wall time, time left. Metrics the step does not have are left out.

    Args:
      step: the number of steps done.
      num_steps: of the whole run.
      scalars: the step's metrics by name.
      seconds_left: the estimate for the rest of the run.
    """
    parts = [f"step {step:>{len(str(num_steps))}}/{num_steps}"]
    parts += [f"{label} {show(scalars[k])}" for label, k, show in _STEP_COLUMNS if k in scalars]
    parts.append(f"eta {format_duration(seconds_left)}")
    return "  ".join(parts)


def format_duration(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour; "?" if not finite."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_evaluation(step: int, results: Mapping[str, float]) -> None:
    """One line of an evaluation's numbers, standard errors left out."""
    shown = {k: v for k, v in results.items() if not k.endswith("_stderr")}
    print(f"eval  step {step}  " + "  ".join(f"{k} {v:.3f}" for k, v in shown.items()), flush=True)


def print_pair(attempts: Sequence[Attempt]) -> None:
    """One attempt; of corrections, one that shows a change, beside what it corrects."""
    corrections = [a for a in attempts if a.prompt.anchor is not None]
    shown = next((a for a in corrections if transition(a) == "w2r"), None) or attempts[0]
    print(f"  problem     {_one_line(shown.problem.question)}")
    if shown.prompt.anchor is not None:
        before = shown.prompt.anchor
        print(f"  attempt     {_one_line(before.text)}  [{before.verdict.outcome.value}]")
        print(f"  correction  {_one_line(shown.text)}  [{shown.verdict.outcome.value}]", flush=True)
    else:
        print(f"  attempt     {_one_line(shown.text)}  [{shown.verdict.outcome.value}]", flush=True)


def print_summary(workdir: Path, report: Path, seconds: float) -> None:
    """Before and after, and where to look next."""
    evaluations = [r for r in read_metrics(workdir) if r["phase"] == "eval"]
    print(f"done in {format_duration(seconds)}")
    if evaluations:
        first, last = evaluations[0], evaluations[-1]
        names = [
            k for k in last if k.startswith("eval/") and k in first and not k.endswith("_stderr")
        ]
        width = max(map(len, names))
        print(
            f"  {'':{width}}  {'step ' + str(first['step']):>9}  {'step ' + str(last['step']):>9}"
        )
        for name in names:
            before, after = first[name], last[name]
            print(f"  {name:{width}}  {before:9.3f}  {after:9.3f}  {after - before:+.3f}")
    print(f"report   {report}\ncurves   tensorboard --logdir {workdir}/tensorboard", flush=True)


def _one_line(text: str, limit: int = 240) -> str:
    """Printable, on one line; control characters of untrusted text must not reach a terminal."""
    flat = text.replace("\n", " | ")
    flat = "".join(ch if ch.isprintable() else "?" for ch in flat)
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."
