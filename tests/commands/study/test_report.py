"""Measures and tables of a study, from run directories whose numbers are known."""

import dataclasses
import gzip
import html
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invented_run import Page

from cipo_jax.commands.study import measures as study_measures
from cipo_jax.commands.study.measures import (
    COSINES,
    Record,
    by_method,
    measure_run,
    measures,
    repeats,
)
from cipo_jax.commands.study.plan import FINAL, PlannedRun
from cipo_jax.commands.study.report import format_study, write_study_report
from cipo_jax.config import default_config
from cipo_jax.config.keys import Config, Data
from cipo_jax.config.resolve import provenance, resolve
from cipo_jax.run.problems import given_attempt, given_attempts, open_evaluation
from cipo_jax.run.records.archive import AttemptArchive
from cipo_jax.run.records.files import write_json
from cipo_jax.run.records.metrics_file import MetricWriter
from cipo_jax.types import Attempt, CipoError, Completion, Outcome, Problem, Prompt, Verdict

PROBLEMS = 4
SAMPLES = 4
LENGTH, LOGPROB = 5, -0.25  # of every completion: its tokens, and the log-prob of each


def attempt(problem: Problem, right: bool, anchor: Attempt | None = None) -> Attempt:
    completion = Completion(
        np.zeros(LENGTH, np.int32), np.full(LENGTH, LOGPROB, np.float32), finished=True
    )
    outcome = Outcome.CORRECT if right else Outcome.WRONG
    return Attempt(Prompt(problem, np.zeros(3, np.int32), anchor), completion, "", Verdict(outcome))


def make_run(
    directory: Path, seed: int, rights: list[int], keeps: bool, fixes: bool, budget: int = 0
) -> Path:
    """A run of two steps: of problem i's samples the first `rights[i]` are right; a correction of a
    right attempt is right if it `keeps`, of a wrong one if it `fixes`."""
    config = dataclasses.replace(
        Config(),
        seed=seed,
        max_sampled_tokens=budget,
        data=dataclasses.replace(Data(), eval_problems=PROBLEMS),
        eval=dataclasses.replace(Config().eval, given_attempts=2),
    )
    directory.mkdir(parents=True)
    values = provenance(config, resolve(default_config()), set())
    write_json(directory / "config.json", values)
    (directory / "study.json").write_text(json.dumps({"command": "python", "seconds": 90.0}))
    writer = MetricWriter(directory, tensorboard=False)
    for step, accuracy in ((0, 0.25), (1, None), (2, 0.5)):
        if step:
            scalars = {"tokens/sampled": 100.0, "tokens/trained": 40.0, "base/entropy": 0.1 * step}
            scalars |= {"base/reward/mean": 0.5, "replay/rho": 0.2 * step, "anchor/count": 2.0}
            if step == 2:
                scalars |= {"grad/cosine": 0.25, "grad/base_norm": 2.0, "grad/correction_norm": 1.0}
                scalars |= {"grad/right_cosine": 0.125, "grad/wrong_cosine": 0.5}
                scalars |= {"grad/right_wrong_cosine": -0.25}
            writer.write(step, scalars, "train")
        if accuracy is not None:
            writer.write(step, {"eval/pass@1": accuracy, "eval/pass@1_stderr": 0.1}, "eval")
    writer.close()
    problems = open_evaluation(config).source.first(PROBLEMS)
    prompts = [Prompt(p, np.zeros(3, np.int32)) for p in problems]
    own = [
        attempt(p, j < right)
        for p, right in zip(problems, rights, strict=True)
        for j in range(SAMPLES)
    ]
    anchors = [
        *own[::SAMPLES],
        *given_attempts(config.data.eval, config.eval.given_attempts, prompts),
    ]
    corrections = [attempt(a.problem, keeps if a.correct else fixes, a) for a in anchors]
    AttemptArchive(directory / FINAL).write("eval", 2, [*own, *corrections])
    (directory / FINAL / "results.json").write_text(json.dumps({"step": 2}))
    return directory


