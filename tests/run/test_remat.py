"""Which recomputation is chosen, of stand-ins for compiled programs."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest

from cipo_jax.config import default_config
from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import resolve
from cipo_jax.policy.model import ModelConfig, abstract_params, token_logprobs
from cipo_jax.policy.published import SHAPES
from cipo_jax.run import remat
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.memory_plan import Program, Shapes, least_bytes, open_shapes
from cipo_jax.run.remat import choose_remat, kept_bytes, numbers_kept, with_remat
from cipo_jax.run.sizes import GIB


def config(**changes: Any) -> Config:
    raw = default_config()
    raw.model.remat = "auto"
    raw.update_from_flattened_dict(changes)
    return resolve(raw)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the compiler, with 1,000 bytes more than what is certain. Returns the policies
    of what was compiled."""
    policies: list[str] = []

    def compile_update(shapes: Shapes, say: Any) -> Program:
        policy = shapes.policy.model.remat
        policies.append(policy)
        return Program("update", least_bytes(shapes), kept_bytes(shapes)[policy] + 1000)

    monkeypatch.setattr(remat, "compile_update", compile_update)
    return policies


def test_what_is_kept_follows_from_the_shape_and_the_order_from_what_is_computed_again() -> None:
    model = ModelConfig(**SHAPES["Qwen/Qwen3-4B"])
    long, short = numbers_kept(model, 18_432), numbers_kept(model, 1024)
    # Attention over long rows costs more than the products that "attention" computes again.
    assert list(long) == ["none", "attention", "dots", "full"]
    assert list(short) == ["none", "dots", "attention", "full"]
    windows = (128,) * model.num_layers
    assert list(numbers_kept(dataclasses.replace(model, windows=windows), 18_432)) == list(short)
    D, M, heads, kv = 2560, 9728, 32 * 128, 2 * 8 * 128
    assert long["dots"] == D + (heads + kv) + (D + 2 * M)
    assert long["full"] == D < long["attention"] < long["dots"] < long["none"]


@pytest.mark.parametrize("post_norms", [False, True])
def test_what_is_kept_is_what_the_gradient_finds_kept(post_norms: bool) -> None:
    rows, T = np.ones((1, 20), np.int32), 20  # of a size that no weight has
    positions = np.arange(T, dtype=np.int32)[None]
    tiny = ModelConfig(32, 3, 8, 2, 1, 4, 16, post_norms=post_norms)
    for policy, numbers in numbers_kept(tiny, T).items():
        model = dataclasses.replace(tiny, remat=policy)

        def total(params: Any, model: ModelConfig = model) -> jax.Array:
            return token_logprobs(model, params, rows, positions, rows, 1.0, ())[0].sum()

        backward = jax.eval_shape(lambda p, f=total: jax.vjp(f, p)[1], abstract_params(model))
        # Of each layer, and of tokens: not its weights.
        kept = [x.shape for x in jax.tree.leaves(backward) if x.shape[:1] == (3,) and T in x.shape]
        found = sum(math.prod(shape) for shape in kept) / 3 / T
        assert found > numbers if policy == "none" else found == numbers


def test_the_least_that_fits_is_chosen_and_what_cannot_fit_is_not_compiled(
    compiled: list[str],
) -> None:
    auto, devices, said = config(), jax.devices()[:1], list[str]()
    shapes = open_shapes(config(**{"model.remat": "full"}), devices)
    least, kept = least_bytes(shapes), kept_bytes(shapes)
    order = list(kept)
    for policy in order[:-1]:
        compiled.clear()
        # With the share that is left free, and the 1,000 bytes that only a compiler knows of.
        room = int((least + kept[policy] + 1000) / (1 - remat.SPARE)) + 1
        chosen, program = choose_remat(auto, devices, room, said.append)
        assert chosen.model.remat == policy and program is not None
        assert compiled == [policy]
        assert f"{policy}: computes least again of what fits" in said[-1]
    # Refused by the compiler alone, and so on to what is left.
    compiled.clear()
    room = int((least + kept[order[2]] + 500) / (1 - remat.SPARE)) + 1
    chosen, program = choose_remat(auto, devices, room, said.append)
    assert (chosen.model.remat, program, compiled) == ("full", None, [order[2]])
    assert said[-1].startswith("remat        full: all that computes less again")


def test_policies_that_are_set_are_kept_and_unknown_memory_is_said(compiled: list[str]) -> None:
    said: list[str] = []
    dots = config(**{"model.remat": "dots"})
    assert choose_remat(dots, jax.devices(), GIB, said.append) == (dots, None) and not said
    assert with_remat(dots, Hosts()) is dots
    chosen, _ = choose_remat(config(), jax.devices(), None, said.append)
    assert chosen.model.remat == "full" and "not known" in said[-1]
    assert not compiled


def test_a_run_takes_the_policy_and_says_it(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = with_remat(config(), Hosts())
    assert chosen.model.remat == "none" and compiled == ["none"]  # it is small
    assert "remat        none: computes least again" in capsys.readouterr().out
