"""What is measured on one device, and at which sizes."""

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from plan_memory import SHAPES

from cipo_jax.policy import sharding
from cipo_jax.policy.config import ModelConfig

MODELS: dict[str, dict[str, Any]] = {
    "qwen3-4b": SHAPES["qwen3-4b"],
    "qwen3-0.6b": SHAPES["qwen3-0.6b"],
    "tiny": SHAPES["qwen3-0.6b"]
    | {"vocab_size": 512, "num_layers": 2, "d_model": 64, "mlp_dim": 128}
    | {"num_heads": 4, "num_kv_heads": 2, "head_dim": 16},
}


@dataclasses.dataclass(frozen=True)
class Work:
    """What is measured.

    Attributes:
      platform, compute_dtype: of the device, and on it.
      prompt, new: tokens of prompts and completions; quoted attempts have `new`.
      rows: numbers of rows decoded together.
      prefill_tokens: of a prefill call.
      problems, group: of the RL step; there are half as many anchors as problems.
      update_problems: of the update part, which has as many anchors.
      microbatches: rows of a gradient accumulation step, for the update; the RL step takes the
        first.
      peer_rows: rows of the peer; one of `rows`.
      source: directory of a pretrained model; "": none.
    """

    model: str
    platform: str = "cpu"
    compute_dtype: str = "float32"
    repeats: int = 3
    prompt: int = 512
    new: int = 512
    rows: Sequence[int] = (64, 16, 256)
    chunk: int = 32
    page_size: int = 64
    prefill_tokens: int = 32_768
    slots: int = 128
    problems: int = 32
    group: int = 8
    update_problems: int = 8
    row_tokens: int = 4096
    microbatches: Sequence[int] = (4,)
    remat: str = "full"
    peer_rows: int = 64
    source: str = ""

    @property
    def shape(self) -> ModelConfig:
        dtypes = {"compute_dtype": self.compute_dtype, "remat": self.remat}
        return ModelConfig(**MODELS[self.model], **dtypes)


TINY = {"prompt": 16, "new": 16, "rows": (4, 8), "chunk": 4, "page_size": 16, "slots": 8}
TINY |= {"problems": 4, "group": 4, "update_problems": 2, "row_tokens": 96, "microbatches": (2,)}
TINY |= {"peer_rows": 8}


def one_device() -> jax.sharding.Mesh:
    return sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])


def by_size(
    name: str, sizes: Sequence[int], measure: Callable[[int], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Measures each size; {name: size, "out_of_memory": why} where the device has no room."""
    for size in sizes:
        try:
            found = measure(size)
        except jax.errors.JaxRuntimeError as error:
            text = str(error)
            if "RESOURCE_EXHAUSTED" not in text and "out of memory" not in text.lower():
                raise
            found = {"out_of_memory": text.splitlines()[0][:200]}
        gc.collect()  # frees what a failed size held
        yield {name: size, **found}
