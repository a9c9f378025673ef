"""The rotary part of config.json, in the layouts of transformers 4 and 5, and back.

Decides which rope types are accepted; what they compute is in `policy/rope`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cipo_jax.policy.config import RopeScaling
from cipo_jax.policy.huggingface.json_files import read_number
from cipo_jax.types import CipoError

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
FULL, SLIDING = "full_attention", "sliding_attention"  # types of layers


def read_rope(
    file: Path, values: Mapping[str, Any], local: bool
) -> tuple[float, RopeScaling | None, float | None]:
    """Base, scaling and, if `local`, the base of layers with a window, from `rope_parameters`
    (transformers 5) or `rope_theta`, `rope_scaling` and `rope_local_base_freq` (4).

    Raises:
      CipoError: a value that is not a positive number, or a layout or type that is not supported.
    """
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = values.get(key) or {}
    where, theta = f"{file}: {key}", values.get("rope_theta")
    if not isinstance(rope, dict):
        raise CipoError(f"{where}: got {rope!r}, wanted a json object")
    if not local:
        if any(isinstance(v, dict) for v in rope.values()):
            raise CipoError(
                f"{where}: got {rope!r}, supported: one set of parameters for all layers"
            )
        return (*_rope_parameters(where, rope, values, theta or 10_000.0), None)

    of_sliding: Mapping[str, Any] = {}
    if key == "rope_parameters":
        if not set(rope) <= {FULL, SLIDING}:
            raise CipoError(
                f"{where}: got {rope!r}, supported: one set of parameters for {FULL}, one for "
                f"{SLIDING}"
            )
        rope, of_sliding = rope.get(FULL) or {}, rope.get(SLIDING) or {}
    base = values.get("rope_local_base_freq") or 10_000.0
    local_theta, local_scaling = _rope_parameters(f"{where}.{SLIDING}", of_sliding, values, base)
    if local_scaling is not None:
        raise CipoError(f"{where}.{SLIDING}: got {of_sliding!r}, supported: rope_type 'default'")
    return (*_rope_parameters(where, rope, values, theta or 1_000_000.0), local_theta)


def _rope_parameters(
    where: str, rope: Mapping[str, Any], values: Mapping[str, Any], default_theta: Any
) -> tuple[float, RopeScaling | None]:
    """Base and scaling from one set of parameters."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise CipoError(f"{where}.rope_type: got {kind!r}, supported: {', '.join(ROPE_TYPES)}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise CipoError(
            f"{where}.partial_rotary_factor: got {rope['partial_rotary_factor']!r}, supported: 1.0"
        )

    def number(key: str, kind: type = float, default: Any = None) -> Any:
        return read_number(where, rope, key, kind, default)

    theta = number("rope_theta", default=default_theta)
    if kind == "default":
        return theta, None
    factor = number("factor")
    if kind == "linear":
        return theta, RopeScaling("linear", factor)
    # The original context length may stand beside the parameters, and then takes precedence.
    original = "original_max_position_embeddings"
    holder = rope if values.get(original) is None else values
    positions = read_number(where, holder, original, int, values.get("max_position_embeddings"))
    if kind == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        return theta, RopeScaling("llama3", factor, low, high, positions)

    def lengthening(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    length = lengthening(1.0)
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        length = lengthening(number("mscale")) / lengthening(number("mscale_all_dim"))
    return theta, RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_positions=positions,
        beta_fast=number("beta_fast", default=32.0),
        beta_slow=number("beta_slow", default=1.0),
        truncate=bool(rope.get("truncate", True)),
        attention_factor=number("attention_factor", default=length),
    )


def scaling_values(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """`rope_scaling` of config.json, which transformers 4 and 5 both read."""
    if scaling is None:
        return None
    values: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "linear":
        return values
    values["original_max_position_embeddings"] = scaling.original_max_positions
    names = {
        "llama3": ("low_freq_factor", "high_freq_factor"),
        "yarn": ("beta_fast", "beta_slow", "truncate", "attention_factor"),
    }[scaling.kind]
    return values | {name: getattr(scaling, name) for name in names}