def test_the_measures_of_a_run(tmp_path: Path) -> None:
    record = measure_run(make_run(tmp_path / "run", 0, [0, 1, 2, 4], keeps=False, fixes=True))
    assert (record["steps"], record["sampled_tokens"], record["trained_tokens"]) == (2, 200, 80)
    assert record["curve"] == {
        "step": [0, 2],
        "tokens": [0.0, 200.0],
        "entropy": [None, pytest.approx(0.15)],
        "pass@1": [0.25, 0.5],
    }
    values = {name: float(a.sum() / b.sum()) for name, (a, b) in measures([record]).items()}
    assert values == {
        "pass@1": pytest.approx(7 / 16),
        "pass@4": pytest.approx(3 / 4),
        # The first samples: one wrong, three right; corrections turn all of them around.
        "before": pytest.approx(3 / 4),
        "two-turn": pytest.approx(1 / 4),
        "w2r": 1.0,
        "r2w": 1.0,
        # The wrong one is of the problem without a right sample.
        "resampled w2r": 0.0,
        "w2r gain": 1.0,
        # All three right ones were right before; the wrong one is corrected. Two completions buy
        # two attempts: of problems with 0, 1, 2, 4 right samples pass@2 is 0, 1/2, 5/6, 1.
        "solved 1": 1.0,
        "resampled 1": pytest.approx((1 / 2 + 5 / 6 + 1) / 4),
        "given w2r": 1.0,
        "given r2w": 1.0,
        "length": LENGTH,
        "entropy": pytest.approx(-LOGPROB),
    }
    assert record["training"] == {
        "step": [1, 2],
        "reward": [0.5, 0.5],
        "all_wrong": [None, None],
        "anchors": [2.0, 2.0],
        "rho": [0.2, 0.4],
        "retention": [None, None],
        "cosine": [None, 0.25],
        "base_norm": [None, 2.0],
        "correction_norm": [None, 1.0],
        "right_cosine": [None, 0.125],
        "wrong_cosine": [None, 0.5],
        "unsolved_cosine": [None, None],
        "right_wrong_cosine": [None, -0.25],
    }
    results = {"reference": "", "runs": [record | {"task": "t", "method": "m", "seed": 0}]}
    assert "| m | 0.125 | 0.500 |  | -0.250 |" in format_study(results)
    for name in COSINES:  # as in records from before these were kept
        del record["training"][name]
    assert "right with wrong" not in format_study(results)
    problems = record["problems"]
    # The one wrong attempt that was corrected has no text, so it leaves the solution at once.
    assert sum(problems["own_wrong_early"]) == sum(problems["own_w2r_early"]) == 1
    assert problems["given_wrong"] == [2] * PROBLEMS and problems["given_right"] == [1] * PROBLEMS
    assert all(2 <= n <= 5 for n in problems["operations"])


def test_a_run_without_its_first_steps_is_refused(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", 0, [0, 1, 2, 4], keeps=False, fixes=True)
    measure_run(directory)
    metrics, kept = directory / "metrics.jsonl", directory / study_measures._RECORD
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if '"phase": "train", "step": 1' not in line))
    # An earlier version made records of such runs as well.
    of_earlier = f'"format": {study_measures._FORMAT - 1}'
    earlier = kept.read_text().replace(f'"format": {study_measures._FORMAT}', of_earlier)
    assert of_earlier in earlier
    for record in (None, earlier.replace('"step": [1, 2]', '"step": [2]')):
        kept.unlink(missing_ok=True)
        if record:
            kept.write_text(record)
        with pytest.raises(CipoError, match=f"{directory}: .*step 2 where step 1 was to be"):
            measure_run(directory)


