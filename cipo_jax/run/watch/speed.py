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
    """The FLOPs of an update, forward and backward, over all devices: three times those of
    `forward_flops`, once where there is no backward pass. Padding and what remat computes again do
    not count.

    Args:
      parameters: of the model.
      batch: NumPy arrays.
      learning: [U, M] bool, which microbatches have a backward pass.
      epochs: passes over the batch.
    """
    positions, used = np.asarray(batch.positions), np.asarray(batch.segments) > 0
    total = 0.0
    for microbatches, passes in ((learning, 3), (~learning, 1)):
        seen = (positions[microbatches] + 1)[used[microbatches]]
        total += passes * forward_flops(config, parameters, seen)
    return float(epochs * total)


def forward_flops(config: ModelConfig, parameters: int, seen: np.ndarray) -> float:
    """The FLOPs of a forward pass: 2 for each parameter and token, and 4 for each element of a head
    and each pair of tokens of which one sees the other.

    Args:
      parameters: of the model. The input embedding, from which rows are only read, is left out.
      seen: [n] how many tokens each token sees where no window bounds it, itself included.
    """
    if not config.tie_embeddings:
        parameters -= config.vocab_size * config.d_model
    return float(2 * parameters * seen.size + attention_flops(config, seen))


def attention_flops(config: ModelConfig, seen: np.ndarray) -> float:
    """Those of `forward_flops` that are products of queries with keys, and scores with values."""
    seen = seen.astype(np.float64)
    pairs = sum(
        (seen if window is None else np.minimum(seen, window)).sum()
        for window in config.windows or (None,) * config.num_layers
    )
    return float(4 * config.num_heads * config.head_dim * pairs)


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
