"""FLOPs and bytes from shapes, by hand and against what the metrics count."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from cipo_jax.policy.config import ModelConfig
from cipo_jax.policy.model import abstract_params, token_logprobs
from cipo_jax.run.forecast.counts import (
    count_parameters,
    gradients_over_links,
    head_flops,
    layer_flops,
    repeated_flops,
    step_bytes,
    weights_over_links,
)
from cipo_jax.run.watch.speed import attention_flops, forward_flops

MODEL = ModelConfig(
    vocab_size=32,
    num_layers=3,
    d_model=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=16,
    compute_dtype="bfloat16",
)
# Of a layer: q and o 8 x 8 each, k and v 8 x 4 each, three matrices of the MLP; the norms' vectors.
PRODUCTS = 2 * 64 + 2 * 32 + 3 * 128
NORMS = 3 * 2 * 8 + 8
SEEN = np.array([1, 2, 3, 1, 2])


def product_flops(jaxpr: Any) -> float:
    """Of all products of matrices, those in loops as often as they run."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            sizes = (equation.invars[0].aval.shape[i] for i in contracted)
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(sizes)
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += turns * sum(map(product_flops, jaxprs_in_params(equation.params)))
    return total


def test_a_decode_step_reads_weights_and_live_tokens() -> None:
    whole = 3 * PRODUCTS + NORMS + 2 * 32 * 8
    assert count_parameters(MODEL) == whole
    # Of the input table, which is not the head's, only rows are read.
    assert step_bytes(MODEL, "bfloat16", 0) == 2 * (whole - 32 * 8)
    token = 2 * 3 * 1 * 4
    assert step_bytes(MODEL, "float32", 10) - step_bytes(MODEL, "float32", 0) == 4 * 10 * token


def test_layers_and_head_are_the_forward_pass() -> None:
    forward = forward_flops(MODEL, count_parameters(MODEL), SEEN)
    assert layer_flops(MODEL, SEEN) + head_flops(MODEL, SEEN.size) == forward
    assert attention_flops(MODEL, SEEN) == 4 * 8 * 3 * 9
    assert layer_flops(MODEL, SEEN) == 2 * 5 * (3 * PRODUCTS + NORMS) + 4 * 8 * 3 * 9


def test_what_remat_repeats() -> None:
    def repeated(remat: str) -> float:
        return repeated_flops(dataclasses.replace(MODEL, remat=remat), SEEN)

    head = head_flops(MODEL, SEEN.size)
    assert repeated("none") == head
    assert repeated("dots") == head + attention_flops(MODEL, SEEN)
    assert repeated("full") == head + layer_flops(MODEL, SEEN) - 2 * 5 * 3 * 128
    # Not q, k, v, nor attention, nor the last product of the layer.
    assert repeated("attention") == head + 2 * 5 * (3 * (64 + 2 * 128) + NORMS)


@pytest.mark.parametrize("post_norms", [False, True])
def test_what_remat_repeats_is_what_the_gradient_has_more(post_norms: bool) -> None:
    """Products in the traced gradient, beside those without remat. The portable attention makes all
    scores of a row, and makes them again in its backward pass."""
    rows, T = np.ones((1, 16), np.int32), 16

    def products(remat: str) -> float:
        model = dataclasses.replace(MODEL, remat=remat, post_norms=post_norms)

        def total(params: Any) -> jax.Array:
            positions = np.arange(T, dtype=np.int32)[None]
            return token_logprobs(model, params, rows, positions, rows, 1.0, ())[0].sum()

        return product_flops(jax.make_jaxpr(jax.grad(total))(abstract_params(model)).jaxpr)

    def counted(remat: str) -> float:
        model = dataclasses.replace(MODEL, remat=remat, post_norms=post_norms)
        norms = 2 * T * (3 * (4 if post_norms else 2) * 8 + 8) * (remat != "dots")
        # In so short rows logits are kept.
        return repeated_flops(model, np.full(T, T)) - head_flops(model, T) - norms

    kept = products("none")
    assert products("dots") - kept == counted("dots")
    assert products("full") - kept == counted("full")
    scores = attention_flops(MODEL, np.full(T, T)) / 2
    assert products("attention") - kept == counted("attention") + scores


@pytest.mark.parametrize(("fsdp", "tensor", "share"), [(1, 4, 0.0), (4, 1, 0.75), (4, 2, 0.375)])
def test_weights_pass_three_times_but_for_what_a_chip_has(
    fsdp: int, tensor: int, share: float
) -> None:
    assert weights_over_links(MODEL, fsdp, tensor) == 3 * 2 * count_parameters(MODEL) * share


def test_gradients_are_summed_over_replicas_of_a_part() -> None:
    whole = 2 * count_parameters(MODEL)
    assert gradients_over_links(MODEL, 4, 2, 1) == 0.0
    assert gradients_over_links(MODEL, 1, 1, 4) == 2 * whole * 0.75
    assert gradients_over_links(MODEL, 4, 2, 2) == 2 * whole / 8 * 0.5
