"""Mistakes on the command line: one message, exit status 2, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from cipo_jax.main import main, run
from cipo_jax.types import CipoError

ROOT = Path(__file__).parents[1]
SMOKE = f"--config={ROOT / 'configs' / 'smoke.py'}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing"),
        (["--config=nowhere.py"], r"nowhere\.py"),
        ([SMOKE, "--workdr=x"], "workdr"),
        ([SMOKE, "--config.rollout.grup_size=4"], r"did you mean config\.rollout\.group_size\?"),
        ([SMOKE, "--config.group_size=4"], r"config\.group_size: unknown key"),
        ([SMOKE, "--config.rollout.group_size=four"], "four"),
        ([SMOKE, "--config.rollout.group_size=1"], r"config\.rollout\.group_size: got 1"),
        ([SMOKE, "--config.mesh.data=3"], r"config\.mesh"),
        ([SMOKE, "--config.batch.row_tokens=64"], r"config\.batch\.row_tokens: got 64"),
        ([SMOKE, "--config.batch.microbatch_rows=3"], r"config\.batch\.microbatch_rows: got 3"),
        ([SMOKE, "--config.data.tokenizer=nowhere"], "nowhere"),
        ([SMOKE, "--config.data.train=nowhere.jsonl"], r"nowhere\.jsonl"),
        ([SMOKE, "--config.init_from=nowhere"], r"config\.init_from"),
        ([SMOKE, "--config.verifier.kind=no.such:thing"], r"no\.such"),
        ([SMOKE, "--config.verifier=no.such:thing"], r"no\.such"),
        (
            [SMOKE, "--config.verifier.extraction=('box',)"],
            r"verifier\.extraction\[0\]: got 'box'.*did you mean 'boxed'",
        ),
        ([SMOKE, "--config.verifier.extraction=()"], "at least one rule"),
        ([SMOKE, "--config.verifier.reward_wrong=1.0"], "more than any other outcome"),
        ([SMOKE, "extra"], "unexpected arguments"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, tmp_path: Path) -> None:
    # The suite's eight devices: fsdp 8.
    with pytest.raises(CipoError, match=message):
        run(["cipo_jax", f"--workdir={tmp_path / 'run'}", *arguments])


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


def test_the_rules_of_extraction_reach_the_verifier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"answer": "3", "text": "#### 3\\nor \\\\boxed{4}"}\n')
    for rules, count in (("('hashes','boxed')", 1), ("('boxed','hashes')", 0)):
        flag = f"--config.verifier.extraction={rules}"
        run(["cipo_jax", SMOKE, "--mode=verify", f"--input={file}", flag])
        assert f"correct           {count}" in capsys.readouterr().out


def test_a_config_file_with_a_wrong_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from cipo_jax.config import default_config\n"
        "def get_config():\n"
        "    c = default_config()\n"
        "    c.rollout.grop_size = 4\n"
        "    return c\n"
    )
    with pytest.raises(CipoError, match="group_size"):
        run(["cipo_jax", f"--config={file}"])


def test_exit_status_and_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["cipo_jax", SMOKE, "--config.sede=1"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: config.sede: unknown key; did you mean config.seed?\n"


def test_a_wrong_flag_does_not_wait_for_jax() -> None:
    script = (
        "import sys\n"
        "from cipo_jax.main import main\n"
        "try: main(['cipo_jax'])\n"
        "except SystemExit: pass\n"
        "assert 'jax' not in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
