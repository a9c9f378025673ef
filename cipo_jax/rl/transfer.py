"""Whether the parts of a step's batch pull the policy the same way: inner products of gradients.

Corrections can teach solving only as far as their gradient has a part in common with that of the
attempts. Parts are the base stream, and the corrections by what they quote: right attempts, wrong
ones at problems that some attempt of the step solves, and wrong ones at problems that none does.
The base stream has no gradient from the last kind of problem: what is learned of them comes from
corrections.

The parts' gradients add up to those of the streams, so that one program gives all norms and
cosines. Which correction belongs to which part is decided in `run/streams`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cipo_jax.rl.losses import TokenLoss
from cipo_jax.rl.train_step import Params, Score, gradient
from cipo_jax.types import STREAMS, TrainBatch

PARTS = ("base", "right", "solved", "unsolved")
# What has a norm, as the parts that it is the sum of.
_SUMS = {
    "base": ("base",),
    "correction": ("right", "solved", "unsolved"),
    "right": ("right",),
    "wrong": ("solved", "unsolved"),
    "unsolved": ("unsolved",),
}


def stack_parts(parts: Sequence[TrainBatch]) -> TrainBatch:
    """Batches of NumPy arrays [U, M, R, ...], one for each of C parts of a batch, for
    `make_gradient_products`: [C, U M, R, ...], with the whole batch's normalisers [C, 2]."""
    arrays = [part._replace(token_counts=None) for part in parts]
    stacked = jax.tree.map(lambda *x: np.stack([a.reshape(-1, *a.shape[2:]) for a in x]), *arrays)
    whole = np.sum([part.token_counts for part in parts], axis=(0, 1))
    return stacked._replace(token_counts=np.tile(whole, (len(parts), 1)))


def make_gradient_products(
    score: Score, token_loss: TokenLoss, replicated: Any = None
) -> Callable[[Params, TrainBatch], jax.Array]:
    """Builds the jitted `(params, parts) -> [C, C]` float32: the inner products of the gradients,
    at `params`, of C parts of a batch.

    `parts` is what `stack_parts` gives. Each part is divided by the whole batch's normalisers, so
    that the parts' gradients are terms of the batch's. Streams have weight 1.

    Costs about the time of a one-epoch update, and C float32 gradients in memory; meant for every
    n-th step.

    Args:
      replicated: the sharding of the result; None on a single device.
    """

    def products(params: Params, parts: TrainBatch) -> jax.Array:
        def of_part(part: TrainBatch) -> Params:
            return gradient(score, token_loss, (1.0, 1.0), params, part, None)[0]

        def of_leaf(x: jax.Array) -> jax.Array:
            rest = tuple(range(1, x.ndim))
            return jax.lax.dot_general(x, x, ((rest, rest), ((), ())), precision="highest")

        return jnp.sum(jnp.stack([*map(of_leaf, jax.tree.leaves(jax.lax.map(of_part, parts)))]), 0)

    return jax.jit(products, out_shardings=replicated)


def gradient_measures(products: np.ndarray) -> dict[str, float]:
    """Norms and cosines of the streams' gradients, and of their parts, by the names of the metrics.

    A cosine is absent if either gradient is zero, and so are the norms of parts that are zero.

    Args:
      products: [C, C], as `make_gradient_products` gives them for `PARTS`.
    """
    inner = np.asarray(products, np.float64)
    vectors = {n: np.array([p in parts for p in PARTS], float) for n, parts in _SUMS.items()}
    norms = {name: float(np.sqrt(max(v @ inner @ v, 0.0))) for name, v in vectors.items()}

    def cosine(a: str, b: str) -> float:
        lengths = norms[a] * norms[b]
        return float(vectors[a] @ inner @ vectors[b] / lengths) if lengths else np.nan

    pairs = {
        "cosine": STREAMS,
        "right_cosine": ("right", "base"),
        "wrong_cosine": ("wrong", "base"),
        "unsolved_cosine": ("unsolved", "base"),
        "right_wrong_cosine": ("right", "wrong"),
    }
    cosines = {name: cosine(*pair) for name, pair in pairs.items()}
    measures = {f"{name}_norm": x for name, x in norms.items() if x or name in STREAMS}
    measures |= {name: x for name, x in cosines.items() if np.isfinite(x)}
    return {f"grad/{name}": value for name, value in measures.items()}
