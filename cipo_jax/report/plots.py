"""Which metrics the run report draws, and which of them together.

Decides the figures of each section and their order; `figures.py` draws them.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

TRANSITIONS = {
    "r2r": "right → right",
    "r2w": "right → wrong",
    "w2r": "wrong → right",
    "w2w": "wrong → wrong",
}


@dataclasses.dataclass(frozen=True)
class Plot:
    """What one figure shows.

    Attributes:
      title: what is shown.
      series: {metric: label} of the curves, at most four, or more if `ramp`.
      phase: whose lines of metrics.jsonl.
      x: what the x axis shows; that of "k" is logarithmic, "tokens" are sampled ones.
      share: values are shares: the axis is in percent, from 0 to 100.
      tight: the axis spans the values alone, so that curves close together can be told apart.
      stacked: areas on top of each other instead of curves.
      ramp: the series are ordered, and coloured from one end to the other.
      needs: what a run needs to have data, said where there is none.
    """

    title: str
    series: Mapping[str, str]
    phase: str = "train"
    x: Literal["step", "k", "tokens"] = "step"
    share: bool = False
    tight: bool = False
    stacked: bool = False
    ramp: bool = False
    needs: str = ""

    @property
    def id(self) -> str:
        """What the ids of its drawing begin with; unique in a page."""
        return re.sub(r"\W+", "-", f"{self.title} by {self.x}".lower()).strip("-")

    @property
    def x_label(self) -> str:
        return "sampled tokens" if self.x == "tokens" else self.x


def _streams(metric: str) -> dict[str, str]:
    return {f"base/{metric}": "base", f"correction/{metric}": "correction"}


_GRADIENT_STATS = "a run with log.gradient_stats_every > 0"

_CORRECTION = (
    Plot(
        "Transitions, share of corrections",
        {f"transition/{kind}": words for kind, words in TRANSITIONS.items()},
        share=True,
        needs="a run with correction.weight > 0",
    ),
    Plot(
        "Fixing, keeping, copying",
        {
            "correction/fix_rate": "fix rate",
            "correction/retention": "retention",
            "correction/break_rate": "break rate",
            "correction/copy_rate": "copy rate",
        },
        share=True,
    ),
    Plot(
        "Share of right anchors",
        {"replay/rho": "rho (target)", "anchor/realised_success_share": "realised"},
        share=True,
    ),
    Plot(
        "Anchor selection",
        {"anchor/fallback_frac": "outside the band", "anchor/trimmed_frac": "trimmed"},
        share=True,
    ),
)

_BEHAVIOUR = (
    Plot(
        "Completion length, tokens",
        {
            "base/length/mean": "base",
            "correction/length/mean": "correction",
            "base/length/p95": "base, p95",
            "correction/length/p95": "correction, p95",
        },
    ),
    Plot("Entropy, nats per token", _streams("entropy")),
    Plot("Truncated completions", _streams("truncated"), share=True),
    Plot("Without a readable answer", _streams("outcome/no_answer"), share=True),
    Plot(
        "Verifier failures",
        {
            "base/outcome/timeout": "timeout, base",
            "correction/outcome/timeout": "timeout, correction",
            "base/outcome/error": "error, base",
            "correction/outcome/error": "error, correction",
        },
        share=True,
    ),
    Plot("Groups with both outcomes", _streams("group/mixed"), share=True),
)

_OPTIMISATION = (
    Plot("Loss", {"loss/base": "base", "loss/correction": "correction", "loss/total": "total"}),
    Plot("Gradient norm", {"grad_norm": "before clipping"}),
    Plot(
        "Gradient norm by stream",
        {"grad/base_norm": "base", "grad/correction_norm": "correction"},
        needs=_GRADIENT_STATS,
    ),
    Plot(
        "Cosine between the streams' gradients",
        {"grad/cosine": "base · correction"},
        needs=_GRADIENT_STATS,
    ),
    Plot(
        "Cosine of parts of the correction stream with the base stream",
        {
            "grad/right_cosine": "of right anchors",
            "grad/wrong_cosine": "of wrong anchors",
            "grad/unsolved_cosine": "at problems without a right attempt",
            "grad/right_wrong_cosine": "right · wrong anchors",
        },
        needs=_GRADIENT_STATS,
    ),
    Plot("Clipped ratios, share of tokens", _streams("clip_frac")),
    Plot("Largest ratio", _streams("ratio_max")),
    Plot("Sampler against trainer, mean |Δ log-prob|", _streams("sampler_gap")),
    Plot("Learning rate", {"learning_rate": "RL"}),
)

_COST = (
    Plot(
        "Seconds per step",
        {
            "time/rollout": "rollout",
            "time/correct": "correct",
            "time/update": "update",
            "time/score": "log-probs of the reference",
        },
        stacked=True,
    ),
    Plot(
        "Seconds compiling, saving, waiting",
        {
            "time/compile": "compiling",
            "time/checkpoint": "saving",
            "time/verify_wait": "waiting for verdicts",
        },
    ),
    Plot("Programs compiled", {"compile/count": "in the step"}),
    Plot("Tokens per step", {"tokens/sampled": "sampled", "tokens/trained": "trained"}),
    Plot(
        "Tokens per second and device",
        {
            "tokens/per_second_per_device": "sampled",
            "tokens/trained_per_second_per_device": "trained",
        },
    ),
    Plot(
        "Update's share of peak FLOPs",
        {"update/mfu": "model FLOPs"},
        share=True,
        needs="a device of known peak",
    ),
    Plot(
        "Sampler, shares",
        {
            "sampler/useful_rows": "rows that gave a token",
            "sampler/cache_used": "peak cache use",
            "sampler/reused_prompt": "prompt tokens reused",
            "time/verify_hidden": "verifying while sampling",
        },
        share=True,
    ),
    Plot(
        "Verifier, seconds per item",
        {"time/verify_p50": "median", "time/verify_p99": "99th percentile"},
    ),
    Plot("Padding in the train batch", {"tokens/pad_share": "padding"}, share=True),
)

_COLD_START = (
    Plot("Loss, nats per token", {"loss/demonstration": "demonstrations"}, "cold_start"),
    Plot(
        "Pass rate, held out",
        {"pass_rate": "pass@1", "lines_true": "lines that are true"},
        "cold_start",
        share=True,
    ),
)


def plots(pass_at: Sequence[str], histogram: Sequence[str] = ()) -> dict[str, tuple[Plot, ...]]:
    """The figures by section; `pass_at` as of `pass_at_names`, `histogram` of `histogram_names`."""
    if len(pass_at) > 4:  # four of them, the first and the last included
        pass_at = [pass_at[round(i * (len(pass_at) - 1) / 3)] for i in range(4)]
    accuracy, first = "eval/correction/accuracy_", "eval/first_wrong/"
    learning = (
        Plot(
            "Pass rate",
            _streams("pass_rate") | {"sampled/pass_rate": "base, with what was replaced"},
            share=True,
        ),
        Plot("Reward, before shaping", _streams("reward/mean")),
        Plot(
            f"Problems by how many of {histogram[0].rpartition('_of_')[2] if histogram else 'G'} "
            "attempts are right",
            {name: name.removeprefix("pass_rate/").partition("_of_")[0] for name in histogram},
            share=True,
            stacked=True,
            ramp=True,
        ),
        Plot("pass@k, held out", {n: n.removeprefix("eval/") for n in pass_at}, "eval", share=True),
        Plot(
            "Correction accuracy, held out",
            {accuracy + "before": "first attempt", accuracy + "after": "after a correction"},
            "eval",
            share=True,
        ),
        Plot(
            "Attempts wrong at the first evaluation, held out",
            {
                f"{first}w2r": "mended by a correction now",
                f"{first}resampled_w2r": "right in another attempt now",
            },
            "eval",
            share=True,
            needs="a run with eval.corrected_attempts > 0",
        ),
    )
    return {
        "Learning": learning,
        "Correction": _CORRECTION,
        "Behaviour": _BEHAVIOUR,
        "Optimisation": _OPTIMISATION,
        "Cost": _COST,
        "Cold start": _COLD_START,
    }


def pass_at_names(evaluations: Iterable[Mapping[str, Any]]) -> list[str]:
    """The pass@k metrics of evaluations, in order of k."""
    names = {n for record in evaluations for n in record if re.fullmatch(r"eval/pass@\d+", n)}
    return sorted(names, key=lambda name: int(name.partition("@")[2]))


def histogram_names(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The pass-rate histogram's metrics, in order, of the largest group size among records."""
    names = {name for record in records for name in record}
    found = [m for n in names if (m := re.fullmatch(r"pass_rate/(\d+)_of_(\d+)", n))]
    largest = max((int(m[2]) for m in found), default=0)
    of_largest = [m for m in found if int(m[2]) == largest]
    return [m[0] for m in sorted(of_largest, key=lambda m: int(m[1]))]
