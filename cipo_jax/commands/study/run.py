"""`--mode=study`: methods x tasks x seeds, an ordinary run for each, then a report.

    python -m cipo_jax.main --mode=study --config=configs/studies/quick.py
    python -m cipo_jax.main --mode=study --config=configs/studies/main.py --only='*-0' --jobs=2

For each seed, and for each task:

    1. cold start    the method `cold`, once; every other method starts from its parameters
    2. reference     the method whose number of sampled tokens sets the budget of matched methods
    3. the others

Each run is two processes, `--mode=train` and then `--mode=evaluate`. Last comes the report:
results.json, table.md and figures, from the run directories alone.

A run is finished when its last evaluation is written. The same command skips what is finished and
continues the rest. All methods of one seed come before the next seed, so a study that is stopped
early is still paired. A run that fails is named at the end; only runs that need it are left out.
Small models leave cores idle: `--jobs=N` does N runs at a time, each on its share of the cores.
This process takes no accelerator: the runs need the whole machine.
"""

import concurrent.futures
import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cipo_jax.commands.study.plan import (
    FINAL,
    RESULTS,
    TIMING,
    PlannedRun,
    Study,
    load_study,
    plan,
    read_results,
    read_timing,
    run_arguments,
)
from cipo_jax.commands.study.queue import Queue, shares_of_cores
from cipo_jax.commands.study.report import write_study_report
from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.resolve import read_resolved, resolve
from cipo_jax.run.hosts.preemption import EXIT_CODE, Notice, Preempted, notice_of_sigterm
from cipo_jax.run.records.files import write_json
from cipo_jax.run.records.terminal import format_duration, shortened
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError

_TAIL = 4096  # bytes of a log in which its last line is looked for
# The arguments of a run -> its resolved config, as the command line would have it.
LoadConfig = Callable[[Sequence[str]], Config]


def command(invocation: Invocation) -> None:
    """The mode."""
    file = Path(invocation.config_file)
    workdir = invocation.workdir if invocation.workdir_given else Path("studies") / file.stem
    _, *overrides = invocation.config_arguments
    with Heartbeat(invocation.config.log.heartbeat_seconds) as beat:
        run_study(file, workdir, overrides, invocation.load, heartbeat=beat, **invocation.flags)


def run_study(
    file: Path,
    workdir: Path,
    overrides: Sequence[str],
    load: LoadConfig,
    only: str = "*",
    report_only: bool = False,
    jobs: int = 1,
    heartbeat: Heartbeat | None = None,
) -> None:
    """Runs what is left of the study in `file`, then writes its report to `workdir`.

    Args:
      overrides: `--config.section.key=value` for every run.
      only: patterns of run names such as "lists/grpo*-0,*/dapo-*"; what a chosen run needs (cold
        start, reference) is run as well.
      report_only: runs nothing.
      jobs: how many runs at a time.
      heartbeat: says how far the runs in progress are; None: nothing does.

    Raises:
      CipoError: the file defines no study, `only` matches nothing, there are not as many cores as
        `jobs`, another process works on `workdir`, or runs have failed (the others are finished
        first).
      Preempted: this process, or a run, was asked to end; the other runs were then ended too.
    """
    shares = shares_of_cores(jobs)
    study = load_study(file)
    runs = plan(study, workdir, only)
    failed: list[PlannedRun] = []
    heartbeat = heartbeat or Heartbeat()
    heartbeat.begin("study")
    print(f"study  {file}: {len(runs)} runs in {workdir}", flush=True)
    if not report_only:
        with _alone_in(workdir), notice_of_sigterm() as notice:
            queue = Queue(study, runs)
            with heartbeat.waiting(lambda: in_progress(queue)):
                failed = _run_all(queue, study, file, overrides, load, workdir, notice, shares)
    heartbeat.begin("study", "reading the runs for the report")
    # All runs, not only those chosen now: an earlier command may have finished others.
    write_study_report(plan(study, workdir), study.reference, workdir)
    if failed:
        logs = "".join(f"\n  {run.name}: see {run.log}" for run in failed)
        raise CipoError(f"runs of the study failed; the same command tries them again:{logs}")


def _run_all(
    queue: Queue,
    study: Study,
    file: Path,
    overrides: Sequence[str],
    load: LoadConfig,
    workdir: Path,
    notice: Notice,
    shares: Sequence[set[int]],
) -> list[PlannedRun]:
    """Does the runs, one at a time on each share of the cores (see `shares_of_cores`).

    Returns:
      The runs that failed, and those left out since they need one that failed.

    Raises:
      Preempted: this process, or a run, was asked to end.
    """
    runs = [*queue.waiting]
    one_at_a_time = threading.Lock()

    @contextlib.contextmanager
    def ending_all() -> Iterator[None]:
        """If the block fails, no further run starts, and those in progress are asked to end."""
        try:
            yield
        except BaseException:
            notice.give()
            queue.close()
            raise

    @ending_all()
    def work(cores: set[int]) -> None:
        if cores:
            os.sched_setaffinity(0, cores)  # of this thread alone, and of the processes it starts
        while (run := queue.take()) is not None:
            arguments = run_arguments(study, file, run, overrides)
            with one_at_a_time:
                finished = is_finished(run, study, load(arguments))
            if not finished:
                left = format_duration(_seconds_left([run, *queue.waiting], runs) / len(shares))
                print(f"study  {queue.progress}, about {left} left; now {run.name}", flush=True)
            good = finished or _run_one(study, run, arguments, workdir, notice)
            if not good:
                print(f"study  {run.name} failed; see {run.log}", flush=True)
            queue.finish(run, good)

    with concurrent.futures.ThreadPoolExecutor(len(shares)) as pool, ending_all():
        # Also ended by Ctrl-C, which comes here; leaving the pool waits for its threads.
        workers = [pool.submit(work, cores) for cores in shares]
        concurrent.futures.wait(workers)
    errors = [error for worker in workers if (error := worker.exception())]
    if errors:
        raise next((e for e in errors if not isinstance(e, Preempted)), errors[0])
    print(f"study  {queue.progress}", flush=True)
    return [run for run in runs if run in queue.failed]


