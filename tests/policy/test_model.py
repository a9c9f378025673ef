"""The transformer: cache, packing, padding, log-probs, remat, dtypes."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from forms import fast

from cipo_jax.policy import logprobs, model, sharding
from cipo_jax.policy.cache import attention as paged
from cipo_jax.policy.cache import pages as page_arrays

CONFIG = dataclasses.replace(tiny_models.TINY_CONFIG, num_layers=2)
PARAMS = functools.cache(lambda: tiny_models.tiny_params(CONFIG))

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def rows(*layouts: list[int], length: int, seed: int = 0) -> Rows:
    """tokens, positions, segments [B, length] int32. A layout lists lengths of sequences from the
    left; a negative number is that much padding."""
    shape = (len(layouts), length)
    tokens = np.random.default_rng(seed).integers(0, CONFIG.vocab_size, shape).astype(np.int32)
    positions, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for row, layout in enumerate(layouts):
        start = 0
        for number, size in enumerate(layout, start=1):
            if size > 0:
                positions[row, start : start + size] = np.arange(size)
                segments[row, start : start + size] = number
            start += abs(size)
        assert start <= length
    return tokens, positions, segments


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params, tokens, positions, segments) -> jax.Array:
    hidden, _ = model.hidden_states(config, params, tokens, positions, segments)
    return model.unembed(config, params, hidden)


def token_logprobs(config, params, batch: Rows, temperature=1.0) -> tuple[np.ndarray, np.ndarray]:
    """Compiled afresh, because tests change the block."""
    compiled = jax.jit(lambda p, *rows: model.token_logprobs(config, p, *rows, temperature))
    return jax.device_get(compiled(params, *batch))


# The cache.


@functools.partial(jax.jit, static_argnums=0)
def extend(config, params, cache, tokens, positions, segments):
    hidden, cache = model.hidden_states(config, params, tokens, positions, segments, cache)
    return model.unembed(config, params, hidden), cache


PATTERN = dataclasses.replace(
    CONFIG,
    windows=(5, None),
    local_rope_theta=300.0,
    attention_soft_cap=4.0,
    logit_soft_cap=8.0,
    norm_plus_one=True,
    post_norms=True,
    scale_embeddings=True,
    activation="gelu_pytorch_tanh",
)


@pytest.mark.parametrize("config", [CONFIG, PATTERN], ids=["plain", "gemma"])
@pytest.mark.parametrize(
    "chunks", fast([[24], [8, 16], [4, 16, 4]], -1), ids=lambda c: "+".join(map(str, c))
)
def test_cache_equals_teacher_forcing(chunks: list[int], config: model.ModelConfig) -> None:
    """Right-padded rows of 24, 17 and 3 tokens, fed in chunks of whole pages to a cache with room
    to spare."""
    batch = rows([24], [17, -7], [3, -21], length=24)
    batch[2][batch[2] > 0] = 1  # the cache's only segment number
    params = tiny_models.tiny_params(config)
    wanted = np.asarray(logits(config, params, *batch))
    page_size, width = 4, 7
    pages = page_arrays.empty_pages(
        config.num_layers,
        3 * width,
        page_size,
        config.num_kv_heads,
        config.head_dim,
        config.compute_dtype,
    )
    table = jnp.arange(3 * width, dtype=jnp.int32).reshape(3, width)
    parts, start = [], 0
    for size in chunks:
        before = start // page_size
        cache = paged.PagedCache(pages=pages, table=table, context_pages=before)
        part, cache = extend(config, params, cache, *(x[:, start : start + size] for x in batch))
        parts.append(part)
        pages = cache.pages
        start += size
    got = np.concatenate(parts, axis=1)
    real = batch[2] > 0
    assert np.abs(got - wanted)[real].max() <= 1e-5 * np.abs(wanted[real]).max()


# Packing and padding.


def test_packed_rows_equal_separate_rows() -> None:
    sizes = [7, 1, 10, 4]
    packed = rows(sizes, length=24)
    apart = rows(*([size] for size in sizes), length=24, seed=1)
    ends = np.cumsum(sizes)
    for row, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        apart[0][row, :size] = packed[0][0, end - size : end]
    together = token_logprobs(CONFIG, PARAMS(), packed)
    separate = token_logprobs(CONFIG, PARAMS(), apart)
    for got, wanted in zip(together, separate, strict=True):
        for row, (end, size) in enumerate(zip(ends, sizes, strict=True)):
            np.testing.assert_allclose(got[0, end - size : end], wanted[row, :size], atol=1e-5)
            assert got[0, end - size] == 0  # the first token of a sequence has no context


@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing(left: bool) -> None:
    plain = rows([9], length=9)
    reference = token_logprobs(CONFIG, PARAMS(), plain)
    padded = rows([-6, 9] if left else [9], length=15, seed=5)
    here = slice(6, 15) if left else slice(0, 9)
    padded[0][:, here] = plain[0]
    padded[1][padded[2] == 0] = 3  # whatever stands in the padding
    for got, wanted in zip(token_logprobs(CONFIG, PARAMS(), padded), reference, strict=True):
        np.testing.assert_allclose(got[:, here], wanted, atol=1e-5)
        outside = np.ones(15, bool)
        outside[here] = False
        assert not np.asarray(got)[:, outside].any()


# Log-probs.


def reference_logprobs(batch: Rows, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """`token_logprobs` token by token in float64, from the model's logits."""
    tokens, _, segments = batch
    scores = np.asarray(logits(CONFIG, PARAMS(), *batch), np.float64) / temperature
    logprobs, entropy = np.zeros(tokens.shape), np.zeros(tokens.shape)
    for b, t in np.ndindex(*tokens.shape):
        if t and segments[b, t] == segments[b, t - 1] != 0:
            z = scores[b, t - 1] - scores[b, t - 1].max()
            log_p = z - np.log(np.exp(z).sum())
            logprobs[b, t] = log_p[tokens[b, t]]
            entropy[b, t] = -(np.exp(log_p) * log_p).sum()
    return logprobs, entropy


