"""Hugging Face config.json to `ModelConfig` and back.

Decides which architectures and rope types are accepted, and refuses by name whatever a file asks
for that the model does not compute. Weights are the matter of `hf_weights`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cipo_jax.policy.model import ModelConfig, RopeScaling
from cipo_jax.types import CipoError


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What an architecture name implies beyond the numbers in config.json.

    qkv_bias and out_bias are True, False, or the config.json key that decides. head_dim is what an
    absent key means: a number, or None for hidden_size / num_attention_heads.
    """

    model_type: str
    qk_norm: bool
    qkv_bias: bool | str
    out_bias: bool | str
    head_dim: int | None = None


ARCHITECTURES = {
    "Qwen3ForCausalLM": Architecture(
        "qwen3", qk_norm=True, qkv_bias="attention_bias", out_bias="attention_bias", head_dim=128
    ),
    "Qwen2ForCausalLM": Architecture("qwen2", qk_norm=False, qkv_bias=True, out_bias=False),
    "LlamaForCausalLM": Architecture(
        "llama", qk_norm=False, qkv_bias="attention_bias", out_bias="attention_bias"
    ),
}
ROPE_TYPES = ("default", "linear", "llama3")


def config_from_hf(
    directory: Path,
    *,
    param_dtype: str = "float32",
    compute_dtype: str = "float32",
    remat: str = "none",
) -> ModelConfig:
    """The architecture described by `directory`/config.json, as transformers 4 or 5 wrote it.

    Args:
      param_dtype, compute_dtype, remat: as in `ModelConfig`; the file does not decide them.

    Raises:
      CipoError: no readable config.json, or one that asks for what the model does not have.
    """
    file = directory / "config.json"
    values = read_json(file)
    names = values.get("architectures") or [None]
    if names[0] not in ARCHITECTURES:
        raise CipoError(
            f"{file}: architectures: got {values.get('architectures')!r}, "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    architecture = ARCHITECTURES[names[0]]
    layer_types = set(values.get("layer_types") or ())
    for key, value, supported in (
        ("hidden_act", values.get("hidden_act", "silu"), "silu"),
        ("use_sliding_window", values.get("use_sliding_window") or False, False),
        ("layer_types", sorted(layer_types - {"full_attention"}), []),
        ("mlp_bias", values.get("mlp_bias") or False, False),
        ("partial_rotary_factor", values.get("partial_rotary_factor") or 1.0, 1.0),
        ("quantization_config", values.get("quantization_config"), None),
    ):
        if value != supported:
            raise CipoError(f"{file}: {key}: got {value!r}, supported: {supported!r}")

    d_model = _number(file, values, "hidden_size", int)
    num_heads = _number(file, values, "num_attention_heads", int)
    head_dim = architecture.head_dim or d_model // num_heads
    rope_theta, rope_scaling = _rope(file, values)

    def bias(rule: bool | str) -> bool:
        return bool(values.get(rule)) if isinstance(rule, str) else rule

    config = ModelConfig(
        vocab_size=_number(file, values, "vocab_size", int),
        num_layers=_number(file, values, "num_hidden_layers", int),
        d_model=d_model,
        num_heads=num_heads,
        num_kv_heads=_number(file, values, "num_key_value_heads", int, num_heads),
        head_dim=_number(file, values, "head_dim", int, head_dim),
        mlp_dim=_number(file, values, "intermediate_size", int),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        norm_eps=_number(file, values, "rms_norm_eps", float, 1e-6),
        qk_norm=architecture.qk_norm,
        attention_bias=bias(architecture.qkv_bias),
        attention_out_bias=bias(architecture.out_bias),
        tie_embeddings=bool(values.get("tie_word_embeddings")),
        max_positions=_number(file, values, "max_position_embeddings", int),
        param_dtype=param_dtype,
        compute_dtype=compute_dtype,
        remat=remat,
    )
    if config.num_heads % config.num_kv_heads:
        raise CipoError(
            f"{file}: num_key_value_heads: got {config.num_kv_heads}, wanted a divisor of "
            f"num_attention_heads = {config.num_heads}"
        )
    return config


def _rope(file: Path, values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from `rope_parameters` (v5) or `rope_theta` and `rope_scaling` (v4)."""
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = values.get(key) or {}
    where = f"{file}: {key}"
    if not isinstance(rope, dict) or any(isinstance(v, dict) for v in rope.values()):
        raise CipoError(f"{where}: got {rope!r}, supported: one set of parameters for all layers")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise CipoError(f"{where}.rope_type: got {kind!r}, supported: {', '.join(ROPE_TYPES)}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise CipoError(
            f"{where}.partial_rotary_factor: got {rope['partial_rotary_factor']!r}, supported: 1.0"
        )
    # The base may stand beside the parameters, and so may the original context length, which then
    # goes first, as in transformers.
    theta = _number(where, rope, "rope_theta", float, values.get("rope_theta") or 10_000.0)
    if kind == "default":
        return theta, None
    factor = _number(where, rope, "factor", float)
    if kind == "linear":
        return theta, RopeScaling("linear", factor)
    original = "original_max_position_embeddings"
    beside = values.get(original)
    return theta, RopeScaling(
        kind="llama3",
        factor=factor,
        low_freq_factor=_number(where, rope, "low_freq_factor", float),
        high_freq_factor=_number(where, rope, "high_freq_factor", float),
        original_max_positions=_number(
            where,
            rope if beside is None else values,
            original,
            int,
            values.get("max_position_embeddings"),
        ),
    )


def _fits(architecture: Architecture, config: ModelConfig) -> bool:
    """Whether config.json can say `config` under this architecture."""
    biases = (config.attention_bias, config.attention_out_bias)
    rules = (architecture.qkv_bias, architecture.out_bias)
    if isinstance(architecture.qkv_bias, str):  # one key decides both
        rules = (config.attention_bias, config.attention_bias)
    return architecture.qk_norm == config.qk_norm and rules == biases


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json for `config`, in the rope layout that transformers 4 and 5 both read.

    Raises:
      CipoError: no supported architecture has the features of `config`.
    """
    fitting = [name for name, a in ARCHITECTURES.items() if _fits(a, config)]
    if not fitting:
        raise CipoError(
            f"export: no architecture of {', '.join(ARCHITECTURES)} has "
            f"qk_norm={config.qk_norm}, attention_bias={config.attention_bias}, "
            f"attention_out_bias={config.attention_out_bias}"
        )
    scaling = config.rope_scaling
    rope_scaling: dict[str, Any] | None = None
    if scaling is not None:
        rope_scaling = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope_scaling |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_positions,
            }
    return {
        "architectures": fitting[:1],
        "model_type": ARCHITECTURES[fitting[0]].model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.attention_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope_scaling,
        # Not ours to know; left out, some classes would fill in token 1 and 2.
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": config.param_dtype,
    }


def read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CipoError(f"{file}: no such file; wanted a Hugging Face checkpoint") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CipoError(f"{file}: not valid json: {error}") from error
    if not isinstance(values, dict):
        raise CipoError(f"{file}: wanted a json object, got {type(values).__name__}")
    return values


def _number(
    where: Path | str, values: Mapping[str, Any], key: str, kind: type, default: Any = None
) -> Any:
    """`values[key]`, or `default` where it is absent or null: a positive `kind`."""
    value = values.get(key)
    value = default if value is None else value
    allowed = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, allowed) or value <= 0:
        raise CipoError(f"{where}: {key}: got {value!r}, wanted a positive {kind.__name__}")
    return kind(value)
