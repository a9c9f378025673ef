"""How long a step and a run take on devices that are not here: a time line on paper.

    assumptions.py    efficiencies and latencies that no shape says, each with where it comes from
    lengths.py        completions with a long tail, of a given mean
    counts.py         FLOPs and bytes of the programs, counted from shapes
    decoding.py       a rollout over the engine's own schedule, with a clock instead of devices
    verification.py   the verifier's queue, with a clock instead of workers
    machine.py        the devices, and what a host samples with on them
    timeline.py       a step, an evaluation and the run from these, and what bounds them
    wording.py        the lines that `--mode=explain` prints

Nothing is compiled or measured here. Not decided here: what a device has (`devices/chips`), which
sizes a run has (`sizes`), and whether it fits into memory (`memory_plan`).

To add a part of a step: its seconds in `timeline`, and a line for whatever had to be assumed.
"""
