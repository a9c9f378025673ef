"""The machinery of benchmarks, and three of them at their smallest size. No time is asserted."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_hf
import tiny_models
from places import ROOT, TESTS

from cipo_jax.commands.evaluate import suite_config
from cipo_jax.data.benchmarks.suites import load_suite
from cipo_jax.policy.config import ModelConfig

BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

from peers.turns import take_turns  # noqa: E402
from policy_update import Work, peer_commands  # noqa: E402

SHAPE = ModelConfig(
    vocab_size=32, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1, head_dim=4, mlp_dim=8
)
TUNIX = os.environ.get("TUNIX_PYTHON")  # a Python that has google-tunix
CONTENDER = """
import sys
sys.path.insert(0, sys.argv[1])
from turns import Turns
count = 0
def work():
    global count
    count += 1
    print("noise")
    if count == int(sys.argv[2]):
        raise ValueError("enough")
    return {"count": count}
Turns().serve(work)
"""


def contender(fails_at: int) -> list[str]:
    return [sys.executable, "-c", CONTENDER, str(BENCHMARKS / "peers"), str(fails_at)]


def test_turns_are_counted_after_the_warm_up() -> None:
    turns = take_turns({"a": contender(0), "b": contender(0)}, repeats=2, warmups=3)
    assert [[t["count"] for t in taken] for taken in turns.values()] == [[4, 5], [4, 5]]
    assert all(t["peak_bytes"] >= t["idle_bytes"] > 0 for t in turns["a"])


def test_a_contender_that_fails_is_quoted() -> None:
    with pytest.raises(RuntimeError, match="enough"):
        take_turns({"a": contender(2)}, repeats=2, warmups=1)


def run(tmp_path: Path, script: str, *arguments: str) -> Any:
    """What the benchmark wrote as json."""
    file = tmp_path / "results.json"
    command = [sys.executable, str(BENCHMARKS / script), f"--json={file}", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(file.read_text())


@pytest.mark.slow
@pytest.mark.long
def test_policy_update(tmp_path: Path) -> None:
    found = run(tmp_path, "policy_update.py", "--quick", "--models=S", "--repeats=2")
    ours = found["S"]["contenders"]["cipo_jax"]
    assert ours["trained_tokens"]["median"] == 4 * 8
    assert ours["over_ours"] == 1
    assert ours["seconds"]["min"] <= ours["seconds"]["median"] <= ours["seconds"]["max"]


@pytest.mark.slow
@pytest.mark.long
def test_step(tmp_path: Path) -> None:
    found = run(tmp_path, "rl_step.py", "--quick", "--models=S", "--repeats=1")
    assert found["S"]["contenders"]["cipo_jax"]["sampled_tokens"]["median"] == 8 * 8
    assert 0 < found["S"]["our_trained_tokens"]["median"] <= 8 * 8


@pytest.mark.slow
@pytest.mark.long
def test_bfloat16_rounded_at_random_moves_what_rounding_to_the_nearest_leaves() -> None:
    import low_precision

    moved = [low_precision.learn("bfloat16", nearest, 2, 1e-5, 0) for nearest in (False, True)]
    assert moved[0]["before"] == moved[1]["before"] > 0
    assert moved[0]["moved"] > 1.5 * moved[1]["moved"] > 0


@pytest.mark.slow
def test_evaluation_beside_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the peer needs torch")
    from evaluation_agreement import compare, our_config, shown
    from peers.transformers_greedy import Greedy

    tokens = tiny_hf.make_tokenizer(tmp_path)
    sizes = {"vocab_size": -(-tokens // 8) * 8, "max_position_embeddings": 2048}
    tiny_models.save_tiny_model(tmp_path, **sizes)
    suites = str(TESTS / "fixtures" / "suites")
    loaded = load_suite("gsm8k", suites)
    config = suite_config(our_config(str(tmp_path), suites, 0, 12, "float32", 16), loaded.suite)
    peer = Greedy(str(tmp_path), "float32", rows=3, threads=1)
    found = compare(loaded, config, peer, "float32")
    equal = ("prompts_equal", "tokens_equal", "texts_equal", "verdicts_equal")
    assert [found[name] for name in equal] == [4, 4, 4, 4] and found["differences"] == []
    assert found["sampled_tokens"] == [48, 48]

    generate = peer.generate

    def other_token(prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        done = generate(prompts, new_tokens)
        done[2][5] = (done[2][5] + 1) % tokens
        return done

    monkeypatch.setattr(peer, "generate", other_token)
    found = compare(loaded, config, peer, "float32")
    assert [found[name] for name in ("prompts_equal", "tokens_equal")] == [4, 3]
    (difference,) = found["differences"]
    assert difference["place"] == 5 and difference["their_gap"] < -1e-3
    assert difference["our_gap"] == pytest.approx(difference["their_gap"], abs=1e-3)
    assert "of 1 first differences, 0 are between" in shown(found)


def peers(**changed: Any) -> dict[str, list[str]]:
    options = {"peer": False, "peer_python": "a", "tunix_python": None, "peer_threads": 1}
    asked = argparse.Namespace(**{**options, "peer_microbatch": 8, **changed})
    work = Work("S", problems=2, group=2, prompt=3, response=5)
    return peer_commands(asked, work, SHAPE, update_only=changed.get("update_only", True))


def test_peers_take_part_if_asked_for() -> None:
    assert peers() == {}
    found = peers(peer=True, tunix_python="b")
    assert [(name, c[0], Path(c[1]).name) for name, c in found.items()] == [
        ("TRL", "a", "trl_grpo.py"),
        ("tunix", "b", "tunix_grpo.py"),
    ]
    assert all(Path(c[1]).exists() for c in found.values())
    assert [json.loads(c[2])["microbatch"] for c in found.values()] == [4, 4]


@pytest.mark.slow
@pytest.mark.skipif(not TUNIX, reason="TUNIX_PYTHON names no Python that has google-tunix")
@pytest.mark.parametrize("update_only", [True, False])
def test_tunix(update_only: bool) -> None:
    turns = take_turns(
        peers(tunix_python=TUNIX, peer_microbatch=2, update_only=update_only), repeats=1
    )
    (turn,) = turns["tunix"]
    assert turn["trained_tokens"] == 4 * 5
    assert turn["sampled_tokens"] == (0 if update_only else 4 * 5)


@pytest.mark.slow
def test_checkpoint_stall(tmp_path: Path) -> None:
    arguments = ("--models=1M", "--repeats=1", "--updates=1")
    found = run(tmp_path, "checkpoint_stall.py", *arguments)["1M"]
    calls = [found[kind]["call"]["median"] for kind in ("waiting", "background")]
    assert found["waiting_over_background"] == pytest.approx(calls[0] / calls[1])
    assert found["state_bytes"] > 2 * 4 * found["parameters"]
