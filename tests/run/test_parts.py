"""What the parts of a run report of their own work."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from cipo_jax.config import default_config
from cipo_jax.config.resolve import changed_config, resolve
from cipo_jax.run import parts as module
from cipo_jax.run.parameters import fresh_parameters
from cipo_jax.run.parts import open_mesh, open_parts, open_policy, open_prompts, open_tokenizer
from cipo_jax.types import CipoError, Problem


@pytest.mark.slow
def test_end_of_sampling_reports_and_gives_the_cache_back() -> None:
    c = default_config()
    c.model.num_layers, c.model.d_model, c.model.head_dim, c.model.mlp_dim = 1, 16, 8, 24
    c.mesh.fsdp, c.mesh.data = 1, -1
    c.data.max_completion_tokens = 8
    c.sampling.slots, c.sampling.page_size = 16, 4
    config = resolve(c)
    problem = Problem("p", "Compute ((7+2)*3).", answer="27")
    with open_parts(config) as parts:
        params = fresh_parameters(config.model, config.seed, parts.policy)
        prompts = [parts.prompts.base(problem)] * 2
        attempts = parts.attempt(params, prompts, 4, jax.random.key(0), "test")
        assert len(attempts) == 8
        stats = parts.end_sampling()
        assert 0 < stats["sampler/useful_rows"] <= 1
        assert stats["sampler/evictions"] == 0 and 0 < stats["sampler/cache_used"] < 1
        assert stats["sampler/reused_prompt"] == pytest.approx(0)  # both prompts at the same time
        assert 0 <= stats["time/verify_hidden"] <= 1
        assert 0 < stats["time/verify_p50"] <= stats["time/verify_p99"]
        assert stats["verify/lost_workers"] == 0
        # Counted anew, and nothing is said of nothing.
        again = parts.end_sampling()
        assert not {"sampler/useful_rows", "sampler/reused_prompt", "time/verify_hidden"} & set(
            again
        )
        assert again["sampler/cache_used"] == 0


@pytest.mark.parametrize(
    ("what_corrects", "corrects"),
    [
        ({}, False),
        ({"correction.weight": 1.0}, True),
        ({"cold_start.max_steps": 10}, True),
        ({"eval.corrected_attempts": 1}, True),
        ({"eval.given_attempts": 1}, True),
    ],
)
def test_the_longest_prompt_is_that_of_a_correction_wherever_there_are_any(
    what_corrects: dict[str, Any], corrects: bool
) -> None:
    none = {"correction.weight": 0.0, "cold_start.max_steps": 0, "eval.corrected_attempts": 0}
    config = changed_config(resolve(default_config()), none | what_corrects)
    prompts = open_prompts(config, open_tokenizer(config))
    wanted = prompts.longest_correction() if corrects else config.data.max_prompt_tokens
    assert module.longest_prompt(config, prompts) == wanted
    assert prompts.longest_correction() > config.data.max_prompt_tokens


@pytest.mark.parametrize("corrects", [True, False])
@pytest.mark.parametrize("positions", [40, 64, 100])
def test_lengths_that_exceed_the_model_come_with_lengths_that_fit(
    positions: int, corrects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = default_config()
    raw.data.max_prompt_tokens = 60
    config = resolve(raw)
    tokenizer, made = open_tokenizer(config), module.make_model_config

    def short(*args: Any) -> Any:
        return dataclasses.replace(made(*args), max_positions=positions)

    def open_with(config: Any) -> None:
        longest = config.data.max_prompt_tokens
        if corrects:
            longest = open_prompts(config, tokenizer).longest_correction()
        open_policy(config, tokenizer, open_mesh(config.mesh), longest)

    monkeypatch.setattr(module, "make_model_config", short)
    with pytest.raises(CipoError, match=f"the model has {positions} positions; try --config") as e:
        open_with(config)
    for name, value in re.findall(r"--config\.data\.(\w+)=(\d+)", str(e.value)):
        raw.data[name] = int(value)
    open_with(resolve(raw))  # fits


@pytest.mark.parametrize("tokens", ["as many", "more"])
def test_the_characters_of_a_task_are_for_models_of_characters(
    tokens: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exported run has the tokenizer's files beside it, and as many tokens; others have more."""
    raw = default_config()
    raw.model.source = str(tmp_path)
    config = resolve(raw)
    tokenizer = open_tokenizer(config)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    size = tokenizer.vocab_size + (tokens == "more")
    loaded = SimpleNamespace(vocab_size=size)
    monkeypatch.setattr(module.hf_config, "config_from_hf", lambda *_, **__: loaded)
    if tokens == "as many":
        assert module.make_model_config(config.model, "char", tokenizer) is loaded
    else:
        with pytest.raises(CipoError, match="got 'char', but the model in .*data.tokenizer="):
            module.make_model_config(config.model, "char", tokenizer)
    (tmp_path / "tokenizer.json").unlink()
    assert module.make_model_config(config.model, "char", tokenizer) is loaded
