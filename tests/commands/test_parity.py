"""Sampler against trainer: agreement in float32, and causes called by their names."""

from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from cipo_jax.commands.parity import AGREE, Mismatch, Setting, find_causes, parity
from cipo_jax.config import default_config
from cipo_jax.config.keys import Config, Model, Sampling
from cipo_jax.config.resolve import resolve
from cipo_jax.main import run
from cipo_jax.run import parts as module
from cipo_jax.run.update import make_score
from cipo_jax.types import CipoError

SMOKE = ROOT / "configs" / "smoke.py"


def tiny_config(**keys: Any) -> Config:
    c = default_config()
    c.model.num_layers, c.model.d_model, c.model.head_dim, c.model.mlp_dim = 1, 16, 8, 24
    c.mesh.fsdp, c.mesh.data = 1, -1
    c.data.max_completion_tokens, c.data.eval_problems = 12, 4
    c.sampling.slots = 16
    c.update_from_flattened_dict(keys)
    return resolve(c)


def test_in_float32_they_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert parity(tiny_config()) == []
    printed = capsys.readouterr().out
    assert "they agree" in printed and "random parameters: " in printed
    row = next(line for line in printed.splitlines() if line.startswith("as configured"))
    mean, largest, ratio = map(float, row.split()[-3:])
    assert 0 < mean <= largest < 1e-5 and ratio == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_a_wrong_temperature_in_scoring_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(model_config: Any, mesh: Any, temperature: float) -> Any:
        return make_score(model_config, mesh, Sampling().temperature)

    monkeypatch.setattr(module, "make_score", forgets)
    assert parity(tiny_config(**{"sampling.temperature": 0.6})) == ["temperature"]


def _long(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "causes"),
    [
        _long({"sampling.temperature": 0.6}, []),
        _long({"model.compute_dtype": "bfloat16"}, ["compute_dtype"]),
        _long({"sampling.cache_dtype": "bfloat16"}, ["cache_dtype"]),
        _long({"sampling.top_k": 8}, ["truncation"]),
        (
            {"sampling.top_p": 0.8, "model.compute_dtype": "bfloat16"},
            ["truncation", "compute_dtype"],
        ),
    ],
)
def test_causes_in_the_config_are_named(keys: dict[str, Any], causes: list[str]) -> None:
    assert parity(tiny_config(**keys)) == causes


@pytest.mark.slow
def test_positions_of_packed_rows_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that counts on through a packed row."""

    def counts_on(*args: Any) -> Any:
        score = make_score(*args)

        def wrong(params, tokens, positions, segments):
            # Rotary positions are relative: a stretch within a sequence is what shows.
            return score(params, tokens, positions * segments, segments)

        return wrong

    monkeypatch.setattr(module, "make_score", counts_on)
    assert parity(tiny_config()) == ["positions"]


def of(setting: Setting, *causes: float) -> Mismatch:
    """Sum of the causes that no switch has removed: top-k, temperature, unknown."""
    s = setting.config.sampling
    top_k, temperature, unknown = (*causes, 0.0)[:3]
    mean = unknown + 1e-7
    mean += top_k * (s.top_k != 0) + temperature * (s.temperature != 1)
    return Mismatch(1, mean, mean, 1.0)


HOT = Setting(Config(sampling=Sampling(temperature=0.5, top_k=3)))


def test_several_causes_are_found_one_after_the_other() -> None:
    lines, causes, left = find_causes(HOT, lambda s: of(s, 0.3, 0.01))
    assert causes == ["truncation", "temperature"] and left <= AGREE
    names = [name for name, _ in lines]
    assert names[0] == "as configured" and "truncation + temperature" in names


def test_what_no_switch_removes_is_left() -> None:
    _, causes, left = find_causes(HOT, lambda s: of(s, 0.3, 0.0, 0.1))
    assert causes == ["truncation"] and left == pytest.approx(0.1, rel=1e-3)
    lines, causes, left = find_causes(Setting(Config()), lambda s: of(s, 0, 0, 0.1))
    assert causes == [] and left == pytest.approx(0.1, rel=1e-3)
    # Only what would change something is tried.
    assert [name for name, _ in lines] == ["as configured", "positions"]
    # On CPU the cache is in float32 already.
    low = Setting(Config(model=Model(compute_dtype="bfloat16")))
    lines, *_ = find_causes(low, lambda s: of(s, 0, 0, 0.1))
    assert [name for name, _ in lines] == ["as configured", "compute_dtype", "positions"]


def test_greedy_sampling_and_missing_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CipoError, match=r"config\.sampling\.temperature: got 0\.0"):
        parity(tiny_config(**{"sampling.temperature": 0.0}))
    with pytest.raises(CipoError, match="is not a run directory"):
        run(["cipo_jax", f"--config={SMOKE}", "--mode=parity", f"--workdir={tmp_path}"])
