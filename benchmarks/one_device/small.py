"""CIPO steps of configs/small.py on a pretrained model."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from one_device.step import PHASES, train
from one_device.work import Work

STEPS, CONFIG = 20, str(Path(__file__).parents[2] / "configs" / "small.py")
METRICS = (*PHASES, "time/verify_hidden", "base/reward/mean", "correction/reward/mean")


def measure_small(work: Work) -> Iterator[dict[str, Any]]:
    """The metrics of each step, and the evaluations."""
    if not work.source:
        yield {"skipped": "--source names no directory of a pretrained model"}
        return
    jax.config.update("jax_platforms", "cpu")  # here; the run needs all memory of the device
    values = {"model.source": work.source, "num_steps": STEPS, "eval.every": STEPS}
    values |= {"model.compute_dtype": work.compute_dtype, "log.tensorboard": False}
    options = [f"--config={CONFIG}", *(f"--config.{k}={v}" for k, v in values.items())]
    with tempfile.TemporaryDirectory() as place:
        for line in train(options, Path(place) / "run"):
            if line["phase"] == "train":
                yield {"step": line["step"], **{n: line[n] for n in METRICS if n in line}}
            elif line["phase"] == "eval":
                scores = {n: x for n, x in line.items() if n.startswith("eval/pass")}
                yield {"evaluated after step": line["step"], **scores}
