"""docs/own_task.md, run as it stands there; and what becomes of mistakes in a custom verifier."""

import re
import shlex
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from forms import fast
from places import ROOT, TESTS
from printed_commands import write_files

from cipo_jax.main import run
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.rollout import Attempter
from cipo_jax.types import CipoError, Completion, Outcome, Problem, Prompt, Verdict

FILE = ROOT / "docs" / "own_task.md"
PAGE = FILE.read_text()
TINY = TESTS / "tiny_run.py"


def commands() -> list[list[str]]:
    """The commands of the page that need no accelerator."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's directory with its data, beside which the commands run."""
    monkeypatch.chdir(tmp_path)
    write_files(FILE, tmp_path)
    subprocess.run([sys.executable, "mirror/make_data.py"], check=True)
    return tmp_path / "mirror"


def test_the_verifier_of_the_page_judges_as_labelled(
    mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = [c for c in commands() if "--mode=verify" in c]
    run(command[2:])
    printed = capsys.readouterr().out
    shown = re.search(r"```\n(mirror/answers\.jsonl: 4 items).*?\n(.*?)```", PAGE, re.DOTALL)
    assert printed.startswith(shown[1])
    for line in shown[2].splitlines():
        assert line.split() in [other.split() for other in printed.splitlines()]


@pytest.mark.slow
@pytest.mark.long
def test_every_command_of_the_page_runs(
    mirror: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a user's machine has it, not with the suite's eight devices.
    monkeypatch.delenv("XLA_FLAGS")
    given = commands()
    assert [c[1] if c[1] != "-m" else "".join(c[3:4]) for c in given] == [
        "mirror/make_data.py",
        "--mode=verify",
        "--mode=data",
        "--config=mirror/config.py",
        "--mode=generate",
    ]
    for command in given:
        subprocess.run([sys.executable, *command[1:]], check=True, timeout=280)
    records = read_metrics(mirror / "run")
    evaluations = [r["eval/pass@1"] for r in records if r["phase"] == "eval"]
    assert len(evaluations) == 3 and evaluations[-1] > 0
    assert sum(r["phase"] == "train" for r in records) == 30
    assert (mirror / "run" / "report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("body", "reason"),
    fast(
        [
            ("return problem.meta['level'] > 3", "KeyError: 'level'"),
            ("pass", "the verifier returned NoneType None; wanted Verdict, bool, or a score"),
        ],
        1,
        arguments=2,
    ),
)
def test_a_verifier_that_fails_on_everything_ends_the_run(
    body: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(f"def verify(problem, text):\n    {body}\n")
    arguments = [f"--config.verifier={tmp_path / 'own.py'}:verify"]
    arguments += ["--config.batch.microbatch_rows=8", f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(CipoError) as error:
        run(["cipo_jax", f"--config={TINY}", *arguments])
    assert "the verifier has failed on all 8 completions" in str(error.value)
    assert reason in str(error.value) and "--mode=verify" in str(error.value)


def test_a_verifier_that_has_worked_may_fail() -> None:
    outcomes = [Outcome.ERROR, Outcome.WRONG, Outcome.ERROR, Outcome.ERROR]
    prompts = [Prompt(Problem(f"p{i}", "?"), np.zeros(1, np.int32)) for i in range(2)]

    class Pool:
        def submit(self, problem: Problem, text: str) -> Future:
            judged: Future = Future()
            judged.set_result(Verdict(outcomes.pop(0), detail="out of order"))
            return judged

    class Letters:
        def decode(self, ids: list[int]) -> str:
            return "a"

    def sample(params, prompts, samples, key):
        for request in range(len(prompts) * samples):
            yield request, Completion(np.zeros(1, np.int32), np.zeros(1, np.float32), finished=True)

    attempt = Attempter(sample, Pool(), Letters())
    for wanted in (["error", "wrong"], ["error", "error"]):
        assert [a.verdict.outcome for a in attempt(None, prompts, 1, None, "")] == wanted
    outcomes += [Outcome.ERROR, Outcome.ERROR]
    fresh = Attempter(sample, Pool(), Letters())
    assert fresh(None, [], 1, None, "") == []
    with pytest.raises(CipoError, match="failed on all 2 .* 'p0'.* with 'out of order'"):
        fresh(None, prompts, 1, None, "")
