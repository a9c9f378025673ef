"""A time line in lines: what `--mode=explain` prints."""

from collections.abc import Iterator

from cipo_jax.run.forecast.timeline import Sampled, Timeline

_PARTS = {
    "weights": "weights",
    "cache": "keys and values",
    "products": "products",
    "latency": "exchanges",
    "prefill": "prefill",
    "host": "host",
}


def lines(found: Timeline) -> Iterator[tuple[str, str]]:
    """(name, value), from the devices to the whole run."""
    m, update = found.machine, found.update
    yield "devices", f"{m.chips} x {m.kind} on {m.hosts} host(s)"
    yield (
        "a chip",
        f"{m.chip.flops / 1e12:g} TFLOP/s in bfloat16, {m.chip.bandwidth / 1e12:g} TB/s of memory, "
        f"{m.links / 1e9:g} GB/s to others (run/devices/chips.py)",
    )
    yield "a completion", f"{found.mean_tokens:,.0f} tokens on average"
    yield "attempts", _sampled(found.attempts)
    if found.corrections is not None:
        yield "corrections", _sampled(found.corrections)
    hidden = "hidden" if not found.verification else "after sampling"
    yield "verification", f"{seconds(found.verification)}: {hidden}"
    yield "weights", f"{seconds(found.weights)}: to the sampler's layout"
    largest = max(update.parts, key=lambda part: update.parts[part])
    yield (
        "update",
        f"{seconds(update.seconds)}: {update.flops:.2e} FLOPs for {update.tokens:,} tokens, MFU "
        f"{update.mfu:.0%}; mostly {largest}; {update.fill:.0%} of what is computed is no padding",
    )
    yield "rest", f"{seconds(found.rest)}: the host, and checkpoints"
    shares = [f"{name} {part / found.step:.0%}" for name, part in found.bounds.items()][:3]
    yield "a step", f"{seconds(found.step)}: {', '.join(shares)}"
    yield "an evaluation", seconds(found.evaluation)
    yield (
        "the run",
        f"{found.hours:,.1f} hours: {found.steps:,} steps, {found.evaluations:,} evaluations; "
        f"bound by {next(iter(found.bounds))}",
    )


def seconds(value: float) -> str:
    """With three digits."""
    return f"{value:,.0f} s" if value >= 100 else f"{value:.3g} s"


def _sampled(found: Sampled) -> str:
    parts = sorted(found.parts.items(), key=lambda item: -item[1])
    shares = [f"{_PARTS[n]} {part / found.seconds:.0%}" for n, part in parts if part][:3]
    text = f"{seconds(found.seconds)}: {', '.join(shares)}; {found.useful:.0%} of the rows useful; "
    text += f"the last tenth of completions {seconds(found.tail)}"
    return text + (f"; {found.evictions:,} evictions" if found.evictions else "")