def in_progress(queue: Queue) -> str:
    """How far each run is that was taken: the last line of its log."""
    said = [f"{run.name}: {_last_line(run.log)}" for run in queue.taken]
    return "; ".join([queue.progress, *said])


def _last_line(log: Path) -> str:
    """The last line of a run's log, shortened; "" if there is none yet."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return shortened(next((line for line in reversed(lines) if line.strip()), ""), 100)


def is_finished(run: PlannedRun, study: Study, wanted: Config) -> bool:
    """Whether the run was trained with exactly this config, and evaluated as the study wants. Of an
    evaluation of an earlier version only the samples are known."""
    try:
        samples = read_results(run.directory)["suites"]["eval"]["samples"]
        saved = resolve(read_resolved(run.directory / "config.json"))
    except (CipoError, KeyError, TypeError):
        return False
    evaluated = {"samples": samples} | read_timing(run.directory).get("evaluated", {})
    settings = _evaluation_settings(study)
    same = flatten(saved) == flatten(wanted)
    return same and all(settings.get(name) == value for name, value in evaluated.items())


def _evaluation_settings(study: Study) -> dict[str, int]:
    """Keys of `eval` that decide what the last evaluation samples."""
    names = ("samples", "corrected_attempts", "correction_rounds")
    return {name: getattr(study, name) for name in names}


def _run_one(
    study: Study, run: PlannedRun, arguments: Sequence[str], workdir: Path, notice: Notice
) -> bool:
    """Trains and evaluates; whether both succeeded.

    Raises:
      Preempted: this process, or the run, was asked to end.
    """
    evaluation = [
        "--mode=evaluate",
        f"--workdir={run.directory}",
        f"--config.eval.name={Path(FINAL).name}",
        *(f"--config.eval.{name}={value}" for name, value in _evaluation_settings(study).items()),
        f"--config.eval.pass_at={study.pass_at}",
        "--config.eval.majority=False",
    ]
    began, good = time.monotonic(), False
    try:
        for command in (arguments, evaluation):
            if command is evaluation and (run.directory / RESULTS).exists():
                # Of another config or another study: an evaluation does not replace one.
                shutil.rmtree(run.directory / FINAL)
            code = _call([sys.executable, "-m", "cipo_jax.main", *command], run, workdir, notice)
            if notice.given or code == EXIT_CODE:
                raise Preempted
            if code:
                return False
        good = True
        return True
    finally:
        evaluated = {"evaluated": _evaluation_settings(study)} if good else {}
        _note_run(run, arguments, time.monotonic() - began, evaluated)


def _call(command: Sequence[str], run: PlannedRun, workdir: Path, notice: Notice) -> int:
    """Runs a command to its end, its output appended to the run's log; its exit status."""
    # Seeds and methods share most of their programs.
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str((workdir / ".compiled").absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
    }
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("a") as out:
        out.write(f"$ {shlex.join(command)}\n")
        out.flush()
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, close_fds=False
        )
        try:
            asked = False
            while process.poll() is None:
                if notice.given and not asked:
                    process.terminate()
                    asked = True
                time.sleep(0.1)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return process.returncode


def _note_run(
    run: PlannedRun, arguments: Sequence[str], seconds: float, evaluated: Mapping[str, Any]
) -> None:
    """Writes study.json: the command, the seconds of all its starts, how it was evaluated."""
    if run.directory.is_dir():
        before = read_timing(run.directory)
        command = shlex.join(["python", "-m", "cipo_jax.main", *arguments])
        now = {"command": command, "seconds": before.get("seconds", 0.0) + seconds}
        write_json(run.directory / TIMING, {**before, **now, **evaluated})


def _seconds_left(left: Sequence[PlannedRun], runs: Sequence[PlannedRun]) -> float:
    """An estimate from finished runs: those of the same method, else all; nan if there are none."""
    known = {
        run: timing["seconds"]
        for run in runs
        if run.evaluated and "seconds" in (timing := read_timing(run.directory))
    }
    if not known:
        return float("nan")
    mean = sum(known.values()) / len(known)
    total = 0.0
    for run in left:
        same = [s for r, s in known.items() if (r.task, r.method) == (run.task, run.method)]
        total += 0.0 if run in known else sum(same) / len(same) if same else mean
    return total


@contextlib.contextmanager
def _alone_in(workdir: Path) -> Iterator[None]:
    """Keeps a second study out of `workdir`. Runs inherit the lock, so it also holds while a run is
    alive whose study was killed. The empty file stays: who removes it may remove one that another
    study has just locked."""
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CipoError(
                f"--workdir={workdir}: another study, or a run that it started, is at work there"
            ) from error
        os.set_inheritable(lock.fileno(), True)
        yield
