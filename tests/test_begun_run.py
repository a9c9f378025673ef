"""A run that an earlier version of the program began goes on, and every mode works on it.

The run in fixtures/begun_run.tar.gz has done two of four steps; its config is begun_run.py beside
it. Its directory is what later versions must be able to read.
"""

import tarfile
from pathlib import Path

import pytest
from places import FIXTURES

from cipo_jax.main import run
from cipo_jax.report.page import write_report
from cipo_jax.run.measures import find_metric
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.run.records.metrics_file import read_metrics

CONFIG = f"--config={FIXTURES / 'begun_run.py'}"


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    workdir = tmp_path / "begun"
    with tarfile.open(FIXTURES / "begun_run.tar.gz") as archive:
        archive.extractall(workdir, filter="data")
    return workdir


def test_its_numbers_and_attempts_are_read(begun: Path) -> None:
    lines = read_metrics(begun)
    assert [line["step"] for line in lines if line["phase"] == "train"] == [1, 2]
    names = {name for line in lines for name in line} - {"phase", "step"}
    # The name under which evicted sequences were counted then.
    unknown = [name for name in names if find_metric(name) is None]
    assert len(names) > 60 and unknown in ([], ["sampler/preemptions"])
    attempts = list(read_attempts(begun, "train"))
    assert {a["stream"] for a in attempts} == {"base", "correction"} and len(attempts) == 32
    page = write_report(begun, max_pairs=20).read_text()
    assert "2 of 2" in page and "wrong → wrong" in page and "correction/accuracy_before" in page


@pytest.mark.slow
def test_it_goes_on_and_is_evaluated_and_exported(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_metrics(begun)
    run(["cipo_jax", CONFIG, f"--workdir={begun}"])
    assert f"continuing {begun} after step 2" in capsys.readouterr().out
    lines = read_metrics(begun)
    assert lines[: len(before)] == before
    steps = [line for line in lines if line["phase"] == "train"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    # Its own controller and counts went on, not new ones.
    assert [line["replay/rho"] for line in steps] == [0.3] * 4
    assert [line["step"] for line in lines if line["phase"] == "eval"] == [0, 1, 2, 3, 4]

    for arguments in (
        ["--mode=evaluate"],
        ["--mode=generate", "--prompt=Compute (7+2)."],
        ["--mode=export"],
        ["--mode=regrade"],
        ["--mode=parity"],
    ):
        run(["cipo_jax", *arguments, f"--workdir={begun}"])
    printed = capsys.readouterr().out
    assert "[prompt 0" in printed or "mean log-prob" in printed
    assert "they agree" in printed and "0 with another outcome" in printed
    assert (begun / "evaluations/step-000004/results.json").is_file()
    assert (begun / "hf-step-000004/model.safetensors").is_file()
    assert (begun / "regrade.jsonl").is_file()