BATCH = rows([12], [5, 6], [-4, 8], [3, 3, 3, -1], length=12)


@pytest.mark.parametrize("block", [512, 4, 3, 5])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropy_equal_numpy(
    block: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "BLOCK", block)
    got = token_logprobs(CONFIG, PARAMS(), BATCH, temperature)
    for ours, wanted in zip(got, reference_logprobs(BATCH, temperature), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    assert np.abs(got[0]).max() > 3 and got[1].max() > 1  # far from a flat distribution


def loss(config: model.ModelConfig, params: model.Params, batch: Rows) -> jax.Array:
    """Weighs each token differently, so that gradients tell tokens apart."""
    logprobs, entropy = model.token_logprobs(config, params, *batch)
    weights = jnp.cos(jnp.arange(logprobs.size)).reshape(logprobs.shape)
    return jnp.sum(weights * logprobs) + 0.3 * jnp.sum(weights**2 * entropy)


def value_and_grads(config: model.ModelConfig, params: model.Params, batch: Rows):
    program = jax.jit(jax.value_and_grad(lambda p: loss(config, p, batch)))
    return jax.device_get(program(params))


@functools.cache
def baseline():
    """What the variants below are compared with."""
    return value_and_grads(CONFIG, PARAMS(), BATCH)


def assert_trees_close(got, wanted, tolerance: float) -> None:
    """Each leaf within `tolerance` of the largest entry of that leaf."""

    def close(a, b):
        np.testing.assert_allclose(a, b, atol=tolerance * max(np.abs(b).max(), 1.0))

    jax.tree.map(close, got, wanted)


@pytest.mark.slow
def test_logprob_blocks_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = baseline()
    monkeypatch.setattr(logprobs, "BLOCK", 4)
    blocked = value_and_grads(CONFIG, PARAMS(), BATCH)
    assert_trees_close(blocked, whole, 1e-5)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(whole[1]))


