"""Hugging Face config.json to `ModelConfig` and back.

Decides which architectures are accepted, and refuses by name whatever a file asks for that the
model does not compute. Not decided here: rope parameters (`rope`).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cipo_jax.policy.config import ModelConfig
from cipo_jax.policy.huggingface.json_files import read_json, read_number
from cipo_jax.policy.huggingface.load import has_own_head
from cipo_jax.policy.huggingface.rope import FULL, SLIDING, read_rope, scaling_values
from cipo_jax.policy.layers import ACTIVATIONS
from cipo_jax.types import CipoError


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What an architecture name implies beyond the numbers in config.json.

    Attributes:
      qkv_bias, out_bias: True, False, or the config.json key that decides.
      head_dim: what an absent key means: a number, or None for hidden_size / num_attention_heads.
      windows: which layers have a window of `sliding_window` tokens: "none"; "all"; "switched":
        where `use_sliding_window` is on, those that `layer_types` names or from
        `max_window_layers` on; "pattern": those that `layer_types` names, or all but every
        `full_every`th.
      gemma: Gemma's norms, scaling of embeddings and scores, and defaults.
      attention_soft_cap, logit_soft_cap: what absent keys mean; only read if `gemma`.
      local_rope: layers with a window have their own base.
    """

    model_type: str
    qk_norm: bool = False
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    head_dim: int | None = None
    windows: str = "none"
    full_every: int = 1
    gemma: bool = False
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    local_rope: bool = False


_BIAS: Any = {"qkv_bias": "attention_bias", "out_bias": "attention_bias"}
_GEMMA: Any = {"head_dim": 256, "windows": "pattern", "gemma": True, **_BIAS}
ARCHITECTURES = {
    "Qwen3ForCausalLM": Architecture(
        "qwen3", qk_norm=True, head_dim=128, windows="switched", **_BIAS
    ),
    "Qwen2ForCausalLM": Architecture("qwen2", qkv_bias=True, windows="switched"),
    "LlamaForCausalLM": Architecture("llama", **_BIAS),
    "MistralForCausalLM": Architecture("mistral", windows="all"),
    "Gemma2ForCausalLM": Architecture(
        "gemma2", full_every=2, attention_soft_cap=50.0, logit_soft_cap=30.0, **_GEMMA
    ),
    "Gemma3ForCausalLM": Architecture(
        "gemma3_text", qk_norm=True, full_every=6, local_rope=True, **_GEMMA
    ),
}
_DEFAULT_WINDOW = 4096  # of every architecture that has one
_DTYPES = ("float32", "float16", "bfloat16")


