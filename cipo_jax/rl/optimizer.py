"""Optimisers and learning rates, from optax.

Every optimiser is preceded by clipping by global norm and followed by decoupled weight decay
(learning_rate x weight_decay x parameter), which leaves norms and biases alone. The schedules count
optimiser updates: a rollout batch takes minibatches x epochs of them.

    adamw       two moments of each parameter.
    adafactor   Shazeer & Stern 2018 (arXiv 1804.04235): the second moment of a matrix is kept as
                its row and column means, and the update's RMS is bounded by 1. Without the paper's
                scaling by the parameter's RMS, so that learning_rate means what it means for AdamW.
    muon        Jordan 2024: the momentum of each weight matrix is orthogonalised. Scaled to AdamW's
                RMS (Liu et al. 2025, arXiv 2502.16982), so that learning_rate carries over.
                Embedding, head, norms and biases take Adam.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from cipo_jax.config.checks import check_schedule
from cipo_jax.rl.rounding import rounded_at_random
from cipo_jax.types import CipoError

Params = Any

OPTIMIZERS = ("adamw", "adafactor", "muon")
SCHEDULES = ("constant", "linear", "cosine")

MUON_MOMENTUM = 0.95  # Jordan's and optax's default
MUON_RMS = 0.2  # of an update per unit learning rate: that of AdamW as measured by Liu et al.

# Contracted and resulting dimensions of the stacked weights [L, ...] of the transformer's layers; L
# counts the matrices, each orthogonalised on its own.
LAYER_MATRICES = {
    "q": ((1,), (2, 3)),  # [L, D, N, H]
    "k": ((1,), (2, 3)),  # [L, D, K, H]
    "v": ((1,), (2, 3)),  # [L, D, K, H]
    "o": ((1, 2), (3,)),  # [L, N, H, D]
    "gate": ((1,), (2,)),  # [L, D, F]
    "up": ((1,), (2,)),  # [L, D, F]
    "down": ((1,), (2,)),  # [L, F, D]
}


def make_schedule(
    kind: str, peak: float, warmup_steps: int = 0, decay_steps: int = 0, final_share: float = 0.0
) -> optax.Schedule:
    """The learning rate as a function of the updates done.

    Linear from peak / warmup_steps to `peak` over the first `warmup_steps` updates; after that
    "constant", or down to final_share x peak at update `decay_steps` along a straight line
    ("linear") or half a cosine ("cosine"), and constant from there.

    Raises:
      CipoError: an unknown kind, or a decay that does not end after the warm-up.
    """
    if kind not in SCHEDULES:
        raise CipoError(f"learning rate schedule: got {kind!r}, wanted one of {SCHEDULES}")
    check_schedule(kind, warmup_steps, decay_steps, "learning rate schedule")
    falling = decay_steps - warmup_steps
    if kind == "linear":
        after = optax.linear_schedule(peak, final_share * peak, falling)
    elif kind == "cosine":
        after = optax.cosine_decay_schedule(peak, falling, alpha=final_share)
    else:
        after = optax.constant_schedule(peak)
    if warmup_steps == 0:
        return after
    # The last update of the warm-up is the first one at the peak.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, max(1, warmup_steps - 1))
    return optax.join_schedules([warmup, after], [warmup_steps])


def warmup_schedule(peak: float, warmup_steps: int) -> optax.Schedule:
    """Linear from peak / warmup_steps to `peak`, then constant."""
    return make_schedule("constant", peak, warmup_steps)


def make_optimizer(
    schedule: optax.Schedule,
    b1: float,
    b2: float,
    weight_decay: float,
    grad_clip: float,
    name: str = "adamw",
    mu_dtype: str | None = None,
    param_dtype: str = "float32",
    make_key: Callable[[], jax.Array] | None = None,
) -> optax.GradientTransformation:
    """The optimiser `name`, after clipping by global norm.

    Args:
      b1: decay of the first moment; for "adafactor" 0 keeps none. "muon" uses it for its Adam part,
        and MUON_MOMENTUM for the matrices.
      b2: decay of the second moment; "adafactor" has its own schedule for it, 1 - t^-0.8.
      grad_clip: largest global norm of a gradient.
      mu_dtype: of first moments; None: the parameters' dtype.
      param_dtype: of the parameters; bfloat16 ones are rounded at random, see `rounding.py`.
      make_key: makes the key of that rounding.

    Raises:
      CipoError: an unknown name.
    """
    if param_dtype != "float32":
        if make_key is None:
            raise ValueError(f"parameters of {param_dtype} are rounded at random: give a make_key")
        mu_dtype = mu_dtype or param_dtype
    if name == "adamw":
        scale = optax.scale_by_adam(b1=b1, b2=b2, mu_dtype=mu_dtype)
    elif name == "adafactor":
        scale = optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.ema(b1, debias=True, accumulator_dtype=mu_dtype) if b1 else optax.identity(),
        )
    elif name == "muon":
        scale = _scale_by_muon(optax.scale_by_adam(b1=b1, b2=b2, mu_dtype=mu_dtype), mu_dtype)
    else:
        raise CipoError(f"optimizer name: got {name!r}, wanted one of {OPTIMIZERS}")
    chain = optax.chain(
        optax.clip_by_global_norm(grad_clip),
        scale,
        optax.add_decayed_weights(weight_decay, mask=_by_path(_is_decayed)),
        optax.scale_by_learning_rate(schedule),
    )
    if param_dtype == "float32" or make_key is None:
        return chain
    return rounded_at_random(chain, make_key)


def _scale_by_muon(
    others: optax.GradientTransformation, mu_dtype: str | None
) -> optax.GradientTransformation:
    """Orthogonalised momentum for the matrices of the layers, `others` for the rest."""
    dimensions = _by_path(_matrix_dimensions)

    def match_rms(updates: Params, params: Params = None) -> Params:
        """Scales each orthogonal matrix to a root mean square of MUON_RMS."""
        del params

        def scaled(update: jax.Array, dims: MuonDimensionNumbers) -> jax.Array:
            fan_in, fan_out = (math.prod(update.shape[axis] for axis in axes) for axes in dims)
            return update * (MUON_RMS * math.sqrt(max(fan_in, fan_out)))

        return jax.tree.map(scaled, updates, dimensions(updates))

    matrices = optax.chain(
        scale_by_muon(beta=MUON_MOMENTUM, mu_dtype=mu_dtype, weight_dimension_numbers=dimensions),
        optax.stateless(match_rms),
    )
    label = _by_path(lambda path, x: "others" if _matrix_dimensions(path, x) is None else "matrix")
    return optax.partition({"matrix": matrices, "others": others}, label)


def _by_path(function: Callable[[str, jax.Array], Any]) -> Callable[[Params], Any]:
    """Lifts (path as "layers/q", leaf) -> value to a tree of parameters."""

    def of_leaf(path: tuple[Any, ...], x: jax.Array) -> Any:
        return function(jax.tree_util.keystr(path, simple=True, separator="/"), x)

    return functools.partial(jax.tree_util.tree_map_with_path, of_leaf)


def _is_decayed(path: str, _: Any) -> bool:
    return not path.endswith(("scale", "bias"))


def _matrix_dimensions(path: str, _: Any) -> MuonDimensionNumbers | None:
    """How Muon reads a parameter as a matrix; None: it does not.

    Raises:
      ValueError: a weight of the layers that `LAYER_MATRICES` does not name.
    """
    parent, _, name = path.rpartition("/")
    if not parent.startswith("layers") or not _is_decayed(path, None):
        return None
    if name not in LAYER_MATRICES:
        raise ValueError(f"muon: the dimensions of parameter {path!r} are not in LAYER_MATRICES")
    return MuonDimensionNumbers(*LAYER_MATRICES[name])
