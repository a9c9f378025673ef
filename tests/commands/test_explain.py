"""What a command would run, and where its values come from."""

import re
from pathlib import Path

import pytest
from places import ROOT

from cipo_jax.commands.explain import PAPER, derived, paper_settings, time_line
from cipo_jax.config import default_config, load_file
from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.reference import sections
from cipo_jax.config.resolve import resolve
from cipo_jax.main import run
from cipo_jax.run.devices.topology import paper_devices
from cipo_jax.run.forecast.assumptions import SOURCES
from cipo_jax.types import CipoError

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
    assert "replay.gap_weight 0.8 same" in parts["paper"]
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_time_line_is_of_the_devices_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    smoke = f"--config={ROOT / 'configs' / 'smoke.py'}"
    parts = explained(capsys, smoke, "--topology=v5e:4x4", "--mean_tokens=11")
    assert "mesh data 1 x fsdp 16 x tensor 1 on 16 x TPU v5 lite" in parts["derived"]
    lines = parts["time, on paper"]
    assert "devices 16 x TPU v5 lite on 4 host(s)" in lines
    assert "a completion 11 tokens on average" in lines
    names = ("attempts", "corrections", "verification", "update", "rest", "a step", "the run")
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in names)
    assert sum(line.startswith("assumed ") for line in lines) == len(SOURCES)
    (layouts,) = (line for line in lines if line.startswith("sampling.tensor "))
    assert re.fullmatch(r"sampling.tensor 1: .* of sampling, with 2 it would be .* s", layouts)


def test_a_time_line_needs_the_shape_of_a_model_and_not_its_files() -> None:
    def lines(source: str) -> dict[str, str]:
        model = {"source": source, "remat": "auto"}
        config = resolve({"model": model, "rollout": {"problems_per_step": 4}})
        return dict(time_line(config, paper_devices("h100:8"), None))

    known = lines("Qwen/Qwen3-0.6B@main")
    assert known["model.remat"].startswith("auto counts as full")
    assert known["prompts"].startswith("counted in bytes") and " hours: " in known["the run"]
    unknown = lines("somewhere/else")
    assert list(unknown) == ["not known here"] and "somewhere/else" in unknown["not known here"]


def test_a_mean_length_is_for_the_time_line() -> None:
    smoke = f"--config={ROOT / 'configs' / 'smoke.py'}"
    with pytest.raises(CipoError, match="--mean_tokens: .* needs --topology"):
        run(["cipo_jax", "--mode=explain", smoke, "--mean_tokens=11"])
    with pytest.raises(CipoError, match="--mean_tokens: got 99, wanted above 0 and at most 44"):
        run(["cipo_jax", "--mode=explain", smoke, "--mean_tokens=99", "--topology=l4:1"])


def test_grpo_has_no_corrections() -> None:
    rows = dict(derived(resolve({"correction": {"weight": 0.0}, "num_steps": 2})))
    assert rows["method"] == "GRPO (correction.weight = 0)"
    assert rows["completions"] == "256 a step: 32 problems x 8 attempts"
    assert rows["anchors"] == "0 a step"


def test_dynamic_sampling_counts_in_what_is_sampled_at_most() -> None:
    raw = {"rollout": {"max_refills": 2}, "data": {"max_completion_tokens": 100}, "num_steps": 3}
    rows = dict(derived(resolve({"correction": {"weight": 0.0}, **raw})))
    assert rows["completions"].startswith("256 a step")
    assert rows["sampled tokens"] == "at most 76,800 a step, 100 a completion"
    assert rows["dynamic sampling"] == "at most 2 x 256 completions more a step"
    assert rows["run"] == "3 steps, 768 completions, at most 2,304 with dynamic sampling"


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
    """The defaults follow the paper where it is known, but for the model and what keeps right
    anchors from teaching to copy."""
    marked = {name for name, key in KEYS.items() if re.search(r"\(paper\b", key.comment)}
    assert marked <= PAPER.keys()
    unmarked = {name for name in PAPER.keys() - marked if not name.startswith("replay.")}
    assert unmarked == {"model.source", "correction.right_limits"}
    verdicts = {key: verdict for key, _, verdict in paper_settings(Config())}
    bounds = {"replay.initial", "replay.minimum", "replay.maximum", "replay.target"}
    different = {key for key, verdict in verdicts.items() if verdict != "same"}
    assert different == {"model.source", "correction.right_limits", *bounds}
    variant = default_config()
    load_file("../../configs/variants.py", beside=__file__).paper_controller(variant)
    verdicts = {key: verdict for key, _, verdict in paper_settings(resolve(variant))}
    assert {key for key, verdict in verdicts.items() if verdict != "same"} == {"model.source"}
    assert {k for k in KEYS if k.startswith("replay.")} <= PAPER.keys()
