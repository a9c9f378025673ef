"""Scores of tokens in blocks, on one device and on meshes."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import fast

from cipo_jax.policy import logprobs, sharding
from cipo_jax.policy.logprobs import Head, score_tokens

B, T, D, V = 8, 12, 16, 24
SIZES = {"embed": D, "heads": 4, "kv_heads": 4, "mlp": 8, "vocab": V}
HEAD = Head(transposed=True, temperature=0.7, soft_cap=5.0)


def inputs(head: Head) -> tuple[np.ndarray, jax.Array, np.ndarray]:
    """weights, hidden, targets."""
    rng = np.random.default_rng(0)
    shape = (V, D) if head.transposed else (D, V)
    hidden = jnp.asarray(rng.normal(size=(B, T, D)), jnp.float32)
    return (
        rng.normal(size=shape).astype(np.float32),
        hidden,
        rng.integers(0, V, (B, T)).astype(np.int32),
    )


def loss(head: Head, rules: sharding.Rules, weights, hidden, targets) -> jax.Array:
    """Weighs each token differently."""
    scores, entropy = score_tokens(head, weights, hidden, targets, rules)
    weight = jnp.cos(jnp.arange(B * T)).reshape(B, T)
    return jnp.sum(weight * scores) + 0.3 * jnp.sum(weight**2 * entropy)


def graded(head: Head, sizes: tuple[int, ...] | None, block: int):
    """(loss, gradients of weights and hidden) in blocks, on a mesh or on one device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "BLOCK", block)
        arrays = inputs(head)
        if sizes is None:
            program = jax.jit(jax.value_and_grad(functools.partial(loss, head, ()), (0, 1)))
            return jax.device_get(program(*arrays))
        mesh = sharding.make_mesh(*sizes)
        rules = sharding.logical_rules(mesh, SIZES)
        program = jax.jit(jax.value_and_grad(functools.partial(loss, head, rules), (0, 1)))
        with jax.set_mesh(mesh):
            return jax.device_get(program(*arrays))


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(
    "sizes",
    fast([None, (8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4), (1, 2, 2, 2), (2, 1, 1, 4)], 0, 5),
)
def test_blocks_and_mesh_change_nothing(sizes: tuple[int, ...] | None, transposed: bool) -> None:
    head = dataclasses.replace(HEAD, transposed=transposed)
    wanted = graded(head, None, block=T)
    got = graded(head, sizes, block=5)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())
    assert all(np.abs(g).max() > 0.1 for g in wanted[1])


@pytest.mark.parametrize("shape", [(1, 2, 4), (1, 2, 2, 2)])
def test_a_vocabulary_that_does_not_divide_is_kept_whole(shape: tuple[int, ...]) -> None:
    """Parts of D fit, but not of V."""
    sizes = {**SIZES, "vocab": V + 1}
    mesh = sharding.make_mesh(*shape)
    rules = sharding.logical_rules(mesh, sizes)
    weights, hidden, targets = inputs(HEAD)
    weights = np.concatenate([weights, weights[:1]])
    alone = score_tokens(HEAD, weights, hidden, targets)
    with jax.set_mesh(mesh):
        meshed = jax.jit(lambda *x: score_tokens(HEAD, *x, rules))(weights, hidden, targets)
    for a, b in zip(meshed, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_weight_gradients_of_blocks_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 a sum of many alike stands still."""
    monkeypatch.setattr(logprobs, "BLOCK", 1)
    weights = jnp.zeros((V, D), jnp.bfloat16)
    hidden = jnp.ones((1, 1000, D), jnp.bfloat16)
    targets = jnp.zeros((1, 1000), jnp.int32)
    head = Head(transposed=True, temperature=1.0, soft_cap=None)
    program = jax.grad(lambda w: score_tokens(head, w, hidden, targets)[0].sum())
    gradient = np.asarray(program(weights), np.float32)
    np.testing.assert_allclose(gradient[0], 1000 * (1 - 1 / V), rtol=0.01)


def test_the_head_is_gathered_and_its_gradient_reduced_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not in each block: no collective as large as the weights lies within a loop."""
    monkeypatch.setattr(logprobs, "BLOCK", 4)
    mesh = sharding.make_mesh(1, 8, 1)
    rules = sharding.logical_rules(mesh, SIZES)
    split = jax.NamedSharding(mesh, sharding.spec(rules, ("vocab", "embed")))
    rows = jax.NamedSharding(mesh, sharding.spec(rules, ("batch",)))
    weights, hidden, targets = inputs(HEAD)
    with jax.set_mesh(mesh):
        arrays = (jax.device_put(weights, split), *jax.device_put((hidden, targets), rows))
        program = jax.jit(
            jax.grad(functools.partial(loss, HEAD, rules), (0, 1)), out_shardings=(split, rows)
        )
        text = program.lower(*arrays).compile().as_text()
    where: dict[str, list[str]] = {}
    computation = ""
    for line in (text or "").splitlines():
        if line.endswith("{") and not line.startswith(" "):
            computation = line.split(" ")[0]
        found = re.search(r"\[([\d,]+)\]\S* (all-gather|all-reduce|reduce-scatter)\(", line)
        if found and (
            found[2] == "reduce-scatter" or np.prod([int(n) for n in found[1].split(",")]) >= V * D
        ):
            where.setdefault(computation, []).append(found[2])
    assert {name: sorted(kinds) for name, kinds in where.items()} == {
        "ENTRY": ["all-gather", "reduce-scatter"]
    }