def test_rounds_come_from_the_chains_of_the_archive(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", 0, [0, 1, 2, 4], keeps=False, fixes=True)
    problems = open_evaluation(Config(data=Data(eval_problems=PROBLEMS))).source.first(PROBLEMS)
    attempts, chain = [], []
    for problem, second in zip(problems, (False, True, False, True), strict=True):
        first = attempt(problem, False)
        once = attempt(problem, False, first)
        attempts += [first, attempt(problem, True)]
        chain += [once, attempt(problem, second, once)]
    AttemptArchive(directory / FINAL).write("eval", 2, [*attempts, *chain])
    record = measure_run(directory)
    assert record["problems"]["own_wrong"] == [1] * 4  # of first corrections alone
    assert record["problems"]["round_2_tokens"] == [3 * LENGTH] * 4
    values = {
        name: float(a.sum() / b.sum()) for name, (a, b) in measures([record]).items() if b.sum()
    }
    assert (values["two-turn"], values["after 2"]) == (0, 1 / 2)
    assert (values["solved 1"], values["solved 2"]) == (0, 1 / 2)
    assert values["resampled 1"] == 1 and "resampled 2" not in values  # needs three samples


def test_attempts_without_a_verdict_are_counted_apart(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", 0, [0, 1, 2, 4], keeps=True, fixes=True)
    archive = next((directory / FINAL / "attempts").iterdir())
    records = [json.loads(line) for line in gzip.decompress(archive.read_bytes()).splitlines()]
    # Of the fourth problem all but two samples are gone; of the first all.
    for record in (*records[:4], *records[14:16]):
        record["outcome"] = "error"
    for record in records[16:]:
        if (quoted := record["anchor"]["index"]) is not None:
            record["anchor"]["outcome"] = records[quoted]["outcome"]
    archive.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    record = measure_run(directory)
    problems = record["problems"]
    assert sorted(zip(problems["samples"], problems["errors"], strict=True)) == [
        *((0, 5), (2, 2), (4, 0), (4, 0))  # of the first also the correction of its first sample
    ]
    assert sum(problems["own_wrong"]) + sum(problems["own_right"]) == 3
    assert study_measures.pass_ks([record]) == [1, 4]
    above, below = study_measures.pass_of([record], 1)
    assert (above.sum(), below.sum()) == (pytest.approx(1 / 4 + 2 / 4 + 1), 3)
    assert study_measures.pass_of([record], 4)[1].sum() == 2
    results = {"reference": "", "runs": [record | {"task": "t", "method": "m", "seed": 0}]}
    assert "7 attempts without a verdict" in format_study(results)


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("", "early"),
        ("1+1=3\n3+2=5\n\\boxed{5}", "early"),
        ("1+1=2\n2+2=5\n\\boxed{5}", "middle"),
        ("1+1=2", "middle"),
        ("1+1=2\n2+2=4\n\\boxed{5}", "late"),
        ("1+1=2\n2+2=4\n\\boxed{4}\n4", "late"),
    ],
)
def test_the_stage_of_an_error_is_the_third_in_which_it_leaves_the_solution(text, stage) -> None:
    solution = ["1+1=2", "2+2=4", "\\boxed{4}"]
    assert study_measures._stage(text.splitlines(), solution) == stage


def test_resampling_is_measured_on_the_other_samples_of_the_wrong_attempts(tmp_path: Path) -> None:
    record = measure_run(make_run(tmp_path / "run", 0, [0, 1, 2, 4], keeps=True, fixes=True))
    # Of the second problem three attempts are corrected, of the third one; four samples each.
    record["problems"] |= {"right": [0, 1, 2, 4], "own_wrong": [0, 3, 1, 0]}
    above, below = measures([record])["resampled w2r"]
    assert float(above.sum() / below.sum()) == pytest.approx((3 * 1 / 3 + 1 * 2 / 3) / 4)


def test_repeated_errors(tmp_path: Path) -> None:
    """One problem, four samples that answer 7, 7, 8 and nothing, 3 being right."""
    problem, other = open_evaluation(Config()).source.first(2)
    texts = {"7": "a\n7", "8": "a\n8", "": "a"}

    def answering(answer: str, anchor: Attempt | None = None) -> Attempt:
        of = attempt(problem, False, anchor)
        verdict = dataclasses.replace(of.verdict, extracted=answer or None)
        return dataclasses.replace(of, text=texts[answer], verdict=verdict)

    own = [answering(answer) for answer in ("7", "7", "8", "")]
    given = given_attempt(Prompt(other, np.zeros(3, np.int32)), "b\n7", right=False)
    corrections = [answering("7", own[0]), answering("8", own[1]), answering("8", own[3])]
    corrections += [answering("7", given), answering("8", given)]
    AttemptArchive(tmp_path / FINAL).write("eval", 2, [*own, *corrections])
    sums = study_measures._problem_sums(tmp_path, 2, {})
    names = (*study_measures._REPEATS, "samples")
    record = {"problems": {name: sums[name] for name in names}}
    values = {name: float(a.sum() / b.sum()) for name, (a, b) in repeats([record]).items()}
    # 7 is repeated, then not; one in three others also says 7. What had no answer does not count.
    assert values == {
        "repeats": 1 / 2,
        "resampled repeats": pytest.approx(1 / 3),
        "given repeats": 1 / 2,
    }
    assert repeats([{"problems": {"own_wrong": [1]}}]) == {}


