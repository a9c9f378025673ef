"""What is tried for a run that does not fit, and that what is proposed fits."""

from typing import Any

import jax
import pytest

from cipo_jax.config import default_config
from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import changed_config, resolve
from cipo_jax.policy.published import SHAPES
from cipo_jax.run import memory_plan, proposal
from cipo_jax.run.memory_plan import Program, open_shapes
from cipo_jax.run.proposal import as_flags, candidates, propose


def config(**changes: Any) -> Config:
    raw = default_config()
    raw.update_from_flattened_dict(changes)
    return resolve(raw)


LONG = {"data.max_attempt_tokens": 4096, "data.max_completion_tokens": 2048}


def test_memory_is_saved_before_lengths_are_cut() -> None:
    tried = list(candidates(config(**LONG)))
    assert tried[0] == {}
    assert tried[1:5] == [
        {"optimizer.mu_dtype": "bfloat16"},
        {"model.param_dtype": "bfloat16"},
        {"model.param_dtype": "bfloat16", "optimizer.name": "adafactor"},
        {
            "model.param_dtype": "bfloat16",
            "optimizer.name": "adafactor",
            "optimizer.b1": 0.0,
        },
    ]
    lengths = [
        {k: v for k, v in overrides.items() if k.startswith("data.")} for overrides in tried[::5]
    ]
    assert lengths == [
        {},
        {"data.max_attempt_tokens": 2048},
        {"data.max_attempt_tokens": 1024},
        {"data.max_attempt_tokens": 1024, "data.max_completion_tokens": 1024},
        {"data.max_attempt_tokens": 1024, "data.max_completion_tokens": 512},
    ]


def test_what_is_already_so_is_not_proposed() -> None:
    frugal = config(
        **LONG,
        **{
            "model.param_dtype": "bfloat16",
            "model.remat": "dots",
            "optimizer.name": "adafactor",
            "optimizer.b1": 0.0,
            "correction.weight": 0.0,
            "batch.microbatch_rows": 4,
        },
    )
    sizes = {"batch.microbatch_rows": 0}
    tried = list(candidates(frugal))
    assert tried[:2] == [sizes, sizes | {"model.remat": "full"}]
    # Nothing is corrected, so that nothing is quoted.
    assert not any("data.max_attempt_tokens" in overrides for overrides in tried)


def test_rows_are_split_where_devices_could_share_them() -> None:
    tried = list(candidates(config(**LONG), fsdp=4))[1:4]
    assert tried == [
        {"mesh.context": 2},
        {"mesh.context": 4},
        {"mesh.context": 4, "optimizer.mu_dtype": "bfloat16"},
    ]
    given = list(candidates(config(**LONG, **{"mesh.fsdp": 6, "mesh.data": -1}), fsdp=6))
    assert given[1] == {"mesh.context": 2, "mesh.fsdp": 3} and "mesh.context" in given[2]
    already = candidates(config(**LONG, **{"mesh.context": 2}), fsdp=4)
    assert not any("mesh.context" in overrides for overrides in already)


def test_overrides_are_those_of_the_command_line() -> None:
    overrides = {"model.param_dtype": "bfloat16", "optimizer.b1": 0.0}
    changed = changed_config(config(), overrides)
    assert changed == config(**overrides)
    assert as_flags(overrides) == "--config.model.param_dtype=bfloat16 --config.optimizer.b1=0.0"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the compiler: temporaries are 4 bytes a parameter and 100 a token. Returns the
    names of what was compiled."""
    names: list[str] = []

    def compile_update(shapes: memory_plan.Shapes, say: memory_plan.Say) -> Program:
        update, batch = shapes.update(), shapes.config.batch
        names.append("update")
        tokens = batch.microbatch_rows * batch.row_tokens
        temporaries = 4 * update.sizes.parameters + 100 * tokens
        return Program("update", update.sizes.device_bytes, temporaries)

    def compile_program(name: str, lowered: Any, say: memory_plan.Say) -> Program:
        names.append(name)
        return Program(name, 0, 1000)

    monkeypatch.setattr(proposal, "compile_update", compile_update)
    monkeypatch.setattr(memory_plan, "compile_program", compile_program)
    monkeypatch.setattr(
        memory_plan, "lower_programs", lambda *_: dict.fromkeys(("decode chunk", "prefill"))
    )
    return names


WIDE = {"model.d_model": 512, "model.mlp_dim": 2048, "sampling.slots": 2}


def test_the_first_that_fits_is_proposed(compiled: list[str]) -> None:
    wide, devices, said = config(**WIDE), jax.devices()[:1], list[str]()
    parameters = open_shapes(wide, devices).update().sizes.parameters
    # Float32 weights and two moments take 12 bytes a parameter, gradients 4: with bfloat16 12.
    found = propose(wide, devices, 15 * parameters, said.append)
    assert found and found.overrides == {"sampling.slots": 0, "optimizer.mu_dtype": "bfloat16"}
    assert compiled.count("update") == 1
    found = propose(wide, devices, 13 * parameters, said.append)
    assert found and found.overrides["model.param_dtype"] == "bfloat16"
    assert "optimizer.name" not in found.overrides
    # Sampling has room for 1 byte a parameter besides 8 of the state and 4 of the weights.
    assert found.plan.cache_bytes < 1 * parameters
    assert max(found.plan.update_bytes, found.plan.sampling_bytes) <= 13 * parameters
    assert compiled.count("update") == 2  # what cannot fit is not compiled
    assert said[-1].split()[-2:] == [
        "--config.model.param_dtype=bfloat16",
        f"--config.sampling.cache_tokens={found.overrides['sampling.cache_tokens']}",
    ]


def test_a_smaller_model_is_proposed_where_none_of_them_fits(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = {**SHAPES["Qwen/Qwen3-0.6B"], "vocab_size": 64, "d_model": 32, "num_layers": 1}
    monkeypatch.setattr(proposal, "SHAPES", {"a/large": SHAPES["Qwen/Qwen3-4B"], "a/tiny": tiny})
    wide, devices = config(**WIDE), jax.devices()[:1]
    found = propose(wide, devices, 20_000_000, lambda line: None)
    assert found and found.overrides["model.source"] == "a/tiny"
    assert found.plan.parameters < 1_000_000
    assert propose(wide, devices, 10_000, lambda line: None) is None
