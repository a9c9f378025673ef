"""Devices that are not here, by name, and how their GPUs are described to the compiler."""

import importlib.util
import re

import pytest

from cipo_jax.run.devices.chips import CHIPS, GPUS
from cipo_jax.run.devices.gpu_target import CAPABILITIES, target_text
from cipo_jax.run.devices.topology import KINDS, TPUS, paper_devices, topology_devices
from cipo_jax.types import CipoError


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("h10:8", r"no such GPU or TPU; did you mean .*h100.*\? GPUs: h100, .*TPUs: v4, v5e"),
        ("rtx5000:1", "did you mean rtx"),
        ("", "no such GPU or TPU; GPUs: "),
        ("h100", "wanted the GPUs of a node, .*: h100:1, h100:8 or h100:8x2"),
        ("h100:0", "wanted the GPUs of a node"),
        ("H100:8x2x2", "--topology=H100:8x2x2: wanted the GPUs of a node"),
        ("l4:1x", "wanted the GPUs of a node"),
        ("v5e:16", "wanted the chips along each of 2 sides, such as v5e:2x2"),
        ("v5p:2x2", "along each of 3 sides, such as v5p:2x2x2"),
        ("v4", "along each of 3 sides"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(topology: str, message: str) -> None:
    for devices in (topology_devices, paper_devices):
        with pytest.raises(CipoError, match=message):
            devices(topology)


def test_devices_on_paper_are_those_of_the_compilers() -> None:
    """As libtpu and JAX's CUDA plugin describe them."""
    slice_ = paper_devices("v5e:4x4")
    assert [d.id for d in slice_] == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert [d.process_index for d in slice_] == [i // 4 for i in range(16)]
    assert slice_[4].coords == (2, 0, 0) and slice_[4].platform == "tpu"
    cube = paper_devices("v5p:2x2x2")
    assert [d.coords for d in cube[3:5]] == [(1, 1, 0), (0, 0, 1)]
    assert [d.process_index for d in cube] == [0] * 4 + [1] * 4
    nodes = paper_devices("h100:4x2")
    assert [(d.id, d.process_index) for d in nodes] == [(i, i // 4) for i in range(8)]
    assert KINDS.keys() == TPUS.keys() and set(KINDS.values()) <= CHIPS.keys()


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("h100:8", r"needs JAX's CUDA plugin.*pip install -c constraints.txt -e '.\[cuda\]'"),
        ("v5e:2x2", r"needs libtpu.*pip install -c constraints.txt -e '.\[tpu\]'"),
    ],
)
def test_a_compiler_that_is_missing_is_named(
    topology: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def absent(name: str) -> object:
        return None if name == "libtpu" or name.startswith("jax_cuda") else find(name)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(CipoError, match=message):
        topology_devices(topology)


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_is_described(name: str) -> None:
    gpu, text = GPUS[name], target_text(GPUS[name])
    fields = dict(re.findall(r"(\w+): ([\w.]+)", text))
    # What XLA divides by, or allocates by, is there and is a number.
    for field, value in (
        ("core_count", gpu.processors),
        ("device_memory_size", gpu.memory),
        ("memory_bandwidth", int(gpu.bandwidth)),
        ("l2_cache_size", gpu.l2),
        ("threads_per_core_limit", CAPABILITIES[gpu.capability].threads),
        ("shared_memory_per_block_optin", CAPABILITIES[gpu.capability].shared_block),
    ):
        assert int(fields[field]) == value
    assert f"major: {gpu.capability[0]} minor: {gpu.capability[1]} " in text
    assert f'device_description_str: "{gpu.kind}"' in text
    assert text.count("{") == text.count("}")


def test_gpus_have_what_their_names_say() -> None:
    for name, gigabytes in {
        "h100": 80,
        "h200": 141,
        "a100-40": 40,
        "l4": 24,
        "rtx4090": 24,
    }.items():
        # Up to 8% less: what error correction and the driver keep.
        assert 0.9 * gigabytes * 2**30 < GPUS[name].memory < 1.08 * gigabytes * 2**30, name
    assert len({gpu.kind for gpu in GPUS.values()}) == len(GPUS)
