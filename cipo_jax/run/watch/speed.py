"""How fast a step was, per device, and how much of the device's arithmetic the update has used.

Decides what is counted. Seconds come from the caller.
"""

from collections.abc import Mapping

import numpy as np

from cipo_jax.policy.config import ModelConfig
from cipo_jax.run.devices.chips import CHIPS
from cipo_jax.types import TrainBatch

# The beginnings of names of metrics that depend on the machine and the time: two runs that are
# otherwise equal to the bit differ in them.
MEASURED = ("time/", "compile/", "tokens/per_second", "tokens/trained_per_second", "update/mfu")

# Dense bfloat16 FLOPs per second of one device, by `jax.Device.device_kind`.
PEAK_FLOPS = {kind: chip.flops for kind, chip in CHIPS.items()}


def step_times(times: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a step's phases as "time/<phase>", their sum as "time/step", and "time/checkpoint"
    if one was saved after the step before.

    Args:
      times: {phase: seconds}; others are left out.
    """
    phases = ("rollout", "correct", "score", "update")
    measures = {f"time/{phase}": times[phase] for phase in phases if phase in times}
    measures["time/step"] = sum(measures.values())
    if "checkpoint" in times:
        measures["time/checkpoint"] = times["checkpoint"]
    return measures


def update_flops(
    config: ModelConfig, parameters: int, batch: TrainBatch, learning: np.ndarray, epochs: int
) -> float:
    """The FLOPs of an update, forward and backward, over all devices: 6 for each parameter and
    token, and 12 for each element of a head and each pair of tokens of which one sees the other; a
    third of that where there is no backward pass. Padding and what remat computes again do not
    count.

    Args:
      parameters: of the model. The input embedding, from which rows are only read, is left out.
      batch: NumPy arrays.
      learning: [U, M] bool, which microbatches have a backward pass.
      epochs: passes over the batch.
    """
    if not config.tie_embeddings:
        parameters -= config.vocab_size * config.d_model
    positions, used = np.asarray(batch.positions), np.asarray(batch.segments) > 0
    heads = config.num_heads * config.head_dim
    total = 0.0
    for microbatches, share in ((learning, 1.0), (~learning, 1 / 3)):
        seen = (positions[microbatches] + 1)[used[microbatches]].astype(np.float64)
        pairs = sum(
            (seen if window is None else np.minimum(seen, window)).sum()
            for window in config.windows or (None,) * config.num_layers
        )
        total += share * (6 * parameters * seen.size + 12 * heads * pairs)
    return float(epochs * total)


def speeds(
    scalars: Mapping[str, float], devices: int, flops: float, peak: float | None
) -> dict[str, float]:
    """The speeds of a step, see `measures.METRICS`; "update/mfu" is absent without a `peak`.

    Args:
      scalars: the step's, with "time/rollout", "time/correct" and "time/update".
      devices: of the mesh, over all hosts.
      flops: of `update_flops`.
      peak: FLOPs per second of a device, see `PEAK_FLOPS`; None: not known.
    """
    sampling = scalars["time/rollout"] + scalars["time/correct"]
    update = scalars["time/update"]
    measures = {
        "tokens/per_second_per_device": scalars["tokens/sampled"] / (sampling * devices),
        "tokens/trained_per_second_per_device": scalars["tokens/trained"] / (update * devices),
    }
    if peak is not None:
        measures["update/mfu"] = flops / (update * devices * peak)
    return measures
