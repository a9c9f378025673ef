"""What a time line takes for granted: values that follow from no config and no data sheet.

Each has its reason in `SOURCES`, which is printed beside it. None was measured on an accelerator.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """See `SOURCES` for what each is. Seconds, bytes per second, or shares."""

    completion_share: float = 0.25
    length_sigma: float = 0.9
    prompt_share: float = 0.25
    products: float = 0.6
    memory: float = 0.6
    links: float = 0.7
    network: float = 25e9
    exchange_seconds: float = 10e-6
    turn_seconds: float = 2e-3
    judge_seconds: float = 0.01
    program_seconds: float = 1.0
    judge_sigma: float = 1.0
    hanging: float = 0.01
    workers: int = 32
    host_seconds: float = 2e-3
    saving: float = 2e9
    eval_problems: int = 500


# field -> (unit, what it is, where it comes from)
SOURCES: dict[str, tuple[str, str, str]] = {
    "completion_share": (
        "of the limit",
        "mean length of a completion, where --mean_tokens does not say it",
        "assumed",
    ),
    "length_sigma": (
        "",
        "spread of the logarithm of lengths, which are cut at the limit",
        "assumed, as the tailed lengths of benchmarks/generation.py",
    ),
    "prompt_share": ("of the limit", "length of a problem's prompt", "assumed"),
    "products": (
        "of peak FLOPs",
        "reached by products of the update and of prefill",
        "assumed; with the second forward pass of remat=full this makes an MFU of about 45%, the "
        "aim of benchmarks/accelerator.py",
    ),
    "memory": (
        "of bandwidth",
        "reached by a decode step and the optimiser",
        "the aim of benchmarks/accelerator.py; compiled steps move 0.99 to 1.2 times the bytes "
        "counted here (benchmarks/RESULTS.md)",
    ),
    "links": ("of bandwidth", "reached by exchanges of weights and gradients", "assumed"),
    "network": ("bytes/s", "of each GPU to other nodes", "assumed, 200 Gbit/s; TPUs use links"),
    "exchange_seconds": (
        "s",
        "latency of an exchange within a decode step",
        "assumed; two a layer and three a step, as compiled (benchmarks/RESULTS.md)",
    ),
    "turn_seconds": ("s", "the host between two decode chunks", "assumed"),
    "judge_seconds": (
        "s",
        "mean time to judge an answer in mathematics",
        "benchmarks/RESULTS.md: 78 to 320 symbolic answers a second",
    ),
    "program_seconds": ("s", "mean time to judge a program, all tests", "assumed"),
    "judge_sigma": ("", "spread of the logarithm of these times", "assumed"),
    "hanging": ("of items", "stay until verifier.timeout_seconds", "assumed"),
    "workers": ("", "verifiers of a host", "the default on 64 cores or more, verifiers/judge.py"),
    "host_seconds": (
        "s an attempt",
        "of the host: gathering, packing, statistics, archive",
        "assumed",
    ),
    "saving": ("bytes/s", "from a device to its host, for a checkpoint", "assumed"),
    "eval_problems": ("", "of an evaluation, where the config takes all of a file", "MATH500"),
}


def assumed(assumptions: Assumptions) -> list[tuple[str, str]]:
    """(name, value with its meaning and source) of each."""
    rows = []
    for field in dataclasses.fields(assumptions):
        unit, meaning, source = SOURCES[field.name]
        value = f"{getattr(assumptions, field.name):g} {unit}".rstrip()
        rows.append((field.name, f"{value}: {meaning} ({source})"))
    return rows
