"""Parity with transformers for every family: the same logits, and checkpoints that survive a round
trip in both directions."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_models
from forms import fast
from tiny_models import assert_same_files, load

from cipo_jax.policy import model
from cipo_jax.policy.huggingface.config import config_from_hf, config_to_hf
from cipo_jax.policy.huggingface.export import export_hf

torch = pytest.importorskip("torch", reason="parity needs torch: pip install cipo_jax[test]")
import transformers  # noqa: E402

# Original contexts are shorter than the rows below.
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 24,
    "beta_fast": 2.0,  # so that there is a transition within so short a context
    "beta_slow": 0.5,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
}
WINDOW_OF_QWEN = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
SLIDING, FULL = "sliding_attention", "full_attention"

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3-biases": ("qwen3", {"attention_bias": True}),
    "qwen3-yarn": ("qwen3", {"rope_parameters": YARN}),
    "qwen3-window": ("qwen3", WINDOW_OF_QWEN),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-yarn": ("qwen2", {"rope_parameters": YARN | {"attention_factor": 1.5}}),
    "qwen2-yarn-mscale": (
        "qwen2",
        {"rope_parameters": YARN | {"mscale": 0.8, "mscale_all_dim": 0.4, "truncate": False}},
    ),
    "qwen2-window": ("qwen2", WINDOW_OF_QWEN | {"layer_types": [SLIDING, FULL, SLIDING]}),
    "llama": ("llama", {}),
    "llama-no-gqa": ("llama", {"num_key_value_heads": 4}),
    "llama-biases": ("llama", {"attention_bias": True}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-linear-tied": ("llama", {"rope_parameters": LINEAR, "tie_word_embeddings": True}),
    "mistral": ("mistral", {}),
    "mistral-window": ("mistral", {"sliding_window": 9}),
    "mistral-wide-window": ("mistral", {"sliding_window": 100}),
    "gemma2": ("gemma2", {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0}),
    "gemma2-untied": ("gemma2", {"tie_word_embeddings": False, "sliding_window": 100}),
    "gemma2-no-caps": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
    ),
    "gemma3": ("gemma3", {"num_hidden_layers": 7, "rope_parameters": GEMMA3_ROPE}),
    "gemma3-types": (
        "gemma3",
        {"layer_types": [FULL, SLIDING, FULL], "final_logit_softcapping": 3.0},
    ),
}


@functools.partial(jax.jit, static_argnums=0)
def logits(config, params, tokens, positions, segments) -> jax.Array:
    hidden, _ = model.hidden_states(config, params, tokens, positions, segments)
    return model.unembed(config, params, hidden)


def padded_rows(left: bool, vocab: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens, positions, segments of rows of 60, 37 and 5 tokens, padded to 60: [3, 60] int32."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, vocab, (3, 60)).astype(np.int32)
    positions, segments = np.zeros_like(tokens), np.zeros_like(tokens)
    for row, length in enumerate((60, 37, 5)):
        real = slice(60 - length, 60) if left else slice(0, length)
        positions[row, real] = np.arange(length)
        segments[row, real] = 1
    return tokens, positions, segments


def assert_same_logits(config: model.ModelConfig, params: model.Params, *networks: Any) -> None:
    for left in (False, True):
        tokens, positions, segments = padded_rows(left)
        ours = np.asarray(logits(config, params, tokens, positions, segments))
        for network in networks:
            with torch.no_grad():
                theirs = network(
                    input_ids=torch.tensor(tokens).long(),
                    attention_mask=torch.tensor(segments).long(),
                    position_ids=torch.tensor(positions).long(),
                ).logits.numpy()
            real = segments > 0
            assert 1 < np.abs(theirs[real]).max() < 30  # neither trivially small nor saturated
            assert np.abs(ours[real] - theirs[real]).max() <= 2e-4


# Of each family, the form that is named like it is fast.
FORMS = fast(list(CASES), *(i for i, case in enumerate(CASES) if "-" not in case))


@pytest.mark.parametrize("case", FORMS)
def test_parity_and_round_trip(case: str, tmp_path: Path) -> None:
    architecture, overrides = CASES[case]
    source, exported = tmp_path / "source", tmp_path / "exported"
    network = tiny_models.save_tiny_model(source, architecture, **overrides)
    config, params = load(source)
    export_hf(params, config, exported, source)
    assert_same_files(exported, source)
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()
    assert_same_logits(config, params, network, reloaded)


@pytest.mark.parametrize("case", FORMS)
def test_config_that_we_write(case: str, tmp_path: Path) -> None:
    """config.json written from our config alone: transformers reads it, builds the same model from
    it, and what it writes in turn says the same to us."""
    architecture, overrides = CASES[case]
    network = tiny_models.save_tiny_model(tmp_path / "source", architecture, **overrides)
    config, params = load(tmp_path / "source")
    written = config_to_hf(config)
    (tmp_path / "written").mkdir()
    (tmp_path / "written/config.json").write_text(json.dumps(written))
    assert config_from_hf(tmp_path / "written") == config
    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "written")
    theirs.save_pretrained(tmp_path / "theirs")
    assert config_from_hf(tmp_path / "theirs") == config
    rebuilt = transformers.AutoModelForCausalLM.from_config(theirs).eval()
    rebuilt.load_state_dict(network.state_dict())
    assert_same_logits(config, params, rebuilt)


def test_gemma_embeddings_are_scaled_by_a_rounded_factor(tmp_path: Path) -> None:
    """In bfloat16 sqrt(24) rounds to 4.90625; the exact factor would shift every activation."""
    network = tiny_models.save_tiny_model(tmp_path, "gemma3", hidden_size=24, num_hidden_layers=1)
    tokens = np.arange(8, dtype=np.int32)[None]
    wanted = network.to(torch.bfloat16).model.embed_tokens(torch.tensor(tokens).long())
    config, params = load(tmp_path, param_dtype="bfloat16", compute_dtype="bfloat16")
    network = model.Transformer(config, ())
    got = network.apply({"params": params}, tokens, method="embed")
    np.testing.assert_array_equal(np.asarray(got, np.float32), wanted.float().detach().numpy())