def config_from_hf(
    directory: Path,
    *,
    param_dtype: str = "float32",
    compute_dtype: str = "float32",
    remat: str = "none",
    unroll: int = 1,
) -> ModelConfig:
    """The architecture described by `directory`/config.json, as transformers 4 or 5 wrote it. Where
    it says that head and embedding are tied, and the files hold different ones, they are not.

    Args:
      param_dtype, compute_dtype, remat, unroll: as in `ModelConfig`; the file does not decide them.

    Raises:
      CipoError: no readable config.json, or one that asks for what the model does not have; a file
        of tensors that cannot be read.
    """
    file = directory / "config.json"
    config = _parse(file, read_json(file))
    return dataclasses.replace(
        config,
        tie_embeddings=config.tie_embeddings and not has_own_head(directory),
        param_dtype=param_dtype,
        compute_dtype=compute_dtype,
        remat=remat,
        unroll=unroll,
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """config.json for `config`, in the rope layout that transformers 4 and 5 both read.

    Raises:
      CipoError: no supported architecture has the features of `config`.
    """
    defaults: Any = {"param_dtype": "float32", "compute_dtype": "float32", "remat": "none"}
    wanted = dataclasses.replace(config, **defaults, unroll=1)
    for name, architecture in ARCHITECTURES.items():
        values = _values(name, architecture, config)
        # An architecture fits if its file, read again, gives the same config.
        try:
            if _parse(Path("config.json"), values) == wanted:
                return values
        except CipoError:
            continue
    features = ", ".join(
        f"{field.name}={getattr(wanted, field.name)!r}"
        for field in dataclasses.fields(wanted)
        if field.default is not dataclasses.MISSING and getattr(wanted, field.name) != field.default
    )
    raise CipoError(f"export: no architecture of {', '.join(ARCHITECTURES)} has {features}")


# Reading.


def _parse(file: Path, values: Mapping[str, Any]) -> ModelConfig:
    """`ModelConfig`, with default dtypes and remat, from the content of a config.json."""
    names = values.get("architectures") or [None]
    if names[0] not in ARCHITECTURES:
        images = str(names[0]).endswith("ForConditionalGeneration")
        hint = "; save its language model on its own, as a text-only checkpoint" if images else ""
        raise CipoError(
            f"{file}: architectures: got {values.get('architectures')!r}, "
            f"supported: {', '.join(ARCHITECTURES)}{hint}"
        )
    a = ARCHITECTURES[names[0]]
    _refuse_unsupported(file, values, a)
    activation = values.get(_activation_key(a)) or ("gelu_pytorch_tanh" if a.gemma else "silu")
    if activation not in ACTIVATIONS:
        raise CipoError(
            f"{file}: {_activation_key(a)}: got {activation!r}, supported: {', '.join(ACTIVATIONS)}"
        )

    def number(key: str, kind: type, default: Any = None) -> Any:
        return read_number(file, values, key, kind, default)

    def soft_cap(key: str, default: float | None) -> float | None:
        if not a.gemma or values.get(key, default) is None:  # here null is not absent
            return None
        return number(key, float, default)

    def bias(rule: bool | str) -> bool:
        return bool(values.get(rule)) if isinstance(rule, str) else rule

    num_layers, d_model = number("num_hidden_layers", int), number("hidden_size", int)
    num_heads = number("num_attention_heads", int)
    tied = values.get("tie_word_embeddings")
    windows = _windows(file, values, a, num_layers)
    theta, scaling, local_theta = read_rope(file, values, a.local_rope)
    config = ModelConfig(
        vocab_size=number("vocab_size", int),
        num_layers=num_layers,
        d_model=d_model,
        num_heads=num_heads,
        num_kv_heads=number("num_key_value_heads", int, num_heads),
        head_dim=number("head_dim", int, a.head_dim or d_model // num_heads),
        mlp_dim=number("intermediate_size", int),
        rope_theta=theta,
        rope_scaling=scaling,
        local_rope_theta=local_theta if windows else None,
        windows=windows,
        query_pre_attn_scalar=number("query_pre_attn_scalar", float, 256) if a.gemma else None,
        attention_soft_cap=soft_cap("attn_logit_softcapping", a.attention_soft_cap),
        logit_soft_cap=soft_cap("final_logit_softcapping", a.logit_soft_cap),
        activation=activation,
        norm_eps=number("rms_norm_eps", float, 1e-6),
        norm_plus_one=a.gemma,
        post_norms=a.gemma,
        qk_norm=a.qk_norm,
        attention_bias=bias(a.qkv_bias),
        attention_out_bias=bias(a.out_bias),
        scale_embeddings=a.gemma,
        tie_embeddings=a.gemma if tied is None else bool(tied),
        max_positions=number("max_position_embeddings", int),
    )
    if config.num_heads % config.num_kv_heads:
        raise CipoError(
            f"{file}: num_key_value_heads: got {config.num_kv_heads}, wanted a divisor of "
            f"num_attention_heads = {config.num_heads}"
        )
    return config


def _refuse_unsupported(file: Path, values: Mapping[str, Any], a: Architecture) -> None:
    """Raises for keys that ask for what no supported model computes."""
    refused = [
        ("mlp_bias", values.get("mlp_bias") or False, False),
        ("partial_rotary_factor", values.get("partial_rotary_factor") or 1.0, 1.0),
        ("quantization_config", values.get("quantization_config"), None),
        ("use_bidirectional_attention", values.get("use_bidirectional_attention") or False, False),
    ]
    if a.local_rope:  # transformers' Gemma 3 has the key, and no soft-cap
        refused.append(("attn_logit_softcapping", values.get("attn_logit_softcapping"), None))
    for key, value, supported in refused:
        if value != supported:
            raise CipoError(f"{file}: {key}: got {value!r}, supported: {supported!r}")
    for key in ("dtype", "torch_dtype"):
        if values.get(key) is not None and values[key] not in _DTYPES:
            raise CipoError(f"{file}: {key}: got {values[key]!r}, supported: {', '.join(_DTYPES)}")


def _windows(
    file: Path, values: Mapping[str, Any], a: Architecture, num_layers: int
) -> tuple[int | None, ...]:
    """`ModelConfig.windows`; () where no layer has one."""
    types = values.get("layer_types")
    if types is not None and (
        not isinstance(types, list) or len(types) != num_layers or not set(types) <= {FULL, SLIDING}
    ):
        raise CipoError(
            f"{file}: layer_types: got {types!r}, wanted {num_layers} of {FULL}, {SLIDING}"
        )
    window = values.get("sliding_window", _DEFAULT_WINDOW)
    if a.windows == "switched" and not values.get("use_sliding_window"):
        window = None
    if window is not None and a.windows != "none":
        window = read_number(file, {"sliding_window": window}, "sliding_window", int)
    full_every = a.full_every
    if a.local_rope:  # only Gemma 3's files have the key
        full_every = read_number(file, values, "sliding_window_pattern", int, full_every)
    default = {
        "none": [FULL] * num_layers,
        "all": [FULL if window is None else SLIDING] * num_layers,
        "switched": [
            SLIDING if window is not None and i >= values.get("max_window_layers", 28) else FULL
            for i in range(num_layers)
        ],
        "pattern": [SLIDING if (i + 1) % full_every else FULL for i in range(num_layers)],
    }[a.windows]
    if types is None:
        types = default
    elif types != default and a.windows in ("none", "all"):
        raise CipoError(f"{file}: layer_types: got {types!r}, supported here: {default!r}")
    if SLIDING not in types:
        return ()
    if window is None:
        switch = ", with use_sliding_window on" if a.windows == "switched" else ""
        raise CipoError(
            f"{file}: sliding_window: got {values.get('sliding_window')!r}, wanted a number for "
            f"the layers of type {SLIDING}{switch}"
        )
    return tuple(window if kind == SLIDING else None for kind in types)


# Writing.


def _values(name: str, a: Architecture, config: ModelConfig) -> dict[str, Any]:
    """The config.json with which this architecture comes closest to `config`."""
    window = next((w for w in config.windows if w is not None), None)
    types = [FULL if w is None else SLIDING for w in config.windows] or [FULL] * config.num_layers
    values = {
        "architectures": [name],
        "model_type": a.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        _activation_key(a): config.activation,
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.attention_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling_values(config.rope_scaling),
        # Not known here; where they are missing, some classes fill in their own tokens.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": config.param_dtype,
    }
    if a.windows != "none":
        values["sliding_window"] = window
    if a.windows == "switched":
        values["use_sliding_window"] = window is not None
    if a.windows in ("switched", "pattern"):
        values["layer_types"] = types
    if a.local_rope:
        values["rope_local_base_freq"] = config.local_rope_theta
    if a.gemma:
        values |= {
            # transformers takes only an integer.
            "query_pre_attn_scalar": int(config.query_pre_attn_scalar or config.head_dim),
            "attn_logit_softcapping": config.attention_soft_cap,
            "final_logit_softcapping": config.logit_soft_cap,
        }
    return values


def _activation_key(a: Architecture) -> str:
    return "hidden_activation" if a.gemma else "hidden_act"
