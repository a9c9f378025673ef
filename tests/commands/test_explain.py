"""What a command would run, and where its values come from."""

import re
from pathlib import Path

import pytest
from places import ROOT

from cipo_jax.commands.explain import PAPER, derived, paper_settings
from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.reference import sections
from cipo_jax.config.resolve import resolve
from cipo_jax.main import run

KEYS = {key.name: key for section in sections() for key in section.keys}


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    """The lines of each part that `--mode=explain` prints."""
    run(["cipo_jax", "--mode=explain", *arguments])
    parts: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        if line and not line.startswith(" "):
            parts[line] = []
        elif line:
            parts[list(parts)[-1]].append(" ".join(line.split()))
    return parts


def test_a_command_is_explained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    smoke = f"--config={ROOT / 'configs' / 'smoke.py'}"
    parts = explained(capsys, smoke, "--config.correction.lambda_risk=0.25")
    config = parts["config"]
    assert len(config) == len(flatten(Config()))
    assert "correction.lambda_risk 0.25 command line" in config
    assert "rollout.group_size 4 file" in config and "seed 0 default" in config
    numbers = parts["derived"]
    assert "completions 64 a step: 8 problems x 4 attempts + 8 anchors x 4 corrections" in numbers
    assert "sampled tokens at most 2,816 a step, 44 a completion" in numbers
    assert "run 4 steps, 256 completions" in numbers
    # 24 of the problem, 44 of the attempt, and the template's three line ends and one token.
    assert any(line.startswith("correction prompt at most 72 tokens") for line in numbers)
    assert "mesh data 1 x fsdp 8 x tensor 1 on 8 x cpu" in numbers
    # Each stream's sequences at most fill rows of 128 tokens; two rows a device make 2,048 in all.
    assert "batch.row_tokens 128: the longest sequence has 116, in blocks of 16" in numbers
    assert "batch.microbatch_rows 16: about 2,048 tokens in all on a CPU" in numbers
    assert "sampling.slots 32: 32 are sampled together" in numbers
    assert any(
        re.fullmatch(r"an update \d+ microbatches x 16 rows x 128 tokens: .*", n) for n in numbers
    )
    assert "rollout.group_size 4 differs: 8 (paper)" in parts["paper"]
    assert "replay.initial 0.3 same" in parts["paper"]
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_grpo_has_no_corrections() -> None:
    rows = dict(derived(resolve({"correction": {"weight": 0.0}, "num_steps": 2})))
    assert rows["method"] == "GRPO (correction.weight = 0)"
    assert rows["completions"] == "256 a step: 32 problems x 8 attempts"
    assert rows["anchors"] == "0 a step"


def test_what_is_not_there_is_said_and_the_rest_explained() -> None:
    rows = dict(derived(resolve({"model": {"source": "somewhere/else"}})))
    assert "completions" in rows and "parameters" not in rows
    assert rows["not known here"].startswith("config.model.source: 'somewhere/else'")
    # The mesh does not suit this machine: what comes before it is still known.
    rows = dict(derived(resolve({"mesh": {"data": 3}})))
    assert "correction prompt" in rows and rows["not known here"].startswith("config.mesh")


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("checkpoints/Qwen3-4B/", True),
        ("Qwen/Qwen3-4B@main", True),
        ("ByteDance-Seed/Seed-Coder-8B-Instruct", True),
        ("Qwen/Qwen3-8B", False),
        ("", False),
    ],
)
def test_the_papers_models_are_known_by_name(source: str, same: bool) -> None:
    rows = {
        key: verdict for key, _, verdict in paper_settings(resolve({"model": {"source": source}}))
    }
    assert (rows["model.source"] == "same") == same


def test_the_papers_settings_are_those_that_the_config_marks() -> None:
    """The defaults follow the paper where it is known, but for the model."""
    marked = {name for name, key in KEYS.items() if re.search(r"\(paper\b", key.comment)}
    assert marked <= PAPER.keys()
    unmarked = {name for name in PAPER.keys() - marked if not name.startswith("replay.")}
    assert unmarked == {"model.source"}
    verdicts = {key: verdict for key, _, verdict in paper_settings(Config())}
    assert {key for key, verdict in verdicts.items() if verdict != "same"} == {"model.source"}
    assert {k for k in KEYS if k.startswith("replay.")} <= PAPER.keys()
