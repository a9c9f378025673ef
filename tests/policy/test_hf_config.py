"""config.json: both rope layouts, defaults of absent keys, and refusals that name the key."""

from pathlib import Path

import pytest
import tiny_models
from tiny_models import rewrite_config

from cipo_jax.policy import model
from cipo_jax.policy.hf_config import config_from_hf
from cipo_jax.types import CipoError

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
F32 = {"param_dtype": "float32", "compute_dtype": "float32", "remat": "none"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_models.save_tiny_model_without_torch(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        ({"rope_theta": 1e6}, (1e6, None)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, (1e6, None)),
        ({"rope_parameters": {"rope_type": "default"}, "rope_theta": 1e6}, (1e6, None)),
        ({}, (1e4, None)),
        (
            {"rope_theta": 500, "rope_scaling": {"type": "linear", "factor": 2}},
            (500.0, model.RopeScaling("linear", 2.0)),
        ),
        (
            {"rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}},
            (1e4, model.RopeScaling("llama3", 8.0, 1.0, 4.0, 32)),
        ),
        ({"rope_parameters": LLAMA3}, (1e3, model.RopeScaling("llama3", 8.0, 1.0, 4.0, 32))),
    ],
    ids=["v4", "v5", "mixed", "absent", "v4-linear", "v4-llama3", "v5-llama3"],
)
def test_rope_layouts(layout: dict, wanted: tuple, saved: Path) -> None:
    rewrite_config(saved, **{"rope_theta": None, "rope_scaling": None, **layout})
    config = config_from_hf(saved, **F32)
    assert (config.rope_theta, config.rope_scaling) == wanted


def test_defaults_of_absent_keys(saved: Path) -> None:
    absent = dict.fromkeys(("head_dim", "num_key_value_heads", "rms_norm_eps", "attention_bias"))
    rewrite_config(saved, **absent)
    config = config_from_hf(saved, **F32)
    assert (config.head_dim, config.num_kv_heads, config.norm_eps) == (128, 4, 1e-6)  # Qwen3
    rewrite_config(saved, architectures=["LlamaForCausalLM"])
    assert config_from_hf(saved, **F32).head_dim == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architectures: got .*Gemma.*LlamaForCausalLM"),
        ({"architectures": None}, "architectures: got None"),
        ({"hidden_act": "gelu"}, "hidden_act: got 'gelu', supported: 'silu'"),
        ({"use_sliding_window": True}, "use_sliding_window: got True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types.*sliding"),
        ({"mlp_bias": True}, "mlp_bias: got True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: got 0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: got .*4"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.rope_type: got 'yarn'.*llama3"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters.rope_type: got 'dynamic'"),
        ({"rope_parameters": {"full_attention": {}}}, "one set of parameters for all layers"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "rotary_factor: got 0.25"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: factor: got None"),
        ({"hidden_size": "32"}, "hidden_size: got '32', wanted a positive int"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: got 0"),
        ({"vocab_size": None}, "vocab_size: got None"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: got 3, wanted a divisor of"),
    ],
)
def test_refused_configs(changes: dict, message: str, saved: Path) -> None:
    rewrite_config(saved, **changes)
    with pytest.raises(CipoError, match=message) as error:
        config_from_hf(saved, **F32)
    assert "config.json" in str(error.value)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_unreadable_config(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CipoError, match="config.json: (no such file|not valid json|wanted a json)"):
        config_from_hf(tmp_path, **F32)
