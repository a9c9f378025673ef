"""What a run prints: header, a line a step, an attempt beside its correction, the summary."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cipo_jax.config.keys import Config
from cipo_jax.run.records.metrics_file import TENSORBOARD_DIR, read_metrics
from cipo_jax.run.transitions import transition
from cipo_jax.run.watch.learning import findings
from cipo_jax.types import Attempt

if TYPE_CHECKING:  # the report shares this file, and needs no JAX
    from cipo_jax.run.parts import Parts
    from cipo_jax.run.statistics import Estimate
    from cipo_jax.run.update import Update


def print_header(config: Config, parts: "Parts", workdir: Path, update: "Update") -> None:
    """What is about to run, on what, and how large it is."""
    from cipo_jax.policy.sharding import describe  # late: see above

    model, mesh, sizes = parts.policy.model, parts.policy.mesh, update.sizes
    r, k = config.rollout, config.correction
    isolation = f"verifier {parts.isolation}\n" if parts.isolation else ""
    print(
        f"method   {method_name(k.weight)}\n"
        f"policy   {sizes.parameters:,} parameters ({config.model.source or 'from scratch'}), "
        f"{model.num_layers} layers, {sizes.weight_bytes / 2**20:,.1f} MiB of {model.param_dtype} "
        f"weights, {model.compute_dtype} compute\n"
        f"devices  {mesh.size} x {mesh.devices.flat[0].device_kind}; mesh {describe(mesh)}; "
        f"weights and optimiser {sizes.device_bytes / 2**20:,.1f} MiB per device\n"
        f"step     {r.problems_per_step} problems x {r.group_size} attempts + "
        f"{config.num_anchors} anchors x {k.group_size} corrections; {config.num_steps} steps\n"
        f"{isolation}"
        f"workdir  {workdir}",
        flush=True,
    )


def method_name(weight: float) -> str:
    """The method, by `correction.weight`."""
    return f"CIPO, lambda {weight:g}" if weight else "GRPO (correction.weight = 0)"


# What the terminal shows of a step: (label, metric, how a value is written).
_STEP_COLUMNS = (
    ("reward", "base/reward/mean", "{:.3f}"),
    ("corr", "correction/reward/mean", "{:.3f}"),
    ("fix", "correction/fix_rate", "{:.2f}"),
    ("break", "correction/break_rate", "{:.2f}"),
    ("rho", "replay/rho", "{:.2f}"),
    ("loss", "loss/total", "{:+.4f}"),
    ("grad", "grad_norm", "{:.2f}"),
    ("len", "base/length/mean", "{:.0f}"),
    ("time", "time/step", "{:.1f}s"),
)


def format_step_line(
    step: int, num_steps: int, scalars: Mapping[str, float], seconds_left: float
) -> str:
    """One terminal line for a train step: `_STEP_COLUMNS`, as far as the step has the metrics, the
    estimate of the time left, and what keeps it from teaching anything.

    Args:
      step: the number of steps done.
      num_steps: of the whole run.
    """
    parts = [f"step {step:>{len(str(num_steps))}}/{num_steps}"]
    shown = ((label, form, scalars[k]) for label, k, form in _STEP_COLUMNS if k in scalars)
    parts += [f"{label} {form.format(value)}" for label, form, value in shown]
    parts.append(f"eta {format_duration(seconds_left)}")
    parts += [f"! {finding.mark}" for finding in findings(scalars)]
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


def print_gain(metrics: "Mapping[str, Estimate]") -> None:
    """Whether a correction of a wrong attempt is better than another attempt; nothing if that was
    not measured."""
    gain = metrics.get("correction/w2r_gain")
    if gain is None:
        return
    w2r, resampled = (metrics[f"correction/{name}"].value for name in ("w2r", "resampled_w2r"))
    says = "corrections are not told apart from other attempts"
    if gain.low > 0:
        says = "corrections are better than other attempts"
    elif gain.high < 0:
        says = "other attempts are better than corrections"
    print(
        f"gain  of wrong attempts {w2r:.1%} are corrected, another attempt is right in "
        f"{resampled:.1%}: {100 * gain.value:+.1f} points (95% interval {100 * gain.low:+.1f} to "
        f"{100 * gain.high:+.1f}); {says}",
        flush=True,
    )


def print_pair(attempts: Sequence[Attempt]) -> None:
    """One attempt; of corrections, one that shows a change, beside what it corrects."""
    corrections = [a for a in attempts if a.prompt.anchor is not None]
    shown = next((a for a in corrections if transition(a) == "w2r"), None) or attempts[0]
    print(f"  problem     {_one_line(shown.problem.question)}")
    before = shown.prompt.anchor
    texts = {"attempt": shown} if before is None else {"attempt": before, "correction": shown}
    for name, attempt in texts.items():
        outcome = attempt.verdict.outcome.value
        print(f"  {name:10}  {_one_line(attempt.text)}  [{outcome}]", flush=True)


def print_findings(scalars: Mapping[str, float]) -> None:
    """A line for each thing that keeps a step from teaching anything, with the key to change."""
    for finding in findings(scalars):
        print(f"learning  {finding.message}", flush=True)


def print_summary(workdir: Path, report: Path, verdicts: Sequence[str], seconds: float) -> None:
    """The verdicts, before and after, and where to look next."""
    evaluations = [r for r in read_metrics(workdir) if r["phase"] == "eval"]
    print("\n".join([f"done in {format_duration(seconds)}; {verdicts[0]}", *verdicts[1:]]))
    if evaluations:
        first, last = evaluations[0], evaluations[-1]
        shared = [k for k in last if k.startswith("eval/") and k in first]
        names = [k for k in shared if not k.endswith("_stderr")]
        width = max(map(len, names))
        steps = (f"{'step ' + str(line['step']):>9}" for line in (first, last))
        print(f"  {'':{width}}  " + "  ".join(steps))
        for name in names:
            before, after = first[name], last[name]
            print(f"  {name:{width}}  {before:9.3f}  {after:9.3f}  {after - before:+.3f}")
    print(f"report   {report}")
    if (workdir / TENSORBOARD_DIR).is_dir():
        print(f"curves   tensorboard --logdir {shlex.quote(str(workdir / TENSORBOARD_DIR))}")
    try_it = ["python", "-m", "cipo_jax.main", "--mode=generate", f"--workdir={workdir}"]
    print(f'try it   {shlex.join(try_it)} --prompt="..."', flush=True)


def printable(text: str) -> str:
    """On one line; control characters of untrusted text must not reach a terminal."""
    return "".join(ch if ch.isprintable() else "?" for ch in text)


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters, "..." at the end of what was cut."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _one_line(text: str) -> str:
    return shortened(printable(text.replace("\n", " | ")), 240)
