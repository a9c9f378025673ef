"""Watching a run in progress.

    heartbeat.py    times of phases, and a line where one takes long
    health.py       limits on metrics, and when their breach is reported
    learning.py     what keeps a step from teaching anything
    compiles.py     what XLA compiles: cache, ledger, limit
    speed.py        tokens per second, model FLOPs, peaks of devices
    profiling.py    a trace of chosen steps

Nothing here changes what a run computes. To add a health rule: a key in the config's `Health` whose
name ends in `_floor` or `_ceiling`, and a `Rule` in `health.health_rules`. Peaks of devices are in
`devices/chips.py`.
"""
