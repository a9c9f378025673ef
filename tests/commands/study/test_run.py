"""The runner of studies: what it runs, in which order, and what it does after an interruption."""

import dataclasses
import json
import math
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from places import NO_REAL_MODEL, REAL_MODEL, ROOT

from cipo_jax.commands.study import run as study
from cipo_jax.commands.study.plan import (
    FINAL,
    PlannedRun,
    Study,
    load_study,
    plan,
    run_arguments,
    sampled_tokens,
)
from cipo_jax.config.resolve import resolve
from cipo_jax.data.datasets import open_demonstrations
from cipo_jax.data.prompts import PromptWriter
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.main import run as run_command
from cipo_jax.run.hosts.preemption import EXIT_CODE, Preempted
from cipo_jax.run.records.metrics_file import MetricWriter, read_metrics
from cipo_jax.types import CipoError

STUDIES = ROOT / "configs" / "studies"
QUICK = STUDIES / "quick.py"


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.py")), ids=lambda f: f.stem)
def test_the_study_files_are_valid(file: Path) -> None:
    module = runpy.run_path(str(file))
    assert module["__doc__"] and f"--config=configs/studies/{file.name}" in module["__doc__"]
    loaded = load_study(file)
    assert resolve(module["get_config"]()) == resolve(loaded.config(_first_task(loaded) + "/cold"))
    # Two methods that are the same would be one row twice.
    task = _first_task(loaded)
    kinds = {
        (resolve(loaded.config(f"{task}/{name}")), method.matched)
        for name, method in loaded.methods.items()
    }
    assert len(kinds) == len(loaded.methods)


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.py")), ids=lambda f: f.stem)
def test_the_tasks_fit_their_budgets(file: Path) -> None:
    loaded = load_study(file)
    for task in loaded.tasks:
        c = resolve(loaded.config(f"{task}/cold"))
        if c.model.source and not (REAL_MODEL / "config.json").is_file():
            pytest.skip(NO_REAL_MODEL)
        prompts = PromptWriter(load_tokenizer(c.data.tokenizer or str(REAL_MODEL)), c.data)
        name, operations = c.cold_start.demonstrations, c.data.max_operations
        for demonstration in open_demonstrations(
            name,
            0,
            correction_share=0.5,
            right_share=0.5,
            min_operations=operations,
            max_operations=operations,
            practice_share=c.cold_start.practice_share,
        ).batch(0, 1000):
            prompt, completion = prompts.demonstration(demonstration)
            assert len(prompt) <= prompts.longest_correction()
            assert len(completion) <= c.data.max_completion_tokens


def _first_task(loaded: Study) -> str:
    return next(iter(loaded.tasks))


# The plan.


def test_all_methods_of_a_seed_come_before_the_next_seed(tmp_path: Path) -> None:
    names = [run.name for run in plan(load_study(QUICK), tmp_path)]
    methods = ("cold", "cipo", "grpo", "grpo_samples")
    assert names == [f"arithmetic/{m}-{seed}" for seed in (0, 1) for m in methods]


@pytest.mark.parametrize(
    ("only", "methods"),
    [
        ("*/grpo-1", ["cold-1", "grpo-1"]),
        ("*/grpo_samples-0", ["cold-0", "cipo-0", "grpo_samples-0"]),  # matched to CIPO
        ("arithmetic/cold-*", ["cold-0", "cold-1"]),
        ("*/cold-1,*/grpo-0", ["cold-0", "grpo-0", "cold-1"]),
    ],
)
def test_a_part_brings_what_it_builds_on(only: str, methods: list[str], tmp_path: Path) -> None:
    runs = plan(load_study(QUICK), tmp_path, only)
    assert [run.name for run in runs] == [f"arithmetic/{m}" for m in methods]


def test_a_method_may_be_run_on_some_tasks_alone(tmp_path: Path) -> None:
    loaded = load_study(QUICK)
    two = dataclasses.replace(
        loaded,
        tasks={"one": loaded.tasks["arithmetic"], "two": loaded.tasks["arithmetic"]},
        methods=loaded.methods
        | {"grpo": dataclasses.replace(loaded.methods["grpo"], tasks=("two",))},
        seeds=(0,),
    )
    names = [run.name for run in plan(two, tmp_path)]
    assert "one/grpo-0" not in names and "two/grpo-0" in names and "one/cold-0" in names


