"""What one device of a kind has, by `jax.Device.device_kind`.

TPUs: the pages on v4 (whose two cores are one device), v5e, v5p and v6e under
cloud.google.com/tpu/docs. Their memory is what XLA's compiler leaves to programs: it refuses larger
ones with that number.

GPUs: FLOPs, bandwidth and links are from NVIDIA's data sheets, of GeForce from the whitepapers of
their architectures. The other values are those of XLA's own list of GPUs to compile for
(xla/backends/gpu/target_config/specs in github.com/openxla/xla). L4, L40S and GeForce are not in
that list; theirs are what `deviceQuery` of NVIDIA's CUDA samples prints on one. Memory is what the
driver reports, a little less than its name says.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of device.

    Attributes:
      memory: bytes; of a GPU, all that its driver reports.
      bandwidth: of that memory, bytes per second.
      flops: dense bfloat16 FLOPs per second, without sparsity.
      links: to other chips, bytes per second in one direction: of a TPU all its links together,
        half of the bidirectional bandwidth on its page; of a GPU its NVLink, or PCIe without one.
    """

    memory: int
    bandwidth: float
    flops: float
    links: float


@dataclasses.dataclass(frozen=True)
class Gpu(Chip):
    """A kind of GPU.

    Attributes:
      kind: its `jax.Device.device_kind`.
      capability: CUDA compute capability, (major, minor).
      processors: streaming multiprocessors.
      clock: highest of the processors, GHz.
      l2: bytes of the level 2 cache.
    """

    kind: str
    capability: tuple[int, int]
    processors: int
    clock: float
    l2: int


_GIB, _MIB = 2**30, 2**20

# By the name in --topology.
GPUS = {
    "h100": Gpu(
        84_942_979_072,
        3.35e12,
        989e12,
        450e9,
        "NVIDIA H100 80GB HBM3",
        (9, 0),
        132,
        1.98,
        50 * _MIB,
    ),
    "h100-pcie": Gpu(
        84_942_979_072, 2.0e12, 756e12, 64e9, "NVIDIA H100 PCIe", (9, 0), 114, 1.755, 50 * _MIB
    ),
    "h200": Gpu(
        151_397_597_184, 4.8e12, 989e12, 450e9, "NVIDIA H200", (9, 0), 132, 1.98, 50 * _MIB
    ),
    "b200": Gpu(
        191_514_411_008, 7.7e12, 2250e12, 900e9, "NVIDIA B200", (10, 0), 148, 1.965, 132_644_864
    ),
    "a100": Gpu(
        85_100_068_864,
        2.039e12,
        312e12,
        300e9,
        "NVIDIA A100-SXM4-80GB",
        (8, 0),
        108,
        1.41,
        40 * _MIB,
    ),
    "a100-40": Gpu(
        42_331_013_120,
        1.555e12,
        312e12,
        300e9,
        "NVIDIA A100-SXM4-40GB",
        (8, 0),
        108,
        1.41,
        40 * _MIB,
    ),
    "a100-pcie": Gpu(
        85_100_068_864,
        1.935e12,
        312e12,
        32e9,
        "NVIDIA A100 80GB PCIe",
        (8, 0),
        108,
        1.41,
        40 * _MIB,
    ),
    "a100-pcie-40": Gpu(
        42_331_013_120,
        1.555e12,
        312e12,
        32e9,
        "NVIDIA A100-PCIE-40GB",
        (8, 0),
        108,
        1.41,
        40 * _MIB,
    ),
    "a6000": Gpu(
        51_041_271_808, 0.768e12, 154.8e12, 32e9, "NVIDIA RTX A6000", (8, 6), 84, 1.8, 6 * _MIB
    ),
    "l40s": Gpu(
        47_576_711_168, 0.864e12, 362e12, 32e9, "NVIDIA L40S", (8, 9), 142, 2.52, 96 * _MIB
    ),
    "l4": Gpu(23_612_293_120, 0.3e12, 121e12, 32e9, "NVIDIA L4", (8, 9), 58, 2.04, 48 * _MIB),
    "rtx4090": Gpu(
        25_250_627_584,
        1.008e12,
        165e12,
        32e9,
        "NVIDIA GeForce RTX 4090",
        (8, 9),
        128,
        2.52,
        72 * _MIB,
    ),
    "rtx3090": Gpu(
        25_443_893_248,
        0.936e12,
        71e12,
        32e9,
        "NVIDIA GeForce RTX 3090",
        (8, 6),
        82,
        1.695,
        6 * _MIB,
    ),
}

_V4 = Chip(int(30.75 * _GIB), 1.2e12, 275e12, 300e9)
_V5E = Chip(int(15.75 * _GIB), 0.819e12, 197e12, 200e9)
_V5P = Chip(int(95.74 * _GIB), 2.765e12, 459e12, 600e9)
_V6E = Chip(int(31.25 * _GIB), 1.6e12, 918e12, 400e9)
# By `device_kind`; JAX's name of a kind has changed.
TPUS = {
    "TPU v4": _V4,
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), _V5E),
    **dict.fromkeys(("TPU v5", "TPU v5p"), _V5P),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), _V6E),
}

CHIPS: dict[str, Chip] = {**TPUS, **{gpu.kind: gpu for gpu in GPUS.values()}}