def largest_buffer(compiled) -> int:
    """Elements of the largest array in an optimised program."""
    shapes = re.findall(r"\b(?:f32|bf16|pred|s32)\[([\d,]+)\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


@pytest.mark.parametrize("block", [8, 512])
def test_all_logits_never_exist_at_once(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward hold [B, block, V], not [B, T, V]."""
    monkeypatch.setattr(logprobs, "BLOCK", block)
    config = dataclasses.replace(CONFIG, vocab_size=5000, num_layers=1)
    B, T, V = 2, 64, config.vocab_size
    batch = jax.ShapeDtypeStruct((B, T), jnp.int32)
    program = jax.jit(jax.grad(lambda p, *batch: loss(config, p, batch)))
    compiled = program.lower(model.abstract_params(config), batch, batch, batch).compile()
    whole = B * T * V
    if block == 512:
        assert largest_buffer(compiled) >= whole  # what the blocks are there to avoid
    else:
        assert largest_buffer(compiled) <= max(whole // 8, V * config.d_model)


# Rematerialisation, dtypes, initialisation.


@pytest.mark.parametrize("remat", fast(sorted(model.REMAT_POLICIES), 1))
def test_remat_changes_neither_values_nor_gradients(remat: str) -> None:
    config = dataclasses.replace(CONFIG, remat=remat)
    assert_trees_close(value_and_grads(config, PARAMS(), BATCH), baseline(), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("unroll", [2, 100])
def test_unrolling_changes_neither_values_nor_gradients(unroll: int) -> None:
    config = dataclasses.replace(CONFIG, num_layers=4)
    params = model.init_params(config, jax.random.key(0))
    expected = value_and_grads(config, params, BATCH)
    unrolled = dataclasses.replace(config, unroll=unroll)
    assert_trees_close(value_and_grads(unrolled, params, BATCH), expected, 1e-6)
    jaxpr = str(jax.make_jaxpr(lambda p: loss(unrolled, p, BATCH))(params))
    assert f"unroll={min(unroll, 4)}" in jaxpr


def test_remat_policies_differ_in_what_is_computed_again() -> None:
    def matmuls(remat: str) -> int:
        config = dataclasses.replace(CONFIG, remat=remat)
        gradient = jax.grad(lambda params: loss(config, params, BATCH))
        return str(jax.make_jaxpr(gradient)(PARAMS())).count("dot_general")

    none, dots, saved, full = map(matmuls, ("none", "dots", "attention", "full"))
    assert full == none + 8  # all but the last of the nine, whose result the backward pass ignores
    assert dots == none + 2  # scores and weighted sum of values, no products with weights
    assert saved == none + 4  # scores (the reference's own backward pass needs them), o, gate, up


def test_compiled_program_does_not_grow_with_depth() -> None:
    """Patterns of windows and of rotary bases included."""

    def size(num_layers: int) -> int:
        config = dataclasses.replace(
            PATTERN, num_layers=num_layers, windows=(5, None) * (num_layers // 2)
        )
        jaxpr = jax.make_jaxpr(lambda p: loss(config, p, BATCH))(model.abstract_params(config))
        return str(jaxpr).count("=")

    assert size(8) == size(2)


def test_bfloat16_compute_has_float32_logits() -> None:
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    hidden, _ = jax.eval_shape(lambda p: model.hidden_states(config, p, *BATCH), PARAMS())
    assert hidden.dtype == jnp.bfloat16
    got = np.asarray(logits(config, PARAMS(), *BATCH))
    assert got.dtype == np.float32
    # Accumulated in float32, not merely converted: the sums use bits that bfloat16 does not have.
    assert (got != got.astype(jnp.bfloat16).astype(np.float32)).mean() > 0.5
    real = BATCH[2] > 0
    wanted = np.asarray(logits(CONFIG, PARAMS(), *BATCH))
    assert np.abs(got - wanted)[real].max() < 0.05 * np.abs(wanted[real]).max()
    grads = jax.eval_shape(jax.grad(lambda p: loss(config, p, BATCH)), PARAMS())
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("tied", [False, True])
def test_initial_parameters(tied: bool) -> None:
    config = dataclasses.replace(CONFIG, tie_embeddings=tied, attention_bias=True)
    params = model.init_params(config, jax.random.key(0))
    abstract = model.abstract_params(config)
    jax.tree.map(lambda x, a: np.testing.assert_(x.shape == a.shape), params, abstract)
    assert ("head" in params) != tied
    layers = params["layers"]
    assert np.asarray(layers["q"])[0].std() == pytest.approx(config.d_model**-0.5, rel=0.1)
    assert not np.allclose(layers["q"][0], layers["q"][1])  # each layer has its own draw
    logprobs, entropy = token_logprobs(config, params, BATCH)
    assert np.isfinite(logprobs).all()
    # A fresh model is close to indifferent.
    assert entropy[0, 1:].min() > 0.7 * math.log(config.vocab_size)


def test_shapes_are_found_once_and_are_the_callers_own() -> None:
    """A rollout asks for them each time; whoever changes them changes a copy."""
    first = model.abstract_params(CONFIG)
    traced = model._abstract_boxed.cache_info().misses
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    shardings = model.param_shardings(CONFIG, mesh)
    first["layers"].clear(), shardings["layers"].clear()
    again = model.abstract_params(CONFIG)
    wanted = model.init_params(CONFIG, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), again) == jax.tree.map(
        lambda x: (x.shape, x.dtype), wanted
    )
    assert jax.tree.structure(model.param_shardings(CONFIG, mesh)) == jax.tree.structure(again)
    assert model._abstract_boxed.cache_info().misses == traced
