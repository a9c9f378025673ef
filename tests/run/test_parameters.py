"""Which parameters something begins with."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from cipo_jax.policy import model
from cipo_jax.policy.random_keys import random_key
from cipo_jax.policy.sharding import make_mesh
from cipo_jax.rl.train_step import TrainState
from cipo_jax.run import parameters
from cipo_jax.run.parameters import (
    Place,
    _by_preference,
    _first_intact,
    _newest_phase,
    restored_parameters,
)
from cipo_jax.run.records import manifest
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.types import CipoError


def test_checkpoints_are_chosen_by_name_and_score(tmp_path: Path) -> None:
    lines = [(2, 0.4), (4, 0.6), (6, 0.9), (8, 0.5)]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"phase": "eval", "step": s, "eval/pass@1": v}) + "\n" for s, v in lines)
    )
    assert _by_preference(tmp_path, [2, 4, 8], "latest") == [8, 4, 2]
    # That of step 6 was not kept.
    assert _by_preference(tmp_path, [2, 4, 8], "best") == [4, 8, 2]
    assert _by_preference(tmp_path, [2, 4, 8], "2") == [2]
    with pytest.raises(CipoError, match=r"--step: got '6', .*\[2, 4, 8\]"):
        _by_preference(tmp_path, [2, 4, 8], "6")
    with pytest.raises(CipoError, match="no checkpoint of .* was evaluated"):
        _by_preference(tmp_path, [3], "best")


def test_a_damaged_checkpoint_is_passed_over_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    params = {"w": jnp.ones((4, 4))}
    with Checkpoints(tmp_path, keep=3) as saved:
        for step in (1, 2, 3):
            saved.save(step, TrainState(jnp.zeros((), int), params, (params,)), {})
    for step in (2, 3):
        for file in (tmp_path / f"step_{step}" / "params").rglob("manifest.ocdbt"):
            file.write_bytes(b"")
    # What is not read may be damaged.
    (tmp_path / "step_1" / "host" / "metadata").write_text("")
    directory = epath.Path(tmp_path)
    assert _first_intact(directory, [3, 2, 1]) == Place(directory, 1)
    assert "the checkpoint of step 2 is damaged (params/" in capsys.readouterr().out
    with pytest.raises(CipoError, match=r"of step 3 is damaged; .* by --step: \[1, 2\]"):
        _first_intact(directory, [3])
    (tmp_path / "step_1").rename(tmp_path / "other")
    with pytest.raises(CipoError, match="checkpoints of steps 3, 2 are damaged; .* has no other"):
        _first_intact(directory, [3, 2])
    (tmp_path / "other").rename(tmp_path / "step_1")
    assert len(list(tmp_path.iterdir())) == 3


def test_all_hosts_take_the_checkpoints_that_the_first_has_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that they are from may save another one meanwhile."""
    params = {"w": jnp.ones(2)}
    with Checkpoints(tmp_path / "checkpoints", keep=2) as saved:
        for step in (1, 2):
            saved.save(step, TrainState(jnp.zeros((), int), params, (params,)), {})
    place = epath.Path(tmp_path / "checkpoints")
    assert _newest_phase(tmp_path, f"{tmp_path}") == (place, [1, 2])
    assert _newest_phase(tmp_path, f"{tmp_path / 'none'}") is None
    first = SimpleNamespace(first_says=lambda _: {"checkpoints": [1]})
    monkeypatch.setattr(parameters, "Hosts", lambda: first)
    assert _newest_phase(tmp_path, f"{tmp_path}") == (place, [1])


def test_a_checkpoint_is_compared_with_its_manifest_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = model.ModelConfig(
        vocab_size=8, num_layers=1, d_model=8, num_heads=2, num_kv_heads=2, head_dim=4, mlp_dim=8
    )
    mesh = make_mesh(devices=jax.devices()[:1])
    params = model.init_params(config, random_key(0), mesh)
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(1, TrainState(jnp.zeros((), int), params, (params,)), {})
    compared = []
    find = manifest.find_damage_together
    monkeypatch.setattr(
        manifest, "find_damage_together", lambda *given: compared.append(given) or find(*given)
    )
    place = _first_intact(epath.Path(tmp_path), [1])
    restored = restored_parameters(place, config, mesh)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), restored, params))
    assert len(compared) == 1