def test_what_may_explain_a_difference_is_in_the_table(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0, [0, 1, 2, 4], keeps=True, fixes=True)
    table = format_study(
        write_study_report([PlannedRun("a", "cipo", 0, run)], "cipo", tmp_path / "out")
    )
    assert "| cipo | 1.000 / 0.000 |  |  | 0.250 | 0.50 | 0.30 |  |" in table


def test_without_a_correction_stream_nothing_is_said_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0, [0, 1, 2, 4], keeps=True, fixes=True)
    record = {"task": "a", "method": "grpo", "seed": 0} | measure_run(run)
    record["training"] |= {"anchors": [0.0, 0.0], "correction_norm": [None, 0.0]}
    table = format_study({"reference": "cipo", "runs": [record]})
    assert "| grpo | 1.000 / 0.000 |  |  |  |  |  |  |" in table


def test_a_record_of_an_older_format_is_made_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0, [4, 4, 4, 4], keeps=True, fixes=True)
    record = measure_run(run)
    (run / FINAL / "measures.json").write_text(json.dumps({"format": 1}))
    assert measure_run(run) == record


def test_measures_without_a_case_are_left_out(tmp_path: Path) -> None:
    record = measure_run(make_run(tmp_path / "run", 0, [0, 0, 0, 0], keeps=True, fixes=False))
    assert "r2w" not in measures([record])
    assert "w2r" in measures([record])


def test_a_record_is_made_again_after_another_evaluation(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0, [4, 4, 4, 4], keeps=True, fixes=True)
    assert measure_run(run)["problems"]["right"] == [4] * PROBLEMS
    again = make_run(tmp_path / "other", 0, [1, 1, 1, 1], keeps=True, fixes=True)
    (again / FINAL / "attempts").rename(tmp_path / "attempts")
    (run / FINAL / "attempts").rename(tmp_path / "before")
    (tmp_path / "attempts").rename(run / FINAL / "attempts")
    (run / FINAL / "results.json").write_text(json.dumps({"step": 2}))
    assert measure_run(run)["problems"]["right"] == [1] * PROBLEMS


def test_an_evaluation_without_attempts_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0, [1, 1, 1, 1], keeps=True, fixes=True)
    (run / FINAL / "results.json").write_text(json.dumps({"step": 3}))
    with pytest.raises(CipoError, match="holds no attempts of step 3"):
        measure_run(run)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"step": "last"}'])
def test_damaged_results_are_named(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "run", 0, [1, 1, 1, 1], keeps=True, fixes=True)
    (run / FINAL / "results.json").write_text(content)
    (run / FINAL / "measures.json").write_text("[]")  # newer, and damaged as well
    (run / "study.json").write_text("[]")
    with pytest.raises(CipoError, match=r"final/results.json: is not what an evaluation writes; "):
        measure_run(run)


def test_what_became_of_the_attempts_that_were_wrong_before_training(tmp_path: Path) -> None:
    run = measure_run(make_run(tmp_path / "run", 0, [0, 1, 2, 4], keeps=True, fixes=True))
    curve: dict[str, list[Any]] = run["curve"]
    rising = ((0, 0.5, 0.75), (1, 0.25, 0.75), (2, 0.5, 0.5))
    records = [
        measured(run, "cipo", seed, curve | mended(before, after, 0.25, 0.5))
        for seed, before, after in rising
    ]
    records.append(measured(run, "grpo", 0, curve | mended(0.25, 0.25, 0.5, 0.25)))
    # No attempt was wrong before training; not measured; measured once.
    records.append(measured(run, "dapo", 0, curve | mended(None, None, None, None)))
    records.append(measured(run, "gspo", 0, curve))
    once = {name: values[:1] for name, values in (curve | mended(0.5, 0, 0.5, 0)).items()}
    records.append(measured(run, "cold", 0, once))

    table = format_study({"reference": "cipo", "runs": records})
    of_it = table.partition("| w2r first |")[2].partition("\n\n")[0].splitlines()[2:]
    # The rises are 0.25, 0.5 and 0; t of 2 degrees of freedom is 4.303, times 0.25 / sqrt(3).
    cipo = "| cipo | 3 | 0.417 | 0.667 | 0.250 | 0.500 | +0.250 | -0.371 to +0.871 | 2/3 |"
    grpo = "| grpo | 1 | 0.250 | 0.250 | 0.500 | 0.250 | +0.000 | one seed | 0/1 |"
    assert of_it == [cipo, grpo]
    assert "w2r first" not in format_study({"reference": "cipo", "runs": records[-2:]})


