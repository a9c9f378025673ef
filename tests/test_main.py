"""The command: grading a file, own verifiers. Mistakes are in test_errors.py."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from cipo_jax.main import run
from cipo_jax.types import CipoError

SMOKE = f"--config={ROOT / 'configs' / 'smoke.py'}"


def test_a_file_of_answers_is_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(
        '{"id": "a", "problem": "1+1?", "answer": "2", "response": "so \\\\boxed{2}"}\n'
        '{"id": "b", "problem": "1+2?", "answer": "3", "response": "so \\\\boxed{4}"}\n'
    )
    run(["cipo_jax", SMOKE, "--mode=verify", f"--input={file}"])
    printed = capsys.readouterr().out
    assert "correct" in printed and "wrong" in printed
    with pytest.raises(CipoError, match="--input is missing"):
        run(["cipo_jax", SMOKE, "--mode=verify"])


@pytest.mark.parametrize("flag", ["--config.verifier", "--config.verifier.kind"])
def test_an_own_verifier_may_be_a_file(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text("def longest(problem, text): return len(text) < 5\n")
    file = tmp_path / "answers.jsonl"
    file.write_text('{"answer": "", "text": "four"}\n{"answer": "", "text": "seventeen"}\n')
    arguments = [SMOKE, "--mode=verify", f"--input={file}"]
    run(["cipo_jax", *arguments, f"{flag}={tmp_path / 'own.py'}:longest"])
    printed = capsys.readouterr().out
    assert "correct           1" in printed and "wrong             1" in printed
    run(["cipo_jax", *arguments, flag, f"{tmp_path / 'own.py'}:longest"])
    assert "correct           1" in capsys.readouterr().out
    with pytest.raises(CipoError, match="config.verifier.kind: got 'own'"):
        run(["cipo_jax", *arguments, "--config.verifier=own"])


def test_what_the_hub_warns_of_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own handler: that of the root logger would say it again."""
    again: list[logging.LogRecord] = []

    class Root(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            again.append(record)

    root, hub = logging.getLogger(), logging.getLogger("huggingface_hub")
    monkeypatch.setattr(hub, "propagate", True)
    monkeypatch.setattr(root, "handlers", [*root.handlers, Root()])
    file = tmp_path / "answers.jsonl"
    file.write_text('{"answer": "2", "text": "2"}\n')
    run(["cipo_jax", SMOKE, "--mode=verify", f"--input={file}"])
    logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
    assert not again


@pytest.mark.slow
def test_the_rules_of_extraction_reach_the_verifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"answer": "3", "text": "#### 3\\nor \\\\boxed{4}"}\n')
    for rules, count in (("('hashes','boxed')", 1), ("('boxed','hashes')", 0)):
        flag = f"--config.verifier.extraction={rules}"
        run(["cipo_jax", SMOKE, "--mode=verify", f"--input={file}", flag])
        assert f"correct           {count}" in capsys.readouterr().out


def test_a_wrong_flag_does_not_wait_for_jax() -> None:
    script = (
        "import sys\n"
        "from cipo_jax.main import main\n"
        "try: main(['cipo_jax'])\n"
        "except SystemExit: pass\n"
        "assert 'jax' not in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