def test_a_pattern_without_a_run_is_refused(tmp_path: Path) -> None:
    for only, message in (
        (
            "ppo",
            "'ppo' matches no run; .* the methods cold, cipo, grpo, grpo_samples and the seeds 0",
        ),
        ("*/cipo-0,arithmetic/gpro-0", "'arithmetic/gpro-0' matches.* mean 'arithmetic/grpo-0'?"),
    ):
        with pytest.raises(CipoError, match=message):
            plan(load_study(QUICK), tmp_path, only)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("STUDY = None", "defines no STUDY"),
        ("STUDY = replace(STUDY, reference='grpo_samples')", "a method that is not matched"),
        ("STUDY = replace(STUDY, reference='ppo')", "STUDY.reference: got 'ppo'"),
        ("STUDY = replace(STUDY, methods=STUDY.methods | {'x': Method(print, 'tokens')})", "'x'"),
        (
            "STUDY = replace(STUDY, methods=STUDY.methods | {'x': Method(print, tasks=('b',))})",
            "wanted some of arithmetic",
        ),
        ("STUDY = replace(STUDY, tasks={'a': lambda c: c.update(num_steps=-1)})", "num_steps"),
    ],
)
def test_a_file_without_a_sound_study_is_refused(change: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "study.py"
    text = QUICK.read_text().replace("__file__", repr(str(QUICK)))
    file.write_text(f"from dataclasses import replace\n{text}\n{change}\n")
    with pytest.raises(CipoError, match=message):
        load_study(file)


def test_a_run_that_the_study_does_not_have_is_refused() -> None:
    with pytest.raises(CipoError, match="got 'arithmetic/ppo', wanted TASK/METHOD"):
        run_command(["cipo_jax", f"--config={QUICK}:arithmetic/ppo"])


# Matching compute.


def write_run(directory: Path, arguments: Sequence[str], lengths: Sequence[float]) -> None:
    """What a training command leaves: its config, and a line of metrics a step."""
    directory.mkdir(parents=True, exist_ok=True)
    config = dataclasses.asdict(load(arguments))
    flat = {
        f"{section}.{key}" if key else section: {"value": v}
        for section, value in config.items()
        for key, v in (value.items() if isinstance(value, dict) else [("", value)])
    }
    (directory / "config.json").write_text(json.dumps(flat))
    writer = MetricWriter(directory, tensorboard=False)
    for step, length in enumerate(lengths, 1):
        # 8 problems x 4 attempts, and half as many tokens of corrections again.
        tokens = {"tokens/sampled": 32 * length * 1.5, "base/length/mean": length}
        writer.write(step, tokens | {"tokens/trained": 1.0, "base/entropy": 0.1}, "train")
    writer.close()


def load(arguments: Sequence[str]):
    """The config of a run's arguments, as far as these tests set it."""
    file, _, name = arguments[0].removeprefix("--config=").partition(":")
    raw = load_study(Path(file)).config(name)
    for argument in arguments:
        key, _, value = argument.removeprefix("--config.").partition("=")
        if key in ("seed", "max_sampled_tokens"):
            raw[key] = int(value)
        elif key == "rollout.group_size":
            raw.rollout.group_size = int(value)
        elif key == "init_from":
            raw.init_from = value
    return resolve(raw)


def test_matched_methods_get_the_tokens_of_the_reference_of_their_seed(tmp_path: Path) -> None:
    loaded = load_study(QUICK)
    _, reference, plain, matched = plan(loaded, tmp_path)[:4]
    write_run(reference.directory, run_arguments(loaded, QUICK, reference, []), [10.0, 20.0])
    tokens, ratio = sampled_tokens(reference.directory)
    assert tokens == 32 * 30 * 1.5 and ratio == pytest.approx(1.5)

    cold = f"--config.init_from={tmp_path / 'arithmetic' / 'cold-0'}"
    arguments = run_arguments(loaded, QUICK, plain, ["--config.num_steps=7"])
    assert arguments == [
        f"--config={QUICK}:arithmetic/grpo",
        f"--workdir={plain.directory}",
        "--config.num_steps=7",
        "--config.seed=0",
        cold,
    ]
    arguments = run_arguments(loaded, QUICK, matched, [])
    assert arguments[-3:] == [
        cold,
        "--config.max_sampled_tokens=1440",
        "--config.rollout.group_size=6",
    ]
    # The number of steps does not end it first.
    assert load(arguments).num_steps == 10 * loaded.config("arithmetic/cipo").num_steps


def test_a_reference_without_samples_cannot_be_matched(tmp_path: Path) -> None:
    loaded = load_study(QUICK)
    reference = plan(loaded, tmp_path)[1]
    write_run(reference.directory, run_arguments(loaded, QUICK, reference, []), [])
    with pytest.raises(CipoError, match="has sampled nothing"):
        sampled_tokens(reference.directory)


def test_a_reference_without_its_first_steps_cannot_be_matched(tmp_path: Path) -> None:
    loaded = load_study(QUICK)
    reference = plan(loaded, tmp_path)[1]
    write_run(reference.directory, run_arguments(loaded, QUICK, reference, []), [10.0, 20.0])
    file = reference.directory / "metrics.jsonl"
    file.write_text(file.read_text().partition("\n")[2])
    with pytest.raises(CipoError, match="cipo-0: .*step 2 where step 1 was to be"):
        sampled_tokens(reference.directory)


# Running, with commands that leave what real ones leave.


class Commands:
    """Stands for the processes; `fail` maps a run and a mode to what it does instead."""

    def __init__(self, fail: dict[tuple[str, str], int | type[BaseException]]) -> None:
        self.fail, self.calls = fail, list[tuple[str, str]]()

    def __call__(self, command: Sequence[str], run: PlannedRun, *_: object) -> int:
        arguments = command[3:]
        mode = "evaluate" if "--mode=evaluate" in arguments else "train"
        self.calls.append((run.name, mode))
        failure = self.fail.get((run.name, mode), 0)
        if failure:
            if isinstance(failure, int):
                return failure
            raise failure
        if mode == "train":
            write_run(run.directory, arguments, [] if run.method == "cold" else [10.0])
        else:
            (run.directory / FINAL).mkdir(parents=True, exist_ok=True)
            results = {"step": 1, "suites": {"eval": {"samples": 16}}}
            (run.directory / FINAL / "results.json").write_text(json.dumps(results))
        return 0


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the quick study in tmp_path; returns the calls that it made and the runs reported."""

    def run(
        only: str = "*",
        overrides: Sequence[str] = (),
        report_only: bool = False,
        jobs: int = 1,
        kind: type[Commands] = Commands,
        **fail,
    ):
        commands = kind(
            {
                (f"arithmetic/{name.replace('__', '-')}", mode): how
                for name, (mode, how) in fail.items()
            }
        )
        reported: list[str] = []
        monkeypatch.setattr(study, "_call", commands)
        monkeypatch.setattr(
            study,
            "write_study_report",
            lambda runs, reference, out: reported.extend(f"{r.method}-{r.seed}" for r in runs),
        )
        error: BaseException | None = None
        try:
            study.run_study(QUICK, tmp_path, overrides, load, only, report_only, jobs)
        except (CipoError, Preempted, OSError) as e:
            error = e
        return commands.calls, reported, error

    return run


def both(*names: str) -> list[tuple[str, str]]:
    return [(f"arithmetic/{name}", mode) for name in names for mode in ("train", "evaluate")]


ONE_SEED = ("cold-0", "cipo-0", "grpo-0", "grpo_samples-0")


def test_every_run_is_done_once_and_a_second_time_nothing_is(go, capsys) -> None:
    calls, reported, error = go()
    everything = both(*ONE_SEED, *(name.replace("-0", "-1") for name in ONE_SEED))
    assert calls == everything and error is None and len(reported) == 8
    assert "study  8 of 8 runs done, 0 failed" in capsys.readouterr().out
    calls, reported, _ = go()
    assert calls == [] and len(reported) == 8


def test_a_preempted_study_goes_on_where_it_was(go) -> None:
    calls, reported, error = go("*-0", grpo__0=("train", EXIT_CODE))
    assert calls == [*both("cold-0", "cipo-0"), ("arithmetic/grpo-0", "train")]
    assert isinstance(error, Preempted) and not reported
    # Trained but not evaluated counts as unfinished as well.
    calls, _, error = go("*-0", grpo__0=("evaluate", Preempted))
    assert calls == both("grpo-0") and isinstance(error, Preempted)
    calls, _, error = go("*-0")
    assert calls == both("grpo-0", "grpo_samples-0") and error is None


def test_a_crash_costs_what_builds_on_it_alone(go) -> None:
    calls, reported, error = go(cipo__0=("train", 1))
    first = [*both("cold-0"), ("arithmetic/cipo-0", "train"), *both("grpo-0")]
    assert calls == [*first, *both("cold-1", "cipo-1", "grpo-1", "grpo_samples-1")]
    assert "arithmetic/cipo-0" in str(error) and "arithmetic/grpo_samples-0" in str(error)
    assert "arithmetic/grpo-0" not in str(error) and "cipo-0.log" in str(error)
    assert reported, "what is there is reported"
    calls, _, error = go()
    assert calls == both("cipo-0", "grpo_samples-0") and error is None


def test_a_run_with_another_config_is_not_taken_for_finished(go, tmp_path: Path) -> None:
    go("*/cold-0")
    file = tmp_path / "arithmetic" / "cold-0" / "config.json"
    file.write_text(
        file.read_text().replace('"num_steps": {"value": 0}', '"num_steps": {"value": 1}')
    )
    assert go("*/cold-0")[0] == both("cold-0")
    assert go("*/cold-0")[0] == []


@pytest.mark.parametrize(
    ("key", "again"),
    [("replay.target", True), ("correction.right_limits", True), ("correction.lambda_risk", False)],
)
def test_an_older_run_is_finished_unless_a_default_has_changed_since(
    go, tmp_path: Path, key: str, again: bool
) -> None:
    go("*/cold-0")
    file = tmp_path / "arithmetic" / "cold-0" / "config.json"
    values = json.loads(file.read_text())
    del values[key]
    file.write_text(json.dumps(values))
    assert go("*/cold-0")[0] == (both("cold-0") if again else [])


@pytest.mark.parametrize(
    ("old", "again"),
    [
        ({}, False),  # of an earlier version
        ({"samples": 16, "corrected_attempts": 4, "correction_rounds": 1}, False),
        ({"samples": 16, "corrected_attempts": 1, "correction_rounds": 1}, True),
        ({"samples": 16, "corrected_attempts": 4, "correction_rounds": 2}, True),
    ],
)
def test_a_run_that_was_evaluated_in_another_way_is_not_taken_for_finished(
    go, tmp_path: Path, old: dict[str, int], again: bool
) -> None:
    go("*/cold-0")
    file = tmp_path / "arithmetic" / "cold-0" / "study.json"
    noted = json.loads(file.read_text())
    assert noted["evaluated"] == {"samples": 16, "corrected_attempts": 4, "correction_rounds": 1}
    file.write_text(json.dumps({k: v for k, v in noted.items() if k != "evaluated"}))
    if old:
        file.write_text(json.dumps(noted | {"evaluated": old}))
    assert go("*/cold-0")[0] == (both("cold-0") if again else [])
    assert go("*/cold-0")[0] == []


def test_report_only_runs_nothing(go) -> None:
    calls, reported, error = go(report_only=True)
    assert calls == [] and len(reported) == 8 and error is None


def test_two_studies_do_not_work_in_one_directory(go, tmp_path: Path) -> None:
    with study._alone_in(tmp_path):
        calls, _, error = go()
    assert calls == [] and "is at work there" in str(error)
    assert go("*/cold-0")[0] == both("cold-0")


class Overlapping(Commands):
    """Commands that wait until two of them are under way."""

    def __init__(self, fail) -> None:
        super().__init__(fail)
        self.cores: dict[str, set[int]] = {}
        self._pair = threading.Barrier(2)

    def __call__(self, command: Sequence[str], run: PlannedRun, *rest: object) -> int:
        self.cores[run.name] = os.sched_getaffinity(0)
        self._pair.wait(timeout=60)
        return super().__call__(command, run, *rest)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system cannot pin processes")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_two_jobs_overlap_on_cores_of_their_own(go) -> None:
    seen: list[Overlapping] = []

    class Kept(Overlapping):
        def __init__(self, fail) -> None:
            super().__init__(fail)
            seen.append(self)

    ours = os.sched_getaffinity(0)
    calls, reported, error = go("*/[cg][ir]po-*", jobs=2, kind=Kept)
    assert error is None and sorted(calls) == sorted(
        both("cold-0", "cipo-0", "grpo-0", "cold-1", "cipo-1", "grpo-1")
    )
    (commands,) = seen
    assert len(set(map(frozenset, commands.cores.values()))) == 2
    assert set.union(*commands.cores.values()) == ours == os.sched_getaffinity(0)
    for seed in (0, 1):
        trained = [name for name, mode in calls if mode == "train" and name.endswith(f"-{seed}")]
        assert trained[0] == f"arithmetic/cold-{seed}", "others start from its parameters"
    assert len(reported) == 8


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_of_two_jobs_both_end_when_one_is_asked_to(go) -> None:
    _, reported, error = go(jobs=2, cold__0=("train", EXIT_CODE))
    assert isinstance(error, Preempted) and not reported
    _, _, error = go(jobs=2, cold__0=("train", OSError))
    assert isinstance(error, OSError), "what went wrong, not that the other job was ended"


@pytest.mark.parametrize("jobs", [0, 1000])
def test_jobs_without_a_core_each_are_refused(go, jobs: int) -> None:
    calls, _, error = go(jobs=jobs)
    assert calls == [] and f"--jobs: got {jobs}, wanted 1 to " in str(error)


def test_the_time_left_follows_the_same_method_first(tmp_path: Path) -> None:
    runs = plan(load_study(QUICK), tmp_path)
    assert math.isnan(study._seconds_left(runs, runs))
    for run, seconds in zip(runs[:2], (10.0, 30.0), strict=True):
        (run.directory / FINAL).mkdir(parents=True)
        (run.directory / FINAL / "results.json").write_text("{}")
        (run.directory / "study.json").write_text(json.dumps({"seconds": seconds}))
    # Left of seed 0: two of the mean 20; of seed 1: 10 + 30 + 20 + 20.
    assert study._seconds_left(runs, runs) == 2 * 20 + 10 + 30 + 20 + 20


def test_a_command_that_is_asked_to_end_passes_it_on(tmp_path: Path) -> None:
    notice = study.Notice()
    notice.give()
    run = PlannedRun("t", "m", 0, tmp_path / "t" / "m-0")
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print(1)"
    wait = f"{program}; sys.stdout.flush(); time.sleep(30)"
    began = time.monotonic()
    code = study._call([sys.executable, "-c", wait], run, tmp_path, notice)
    # Asked before the handler was set, it ends by the signal itself.
    assert code in (EXIT_CODE, -signal.SIGTERM) and time.monotonic() - began < 20
    assert (tmp_path / "t" / "m-0.log").read_text().startswith("$ ")


# The whole thing.


@pytest.mark.slow
@pytest.mark.long
def test_the_quick_study_from_end_to_end_with_an_interruption(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cipo_jax.main", "--mode=study", f"--config={QUICK}"]
    command += [f"--workdir={tmp_path}"]
    environment = {**os.environ, "XLA_FLAGS": ""}  # one device, as a user has
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    stopped = tmp_path / "arithmetic" / "cipo-0"
    try:
        deadline = time.monotonic() + 300
        while len(_steps(stopped)) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == EXIT_CODE
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    cold = (tmp_path / "arithmetic" / "cold-0" / FINAL / "results.json").stat().st_mtime_ns
    assert not (stopped / FINAL).exists()

    subprocess.run(command, env=environment, check=True)
    assert (tmp_path / "arithmetic" / "cold-0" / FINAL / "results.json").stat().st_mtime_ns == cold
    assert _steps(stopped) == [1, 2, 3, 4, 5, 6]
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["runs"]) == 8
    by_name = {f"{r['method']}-{r['seed']}": r for r in results["runs"]}
    for seed in (0, 1):
        matched, reference = by_name[f"grpo_samples-{seed}"], by_name[f"cipo-{seed}"]
        assert matched["max_sampled_tokens"] == reference["sampled_tokens"]
        assert 1 <= matched["sampled_tokens"] / reference["sampled_tokens"] < 1.3
        assert matched["group_size"] == 8
        # Paired: all methods of a seed start from the same parameters.
        first = {n: r["curve"]["pass@1"][0] for n, r in by_name.items() if n.endswith(f"-{seed}")}
        assert len(set(first.values())) == 1
    table = (tmp_path / "table.md").read_text()
    assert table.count("| grpo_samples |") > 5 and "pass@16" in table
    assert (tmp_path / "arithmetic_curves.png").stat().st_size > 10_000


def _steps(directory: Path) -> list[int]:
    return [line["step"] for line in read_metrics(directory) if line["phase"] == "train"]


def test_it_says_how_far_the_runs_are(tmp_path: Path) -> None:
    queue = study.Queue(load_study(QUICK), plan(load_study(QUICK), tmp_path))
    assert study.in_progress(queue) == "0 of 8 runs done, 0 failed"
    run = queue.take()
    assert run is not None and run.name == "arithmetic/cold-0"
    assert study.in_progress(queue).endswith("; arithmetic/cold-0: ")
    run.log.parent.mkdir(parents=True)
    run.log.write_bytes(b"x" * 5000 + b"\n\xff\nstep 3/9  reward 0.5\n\n")
    assert study.in_progress(queue).endswith("; arithmetic/cold-0: step 3/9  reward 0.5")
    queue.finish(run, good=True)
    assert study.in_progress(queue) == "1 of 8 runs done, 0 failed"
