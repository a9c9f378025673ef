"""Comparing runs whose metrics and attempts are made by hand."""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invented_run import Page

from cipo_jax.commands import compare as mode
from cipo_jax.commands.compare import compare, group_runs, load_run
from cipo_jax.config.keys import Config, flatten
from cipo_jax.main import run as command
from cipo_jax.run.records.archive import AttemptArchive
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import Attempt, CipoError, Completion, Outcome, Problem, Prompt, Verdict

PROBLEMS = 40


def make_run(
    path: Path, tokens_per_step: int, rates: dict[int, float], seed: int = 0, **changes: Any
) -> Path:
    """A run of 4 steps, evaluated at the steps of `rates`, with so large a share solved."""
    values = flatten(Config()) | {"seed": seed} | changes
    path.mkdir(parents=True)
    config = {key: {"value": value, "source": "file"} for key, value in values.items()}
    (path / "config.json").write_text(json.dumps(config))
    lines: list[dict[str, Any]] = []
    archive = AttemptArchive(path)
    for step in range(5):
        if step:
            record = {"phase": "train", "step": step, "tokens/sampled": float(tokens_per_step)}
            lines.append(record)
        if step in rates:
            record = {"phase": "eval", "step": step, "eval/pass@1": rates[step]}
            lines.append(record | {"eval/pass@8": rates[step] / 2 + 0.5})
            solved = round(rates[step] * PROBLEMS)
            archive.write("eval", step, [attempt(i, i < solved) for i in range(PROBLEMS)])
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def attempt(number: int, right: bool | None) -> Attempt:
    """None: the verifier has failed."""
    nothing = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), True)
    outcome = {True: Outcome.CORRECT, False: Outcome.WRONG, None: Outcome.ERROR}[right]
    prompt = Prompt(Problem(f"p{number}", "?", "1"), np.array([1]))
    return Attempt(prompt, nothing, "", Verdict(outcome))


def test_more_samples_a_step_look_better_at_equal_steps_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The same gain a token; `greedy` takes twice the tokens a step.
    frugal = make_run(tmp_path / "frugal", 100, {0: 0.2, 2: 0.4, 4: 0.6})
    greedy = make_run(
        tmp_path / "greedy", 200, {0: 0.2, 2: 0.6, 4: 0.7}, **{"rollout.group_size": 16}
    )
    found = {c.at: c for c in compare([frugal, greedy], tmp_path / "out")}
    assert found["equal steps"].difference.value == pytest.approx(0.1)
    assert found["equal tokens"].difference.value == pytest.approx(0.0)
    assert found["equal tokens"].values == pytest.approx((0.6, 0.6))
    steps = found["equal steps"]
    assert (steps.only_method, steps.only_baseline, steps.problems) == (4, 0, PROBLEMS)
    assert steps.p_mcnemar == pytest.approx(2 / 2**4)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text in capsys.readouterr().out
    assert "Equal tokens: 400 sampled tokens" in text
    assert "| greedy | equal steps | 4 | 800 | 0.700 | 0.850 |" in text
    assert "| greedy | equal tokens | 2 | 400 | 0.600 | 0.800 |" in text
    assert "rollout.group_size=16" in text
    for ending in ("png", "svg"):
        assert (tmp_path / "out" / f"comparison.{ending}").stat().st_size > 10_000
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(saved) == len(found) == 2
    page = Page(tmp_path / "out" / "comparison.html")
    assert list(page.sections) == ["curves", "runs", "values", "paired-by-problem", "methods"]
    assert "greedy at equal tokens: no difference from frugal (+0.0 points" in page.source
    assert "greedy at equal steps: above frugal (+10.0 points, 95% interval +" in page.source
    assert page.tags.count("figure") == 4  # pass@1 and pass@8, each by steps and by tokens
    assert page.source.count('class="interval"') == 2
    assert not [v for _, name, v in page.attributes if name in ("href", "src") and v[0] != "#"]


