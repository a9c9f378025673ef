"""A GPU as XLA's compiler wants it described, to compile for one that is not here.

XLA reads a `stream_executor.GpuTargetConfigProto` in text form. What all GPUs of a compute
capability have in common is from the tables "Technical Specifications per Compute Capability" and
"Arithmetic Instructions" of NVIDIA's CUDA C++ Programming Guide; the rest is in `chips.GPUS`.
"""

from typing import NamedTuple

from cipo_jax.run.devices.chips import Gpu

_KIB = 1024


class Capability(NamedTuple):
    """What a multiprocessor of a compute capability has.

    Attributes:
      threads: resident at a time.
      shared: bytes of shared memory.
      shared_block: bytes of it that one block may ask for.
      fpus: float32 units.
      extension: whether instructions of this capability alone may be used ("sm_90a").
    """

    threads: int
    shared: int
    shared_block: int
    fpus: int
    extension: bool = False


CAPABILITIES = {
    (8, 0): Capability(2048, 164 * _KIB, 163 * _KIB, 64),
    (8, 6): Capability(1536, 100 * _KIB, 99 * _KIB, 128),
    (8, 9): Capability(1536, 100 * _KIB, 99 * _KIB, 128),
    (9, 0): Capability(2048, 228 * _KIB, 227 * _KIB, 128, extension=True),
    (10, 0): Capability(2048, 228 * _KIB, 227 * _KIB, 128, extension=True),
}

# Of all these capabilities, by the same tables.
_COMMON = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 48 * _KIB,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65_535,
    "block_dim_limit_z": 65_535,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
    "registers_per_core_limit": 65_536,
    "registers_per_block_limit": 65_536,
}
# The oldest versions that the plugin accepts; which kernels XLA chooses depends on them.
_CUDNN, _CUDA = (9, 12, 0), (13, 0, 0)


def target_text(gpu: Gpu) -> str:
    """The description of a GPU, as `get_topology_desc(target_config=...)` takes it."""
    capability = CAPABILITIES[gpu.capability]
    info = _COMMON | {
        "shared_memory_per_core": capability.shared,
        "shared_memory_per_block_optin": capability.shared_block,
        "threads_per_core_limit": capability.threads,
        "fpus_per_core": capability.fpus,
        "core_count": gpu.processors,
        "clock_rate_ghz": gpu.clock,
        "l2_cache_size": gpu.l2,
        "device_memory_size": gpu.memory,
        "memory_bandwidth": int(gpu.bandwidth),
    }
    major, minor = gpu.capability
    extension = "ACCELERATED_FEATURES" if capability.extension else "NONE"
    fields = "\n".join(f"  {name}: {value}" for name, value in info.items())
    return (
        f"gpu_device_info {{\n{fields}\n"
        f"  cuda_compute_capability {{ major: {major} minor: {minor} "
        f"feature_extension: {extension} }}\n}}\n"
        'platform_name: "CUDA"\n'
        f"dnn_version_info {{ {_version(_CUDNN)} }}\n"
        f"runtime_version {{ {_version(_CUDA)} }}\n"
        f'device_description_str: "{gpu.kind}"\n'
    )


def _version(numbers: tuple[int, int, int]) -> str:
    return " ".join(
        f"{part}: {n}" for part, n in zip(("major", "minor", "patch"), numbers, strict=True)
    )
