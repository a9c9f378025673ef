"""config.json: defaults of absent keys, windows, and refusals that name the key."""

import json
from pathlib import Path

import pytest
import tiny_models
from tiny_models import rewrite_config

from cipo_jax.policy.huggingface.config import config_from_hf
from cipo_jax.types import CipoError

F32 = {"param_dtype": "float32", "compute_dtype": "float32", "remat": "none"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_models.save_tiny_model_without_torch(tmp_path / "model")
    return tmp_path / "model"


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
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "language model on its own"),
        ({"hidden_act": "relu"}, "hidden_act: got 'relu', supported: silu, gelu_pytorch_tanh"),
        ({"layer_types": ["full_attention"]}, "layer_types: got .*wanted 3 of full_attention, sl"),
        ({"layer_types": ["chunked_attention"] * 3}, "layer_types: got .*chunked"),
        ({"layer_types": ["sliding_attention"] * 3}, "sliding_window: got .*use_sliding_window on"),
        ({"use_sliding_window": True, "sliding_window": "8"}, "sliding_window: got '8'"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention: got True"),
        ({"dtype": "float8_e4m3fn"}, "dtype: got 'float8_e4m3fn', supported: float32, float16"),
        ({"mlp_bias": True}, "mlp_bias: got True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: got 0.5"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: got .*4"),
        ({"rope_scaling": {"rope_type": "su"}}, "rope_scaling.rope_type: got 'su'.*llama3, yarn"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling: factor: got None"),
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


GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 512,
    "num_hidden_layers": 7,
    "rope_theta": None,
    "layer_types": None,
}


def test_defaults_of_gemma(saved: Path) -> None:
    """Absent keys have Gemma's own meaning, and null differs from absent."""
    (saved / "model.safetensors").unlink()  # has a head of its own
    rewrite_config(saved, **GEMMA3, head_dim=None, tie_word_embeddings=None)
    config = config_from_hf(saved, **F32)
    assert config.windows == (512,) * 5 + (None, 512)
    assert config.tie_embeddings and config.scale_embeddings and config.post_norms
    assert (config.head_dim, config.query_pre_attn_scalar) == (256, 256)
    assert (config.attention_soft_cap, config.logit_soft_cap) == (None, None)
    rewrite_config(saved, sliding_window_pattern=3)
    assert config_from_hf(saved, **F32).windows == (512, 512, None, 512, 512, None, 512)

    rewrite_config(saved, architectures=["Gemma2ForCausalLM"], num_hidden_layers=3)
    config = config_from_hf(saved, **F32)
    assert config.windows == (512, None, 512) and config.local_rope_theta is None
    assert (config.attention_soft_cap, config.logit_soft_cap) == (50.0, 30.0)
    file = saved / "config.json"
    null = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    file.write_text(json.dumps({**json.loads(file.read_text()), **null}))
    config = config_from_hf(saved, **F32)
    assert (config.attention_soft_cap, config.logit_soft_cap) == (None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "default"}}, "one set of parameters for full_attention"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "sliding_attention: got .*supported: rope_type 'default'",
        ),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping: got 50.0, supported: None"),
        ({"hidden_activation": "gelu"}, "hidden_activation: got 'gelu'"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern: got 0"),
    ],
)
def test_refused_of_gemma3(changes: dict, message: str, saved: Path) -> None:
    rewrite_config(saved, **{**GEMMA3, "rope_scaling": None, **changes})
    with pytest.raises(CipoError, match=message):
        config_from_hf(saved, **F32)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"use_sliding_window": True, "max_window_layers": 2}, (None, None, 64)),
        ({"use_sliding_window": True, "max_window_layers": 3}, ()),
        ({"use_sliding_window": True}, ()),  # max_window_layers is 28
        ({"use_sliding_window": False, "max_window_layers": 0}, ()),
        ({"architectures": ["MistralForCausalLM"]}, (64, 64, 64)),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, (4096,) * 3),  # absent
        ({"architectures": ["LlamaForCausalLM"]}, ()),  # has no windows, whatever stands there
    ],
)
def test_windows(changes: dict, wanted: tuple, saved: Path) -> None:
    rewrite_config(saved, **{"sliding_window": 64, "layer_types": None, **changes})
    assert config_from_hf(saved, **F32).windows == wanted