def test_values_between_evaluations_are_interpolated(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 100, {0: 0.2, 4: 0.6})
    b = make_run(tmp_path / "b", 160, {0: 0.2, 4: 0.6}, num_steps=61)
    found = compare([a, b], tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    # 400 of b's 640 tokens; its last evaluation before that is the one at the start.
    assert "| b | equal tokens | 0 | 0 | 0.450 |" in text
    # That one is of the untrained model: it is not set against one after 4 steps.
    assert [c.at for c in found] == ["equal steps"]
    assert "no evaluation of b near equal tokens: no paired tests there" in text


def test_seeds_are_one_method(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / f"cipo-{s}", 100, {4: 0.5}, seed=s) for s in range(3)]
    other = make_run(tmp_path / "grpo", 100, {4: 0.4}, **{"correction.weight": 0.0})
    methods = group_runs([load_run(path) for path in [*paths, other]])
    assert [(name, len(runs)) for name, runs in methods.items()] == [
        ("cipo (3 seeds)", 3),
        ("grpo", 1),
    ]
    comparisons = compare([other, *paths], tmp_path / "out")
    assert comparisons[0].method == "cipo (3 seeds)"
    assert "0.500 ± 0.000" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("here", "paths", "names"),
    [
        ("runs", ("old/grpo", "grpo"), ["grpo", "runs/grpo"]),
        ("runs", ("grpo", "old/grpo"), ["grpo", "old/grpo"]),
        ("runs/grpo", (".", "../old/grpo"), ["grpo", "old/grpo"]),
        (".", ("a/x/grpo", "b/x/grpo", "c/x/grpo"), ["grpo", "x/grpo", "{}/c/x/grpo"]),
    ],
)
def test_every_method_has_a_name_of_its_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: str,
    paths: tuple[str, ...],
    names: list[str],
) -> None:
    for number, path in enumerate(paths):
        made = tmp_path / os.path.normpath(f"{here}/{path}")
        make_run(made, 100, {4: 0.5}, num_steps=60 + number)
    monkeypatch.chdir(tmp_path / here)
    methods = group_runs([load_run(Path(path)) for path in paths])
    assert [str(run.path) for (run,) in methods.values()] == list(paths)
    assert [*methods] == [name.format(tmp_path) for name in names]


def test_a_key_that_a_run_does_not_have_is_at_its_default(tmp_path: Path) -> None:
    old, new = (make_run(tmp_path / name, 100, {4: 0.5}) for name in ("old", "new"))
    config = json.loads((old / "config.json").read_text())
    del config["correction.lambda_risk"]
    (old / "config.json").write_text(json.dumps(config))
    assert len(group_runs([load_run(old), load_run(new)])) == 1


def test_an_older_run_is_no_seed_of_a_method_whose_default_has_changed(tmp_path: Path) -> None:
    old, new = (make_run(tmp_path / name, 100, {4: 0.5}) for name in ("old", "new"))
    same = {"replay.target": "constant", "correction.right_limits": []}
    given = make_run(tmp_path / "given", 100, {4: 0.5}, **same)
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in same}))
    methods = group_runs([load_run(path) for path in (old, new, given)])
    assert [len(runs) for runs in methods.values()] == [2, 1]


def test_benchmarks_of_both_are_compared(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 100, {4: 0.5})
    b = make_run(tmp_path / "b", 100, {4: 0.5}, num_steps=61)
    # Of several evaluations, those of the last step count, and of these the last one.
    for path, name, step, solved in (
        (a, "step-000004-10", 4, 10),
        (a, "step-000004-2", 4, 1),
        (b, "step-000004", 4, 20),
        (b, "zero", 0, 1),
    ):
        archive = AttemptArchive(path / "evaluations" / name)
        archive.write("math500", step, [attempt(i, i < solved) for i in range(PROBLEMS)])
    (found,) = [c for c in compare([a, b], tmp_path / "out") if c.at == "evaluations"]
    assert (found.measure, found.values) == ("math500 pass@1", (0.5, 0.25))


def test_attempts_without_a_verdict_are_left_out(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 100, {4: 0.5})
    b = make_run(tmp_path / "b", 100, {4: 0.5}, num_steps=61)
    of_b = [attempt(0, True), attempt(0, None), attempt(1, None), attempt(2, False)]
    AttemptArchive(a).write("eval", 4, [attempt(i, i == 2) for i in range(4)])
    AttemptArchive(b).write("eval", 4, of_b)
    found = [c for c in compare([a, b], tmp_path / "out") if c.at == "equal steps"]
    assert [(c.problems, c.values, c.unjudged) for c in found] == [(2, (0.5, 0.5), 2)]
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "2 attempts without a verdict (outcome error) are left out of eval pass@1" in text