def measured(run: Record, method: str, seed: int, curve: dict[str, list[Any]]) -> Record:
    return {**run, "task": "a", "method": method, "seed": seed, "curve": curve}


def mended(*shares: float | None) -> dict[str, list[Any]]:
    """What two evaluations say of the attempts that were wrong before training: the share that a
    correction mends, at first and at last, and the share that another attempt gets right."""
    first, last, first_again, last_again = shares
    names = "first_wrong/w2r", "first_wrong/resampled_w2r"
    return dict(zip(names, ([first, last], [first_again, last_again]), strict=True))


def make_study(root: Path) -> list[PlannedRun]:
    """CIPO solves one sample more of each problem than GRPO, in every seed; seeds differ more."""
    runs = []
    for method, seed in itertools.product(("cipo", "grpo"), (0, 1, 2)):
        rights = [seed + (method == "cipo")] * PROBLEMS
        run = root / "arithmetic" / f"{method}-{seed}"
        make_run(run, seed, rights, keeps=True, fixes=method == "cipo", budget=160)
        runs.append(PlannedRun("arithmetic", method, seed, run))
    return runs


def test_the_report_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = make_study(tmp_path)
    unfinished = PlannedRun("arithmetic", "dapo", 0, tmp_path / "nowhere")
    results = write_study_report([*runs, unfinished], "cipo", tmp_path / "out")
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in capsys.readouterr().out
    # pass@1 of seeds 0, 1, 2: CIPO 1/4, 2/4, 3/4; GRPO 0, 1/4, 2/4.
    attempts, corrections = table.partition("Corrections:")[::2]
    assert "| cipo | 3 | 0.500 [0.250, 0.750] |" in attempts
    assert "| grpo | 3 | 0.250 [0.000, 0.500] |" in attempts
    assert "pass@1 |" in attempts and "given w2r |" in corrections.partition("Difference")[0]
    # Paired, the seeds' spread cancels, and nothing is left to tell of the difference's.
    assert "| grpo | pass@1 | -0.250 | -0.604 to +0.104 | 0.1250 |  | 0/3 |" in table
    assert "| grpo | given w2r | -1.000 |" in table
    assert "dapo" not in table
    assert "| cipo | 2 | 8 | 200 | 1.250 | 80 | 1.5 | 0.500 |" in table
    # Everything that is shown can be shown again from the file alone.
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored == json.loads(json.dumps(results))
    assert format_study(stored) == table
    assert [r["seed"] for r in by_method(stored, "arithmetic")["grpo"]] == [0, 1, 2]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    for figure in ("curves", "pass_at_k", "differences"):
        assert {f"arithmetic_{figure}.png", f"arithmetic_{figure}.svg"} <= names
    page = Page(tmp_path / "out" / "study.html")
    # With 4 samples GRPO solves nothing on seed 0; all is solved elsewhere.
    for measure, said in (
        ("pass@1", "no difference from cipo (-25.0 points, 95% interval -60.4 to +10.4, 3 seeds)"),
        ("pass@4", "no difference from cipo (-33.3 points"),
        ("right after a correction", "no difference from cipo (-33.3 points"),
    ):
        assert f"arithmetic, {measure}\ngrpo: {said}" in page.source
    # pass@1 by steps and by tokens, and pass@k; of entropy there is one point, no curve.
    assert page.tags.count("figure") == 3
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", page.source)
    for line in table.splitlines():
        if line.startswith("| "):
            assert all(cell.strip() in cells for cell in html.escape(line, False).split("|"))


def test_only_seeds_of_both_are_paired(tmp_path: Path) -> None:
    runs = [run for run in make_study(tmp_path) if run.name != "arithmetic/grpo-1"]
    table = format_study(write_study_report(runs, "cipo", tmp_path / "out"))
    assert "| grpo | pass@1 | -0.250 | -0.604 to +0.104 | 0.1250 |  | 0/2 |" in table


def test_a_study_without_finished_runs_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(CipoError, match="no run of the study has been finished"):
        write_study_report([PlannedRun("a", "cipo", 0, tmp_path)], "cipo", tmp_path)
