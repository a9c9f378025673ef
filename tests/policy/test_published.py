"""Shapes of published models."""

import math

import pytest

from cipo_jax.policy.config import ModelConfig
from cipo_jax.policy.published import SHAPES, shape_of
from cipo_jax.run.forecast.counts import count_parameters


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("Qwen/Qwen3-4B@main", "Qwen/Qwen3-4B"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct@abc", "HuggingFaceTB/SmolLM2-135M"),
        ("ByteDance-Seed/Seed-Coder-8B-Instruct", "ByteDance-Seed/Seed-Coder-8B-Base"),
        ("Qwen/Qwen3-400B", None),
        ("Qwen3-4B", None),
    ],
)
def test_a_model_has_the_shape_of_the_one_it_was_made_from(source: str, known: str | None) -> None:
    assert shape_of(source) == (None if known is None else SHAPES[known])


@pytest.mark.parametrize("source", SHAPES)
def test_a_shape_has_as_many_parameters_as_its_name_says(source: str) -> None:
    name = source.removesuffix("-Base").rpartition("-")[2]
    wanted = float(name[:-1]) * {"M": 1e6, "B": 1e9}[name[-1]]
    parameters = count_parameters(ModelConfig(**SHAPES[source]))
    # Of Qwen's smallest, the embedding is not counted in the name.
    assert abs(math.log(parameters / wanted)) < 0.25, parameters
