"""Greedy completions equal those of transformers for every family, windows and soft-caps included.

The engine prefills in short stretches, in small pages, several requests at once, so that every path
of the cache is taken."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_models

from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.engine import Engine
from cipo_jax.sampling.settings import EngineSettings

torch = pytest.importorskip("torch", reason="parity needs torch: pip install cipo_jax[test]")

LENGTHS, NEW = (1, 4, 13, 22), 20
CASES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen2": {},
    "llama": {"num_key_value_heads": 4},
    "mistral": {"sliding_window": 9},
    "gemma2": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 4.0},
    "gemma3": {"num_hidden_layers": 7},
}
FAST = "gemma3"  # has windows, rotary bases by layer, QK-norm, post-norms


@pytest.mark.parametrize(
    "architecture", [c if c == FAST else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)
def test_greedy_equals_transformers(architecture: str, tmp_path: Path) -> None:
    network = tiny_models.save_tiny_model(tmp_path, architecture, **CASES[architecture])
    config, params = tiny_models.load(tmp_path)
    random = np.random.default_rng(0)
    prompts = [random.integers(0, config.vocab_size, n).astype(np.int32) for n in LENGTHS]
    settings = EngineSettings(
        max_prompt_tokens=max(LENGTHS),
        max_new_tokens=NEW,
        choice=Choice(stop_ids=()),
        temperature=0.0,
        slots=8,
        chunk=7,
        page_size=4,
        prefill_widths=(5,),
        prefill_tokens=40,
    )
    mesh = tiny_models.one_device()
    with jax.set_mesh(mesh):
        engine = Engine(config, mesh, settings)
        got = dict(engine.sample(params, prompts, 1, jax.random.key(0)))
    for i, prompt in enumerate(prompts):
        ids = torch.tensor(prompt).long()[None]
        wanted = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :]
        assert got[i].tokens.tolist() == wanted.tolist() and len(set(wanted.tolist())) > 3
        # Log-probs are those of a full forward pass.
        with torch.no_grad():
            both = torch.cat([ids, wanted[None]], dim=1)
            logprobs = network(both).logits[0].log_softmax(-1)
        there = np.arange(len(prompt) - 1, len(prompt) + NEW - 1)
        np.testing.assert_allclose(
            got[i].logprobs, logprobs[there, wanted].numpy(), rtol=1e-5, atol=2e-4
        )


def test_families_are_all_there() -> None:
    assert set(CASES) == set(tiny_models.TRANSFORMERS)
