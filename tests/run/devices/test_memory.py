"""How much memory a device has for programs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from cipo_jax.run.devices import memory as module
from cipo_jax.run.devices.chips import GPUS, TPUS
from cipo_jax.run.devices.memory import FRACTION_VARIABLES, control_group_limit, device_memory
from cipo_jax.types import CipoError


def device(platform: str, kind: str, stats: Any = None) -> Any:
    """One that raises what JAX raises of a device that is not here, where it has no `stats`."""

    def memory_stats() -> Any:
        if stats is None:
            raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: only for addressable devices")
        return stats

    return SimpleNamespace(platform=platform, device_kind=kind, memory_stats=memory_stats)


@pytest.fixture(autouse=True)
def no_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in FRACTION_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_the_runtime_knows_best() -> None:
    memory = device_memory(device("gpu", GPUS["h100"].kind, {"bytes_limit": 7}))
    assert memory == (7, "as its runtime says")


@pytest.mark.parametrize("kind", TPUS)
def test_a_tpu_that_is_not_here_has_what_its_compiler_allows(kind: str) -> None:
    memory = device_memory(device("tpu", kind))
    assert memory and memory.bytes == TPUS[kind].memory


@pytest.mark.parametrize("variable", ["", *FRACTION_VARIABLES])
def test_jax_takes_a_share_of_a_gpu(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if variable:
        monkeypatch.setenv(variable, "0.9")
    memory = device_memory(device("gpu", "NVIDIA L4"))
    share = 0.9 if variable else 0.75
    assert memory and memory.bytes == int(share * 23_612_293_120)
    assert (variable or "default") in memory.source and f"{share:.0%} of 22.0 GiB" in memory.source


@pytest.mark.parametrize("given", ["90", "none", "0", "-0.5"])
def test_a_share_that_is_none_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", given)
    with pytest.raises(CipoError, match=f"XLA_CLIENT_MEM_FRACTION: got '{given}', wanted a number"):
        device_memory(device("gpu", "NVIDIA L4"))


def test_of_an_unknown_kind_nothing_is_known() -> None:
    assert device_memory(device("gpu", "a GPU of tomorrow")) is None
    assert device_memory(device("tpu", "TPU v9", {})) is None


def test_the_devices_of_a_cpu_share_the_memory() -> None:
    memory = device_memory(jax.devices()[0])
    assert memory and memory.bytes > 2**28 and "over 8 device(s)" in memory.source


def test_a_container_may_have_less_than_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "control_group_limit", lambda: 2**23)
    memory = device_memory(jax.devices()[0])
    assert memory == (2**20, "the memory limit of this process's control group over 8 device(s)")
    monkeypatch.setattr(module, "control_group_limit", lambda: 2**60)
    memory = device_memory(jax.devices()[0])
    assert memory and "this machine's memory" in memory.source


@pytest.mark.parametrize(
    ("listed", "files", "limit"),
    [
        # Version 2: a job's own limit, that of all jobs, and none.
        ("0::/jobs/7", {"jobs/7/memory.max": "max", "jobs/memory.max": "500"}, 500),
        ("0::/jobs/7", {"jobs/7/memory.max": "300", "jobs/memory.max": "500"}, 300),
        ("0::/", {"memory.max": "max"}, None),
        # Version 1, from within a container, which does not see where the group is.
        ("9:cpu,memory:/docker/1f\n1:cpu:/", {"memory/memory.limit_in_bytes": "400"}, 400),
        ("1:cpu:/", {"memory/memory.limit_in_bytes": "400"}, None),
    ],
)
def test_the_least_limit_of_a_process_is_found(
    listed: str, files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    (tmp_path / "listed").write_text(f"{listed}\n")
    assert control_group_limit(tmp_path / "listed", tmp_path) == limit
    assert control_group_limit(tmp_path / "nowhere", tmp_path) is None