def test_rounds_of_correction_are_compared_each_with_its_own(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 100, {4: 0.5})
    b = make_run(tmp_path / "b", 100, {4: 0.5}, num_steps=61)
    for run, once in ((a, True), (b, False)):
        chain = [attempt(0, False)]
        for right in (once, True):
            made = attempt(0, right)
            quoting = dataclasses.replace(made.prompt, anchor=chain[-1])
            chain.append(dataclasses.replace(made, prompt=quoting))
        AttemptArchive(run).write("eval", 4, chain)
    found = compare([a, b], tmp_path / "out")
    assert {c.measure: c.values for c in found if c.at == "equal steps"} == {
        "eval pass@1": (0, 0),
        "eval after correction": (0, 1),
        "eval after correction, round 2": (1, 1),
    }


def test_runs_without_an_archive_say_so(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 100, {4: 0.5})
    b = make_run(tmp_path / "b", 100, {4: 0.5}, num_steps=61)
    for file in (b / "attempts").iterdir():
        file.unlink()
    command(["cipo_jax", "--mode=compare", f"{a}/", str(b)])
    written = tmp_path / "comparison"  # beside the runs, wherever the command was typed
    assert "no archived evaluations in b" in (written / "comparison.md").read_text()
    assert (written / "comparison.png").is_file()
    assert json.loads((written / "comparison.json").read_text()) == []


def test_runs_with_other_problems_are_not_paired_and_that_is_said(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", 10, {4: 0.5})
    other = make_run(tmp_path / "other", 10, {4: 0.5}, num_steps=61)
    AttemptArchive(other).write("eval", 4, [attempt(PROBLEMS + i, True) for i in range(PROBLEMS)])
    assert compare([one, other], tmp_path / "out") == []
    text = (tmp_path / "out" / "comparison.md").read_text()
    for at in ("equal steps", "equal tokens"):
        assert f"other: on other problems, no paired tests at {at}" in text


def test_mistakes_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 100, {4: 0.5})
    with pytest.raises(CipoError, match="got 1 run directories"):
        command(["cipo_jax", "--mode=compare", str(run)])
    with pytest.raises(CipoError, match=r"nowhere: is not a run directory"):
        command(["cipo_jax", "--mode=compare", str(run), str(tmp_path / "nowhere")])
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(CipoError, match="has no evaluations to compare"):
        load_run(run)


def test_it_says_how_many_runs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beat, said = Heartbeat(25.0, prints=False), []

    def read(path: Path) -> mode.ComparedRun:
        beat.said()
        said.append(beat.due(time.monotonic() + 60))
        return load_run(path)

    runs = [make_run(tmp_path / f"run-{seed}", 100, {0: 0.2, 4: 0.6}, seed) for seed in (0, 1)]
    monkeypatch.setattr(mode, "load_run", read)
    compare(runs, tmp_path / "out", beat)
    assert [line.split(": ")[1].split(",")[0] for line in said] == [
        "0 of 2 runs read",
        "1 of 2 runs read",
    ]


def test_unsolved_problems_are_followed_where_they_recur(tmp_path: Path) -> None:
    changes = {"data.train_problems": 2}
    runs = [make_run(tmp_path / f"cipo-{s}", 100, {4: 0.5}, seed=s, **changes) for s in range(2)]
    for path in runs:
        archive = AttemptArchive(path)
        wrong = [attempt(i, False) for i in range(2)]
        asked = dataclasses.replace(wrong[0].prompt, anchor=wrong[0])
        fixed = dataclasses.replace(attempt(0, True), prompt=asked)
        archive.write("train", 1, [*wrong, fixed])
        archive.write("train", 2, [attempt(0, True), attempt(1, False)])
    fresh = make_run(tmp_path / "fresh", 100, {4: 0.5})  # new problems at each step
    AttemptArchive(fresh).write("train", 1, [attempt(0, False)])
    AttemptArchive(fresh).write("train", 2, [attempt(0, True)])
    compare([*runs, fresh], tmp_path / "out")
    rows = [
        line
        for line in (tmp_path / "out" / "comparison.md").read_text().splitlines()
        if "[" in line and line.startswith("| cipo (2 seeds) | ")
    ]
    values = [tuple(cell.strip() for cell in row.split("|")[2:6]) for row in rows]
    whole = [v for v in values if v[0] in ("all", "corrected", "not put back")]
    assert [v[:3] for v in whole] == [
        ("all", "4", "4"),
        ("corrected", "2", "2"),
        ("not put back", "2", "2"),
    ]
    assert [v[3][:5] for v in whole] == ["0.500", "1.000", "0.000"]
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| fresh | all |" not in text and "## Unsolved" in text
    assert "unsolved" in Page(tmp_path / "out" / "comparison.html").sections
