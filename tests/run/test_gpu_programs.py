"""Programs for GPUs, without one: lowered for CUDA, and compiled where JAX's CUDA plugin is."""

import dataclasses
import functools
from typing import Any

import jax
import pytest
from as_on_gpu import lowered_for_cuda
from forms import fast
from tiny_models import TINY_CONFIG

from cipo_jax.config.keys import Batch, Config, Correction, Data, Rollout
from cipo_jax.policy import sharding
from cipo_jax.policy.config import ModelConfig
from cipo_jax.run.devices.optimised_hlo import Work, parse, work
from cipo_jax.run.devices.topology import topology_devices
from cipo_jax.run.update import Policy, bytes_per_device, make_policy_update, make_score
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.programs import abstract_cache, lower_decode, lower_prefill
from cipo_jax.sampling.settings import EngineSettings, table_width
from cipo_jax.types import CipoError

LAYERS, SLOTS = 3, 16
LONG, SHORT = 4096, 256  # tokens of a training row; queries are 4 heads of 64 wide
SETTINGS = EngineSettings(
    max_prompt_tokens=512,
    max_new_tokens=64,
    choice=Choice((1,)),
    slots=SLOTS,
    cache_dtype="bfloat16",
)
KERNEL = "__gpu$xla.gpu.triton"


def shape(**changed: Any) -> ModelConfig:
    sizes: Any = {"num_layers": LAYERS, "head_dim": 64, "compute_dtype": "bfloat16"}
    return dataclasses.replace(TINY_CONFIG, **{**sizes, "max_positions": 1 << 14, **changed})


WINDOWS = shape(windows=(64, None, 128), attention_soft_cap=30.0)


def update(config: ModelConfig, mesh: jax.sharding.Mesh, row_tokens: int) -> jax.stages.Lowered:
    most = row_tokens // 4
    data = Data(max_prompt_tokens=most, max_attempt_tokens=most, max_completion_tokens=most)
    plan = Config(
        data=data,
        rollout=Rollout(problems_per_step=2, group_size=2),
        correction=Correction(replay_fraction=1.0, group_size=2),
        batch=Batch(row_tokens=row_tokens, microbatch_rows=2),
    )
    policy = Policy(mesh, config, make_score(config, mesh, 1.0), most, 2 * most, most)
    return make_policy_update(plan, policy, lambda _: 1e-6).lower()


@functools.cache
def one_cpu() -> jax.sharding.Mesh:
    return sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])


@pytest.mark.parametrize("config", [shape(), WINDOWS], ids=["plain", "windows"])
def test_sampling_lowers_for_cuda_as_kernels(config: ModelConfig) -> None:
    """Of the layers there is one function; the windows are its arguments. (The last layer of a
    prefill has its own, since nothing reads what it gives.) Nothing loops but the steps of a chunk,
    and the copies of pages before them."""
    with lowered_for_cuda():
        decode = lower_decode(config, one_cpu(), SETTINGS).as_text()
        prefill = lower_prefill(config, one_cpu(), SETTINGS, 512, table_width(SETTINGS)).as_text()
    assert (decode.count(KERNEL), prefill.count(KERNEL)) == (2, 1 + 1)
    assert (decode.count("stablehlo.while"), prefill.count("stablehlo.while")) == (2, 0)
    assert "512x512" not in prefill


@pytest.mark.parametrize(
    ("config", "row_tokens", "kernels", "library"),
    fast(
        [
            (shape(), LONG, 4, False),
            (dataclasses.replace(WINDOWS, remat="full"), SHORT, 3 * (4 + 1), False),
            (shape(), SHORT, 0, True),
        ],
        0,
        2,
        arguments=4,
    ),
    ids=["long rows", "windows and soft cap", "short rows"],
)
def test_updates_lower_for_cuda_as_kernels(
    config: ModelConfig, row_tokens: int, kernels: int, library: bool
) -> None:
    """Three kernels for each window, the forward one again where it is repeated, and once more for
    microbatches without gradient; rows whose mask is small are cuDNN's."""
    with lowered_for_cuda():
        text = update(config, one_cpu(), row_tokens).as_text()
    assert text.count(KERNEL) == kernels
    assert ("__cudnn$fmha" in text) == library
    assert (f"{row_tokens}x{row_tokens}x" in text) == library


# Compiled.


@pytest.fixture(scope="module")
def one_gpu() -> jax.sharding.Mesh:
    try:
        devices = topology_devices("l4:1")
    except CipoError as error:
        pytest.skip(str(error))
    return sharding.make_mesh(1, 1, 1, devices=devices)


def compiled(lowered: jax.stages.Lowered) -> tuple[Any, Work, str]:
    program = lowered.compile()
    text = program.as_text() or ""
    return program.memory_analysis(), work(*parse(text)), text


@pytest.mark.slow
def test_a_compiled_decode_step_is_a_few_kernels_a_layer(one_gpu: jax.sharding.Mesh) -> None:
    memory, done, text = compiled(lower_decode(shape(), one_gpu, SETTINGS))
    step = max(done.inner, key=lambda loop: loop.flops)
    assert not step.inner and step.kernels <= 30 * LAYERS + 40
    assert text.count(f'"{KERNEL}"') == 2 * LAYERS
    # The cache is changed where it is, and no weight is copied for the chunk.
    cache = bytes_per_device(abstract_cache(shape(), one_gpu, SETTINGS))
    assert memory.alias_size_in_bytes >= cache and done.kernels < 40


@pytest.mark.slow
def test_a_compiled_prefill_has_no_loop(one_gpu: jax.sharding.Mesh) -> None:
    lowered = lower_prefill(WINDOWS, one_gpu, SETTINGS, 512, table_width(SETTINGS))
    memory, done, text = compiled(lowered)
    # Nothing reads what the last layer's attention gives.
    assert not done.inner and text.count(f'"{KERNEL}"') == LAYERS - 1
    assert done.kernels <= 30 * LAYERS + 40
    assert memory.alias_size_in_bytes >= bytes_per_device(
        abstract_cache(WINDOWS, one_gpu, SETTINGS)
    )


@pytest.mark.slow
def test_a_compiled_update_of_long_rows_has_no_square_array(one_gpu: jax.sharding.Mesh) -> None:
    memory, done, text = compiled(update(shape(remat="full"), one_gpu, LONG))
    assert text.count(f'"{KERNEL}"') == 4 + 1
    assert f"{LONG},{LONG}" not in text
    assert done.total("flops") > 0 and memory.temp_size_in_bytes > 0
