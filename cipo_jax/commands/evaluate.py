"""`--mode=evaluate`: a checkpoint or a Hugging Face model on benchmarks.

    0. places    are the files of problems, the run or the model, and a free name there?
    1. data      load every suite, check every row, name answers that cannot be read
    2. prompts   build them all, so that a question that is too long is found now
    3. model     restore the parameters
    4. suites    sample, verify, estimate; suites with the same settings share a sampler
    5. results   <workdir>/evaluations/<name>/: results.json, table.md, attempts/*.jsonl.gz

The name is that of the checkpoint, such as step-000080, with a number for the next evaluation of it
(step-000080-2), or `eval.name`. Nothing is written over results that are there.

Steps 0 to 2 need no accelerator. How attempts are sampled and judged is decided in
`run/rollout.py`, what is measured in `run/evaluate.py`: the functions that training uses.
"""

import collections
import contextlib
import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cipo_jax.commands.gold import check_gold, print_gold, read_answers
from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config
from cipo_jax.data.benchmarks.rows import Item, given_solution
from cipo_jax.data.benchmarks.suites import (
    CORRECT,
    CRITIQUE,
    LoadedSuite,
    Suite,
    check_writable,
    find_suite,
    load_suite,
)
from cipo_jax.data.sources import check_sources
from cipo_jax.policy.model import Params
from cipo_jax.policy.random_keys import random_key
from cipo_jax.report.markdown import markdown_table
from cipo_jax.run.evaluate import (
    EVAL_KEY,
    SameAnswers,
    evaluate,
    evaluate_corrections,
    evaluate_critiques,
)
from cipo_jax.run.parameters import Place, check_parameters, find_parameters, load_parameters
from cipo_jax.run.parts import Parts, open_parts, open_prompts, open_tokenizer
from cipo_jax.run.problems import given_attempt, given_attempts, line_checker, open_evaluation
from cipo_jax.run.records.archive import AttemptArchive
from cipo_jax.run.records.evaluations import (
    EVALUATIONS_DIR,
    RESULTS_FILE,
    require_no_results,
    results_directory,
)
from cipo_jax.run.records.files import write_json, write_text
from cipo_jax.run.records.terminal import print_gain, printable
from cipo_jax.run.statistics import Estimate
from cipo_jax.run.watch.compiles import open_compilation_cache
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import Attempt, CipoError, Problem, Prompt
from cipo_jax.verifiers.judge import open_pool, suite_kind, verdicts
from cipo_jax.verifiers.pool import VerifierPool

OWN = "eval"  # the name of the problems of `config.data.eval` among the suites


def command(invocation: Invocation) -> None:
    """The mode."""
    config = invocation.config
    with Heartbeat(config.log.heartbeat_seconds) as heartbeat:
        evaluate_run(config, invocation.workdir, invocation.flags["step"], heartbeat)


def evaluate_run(
    config: Config, workdir: Path, step: str = "latest", heartbeat: Heartbeat | None = None
) -> Path | None:
    """Evaluates, writes the results, prints the table.

    Args:
      config: of the run; `config.eval` says on what it is evaluated.
      workdir: a run directory, or, with `config.model.source`, any directory for the results.
      step: "latest", "best" (by pass@1 of the run's own evaluations) or a number of steps.
      heartbeat: says what the mode is doing; None: nothing does.

    Returns:
      The directory of the results; None with `config.eval.check_gold`.

    Raises:
      CipoError: wrong data, a question over the budget, or no such checkpoint.
    """
    c, heartbeat = config, heartbeat or Heartbeat()
    _check_places(c, workdir, step)
    heartbeat.begin("evaluate", "reading the problems")
    loaded = load_suites(c)
    for suite in loaded:
        print(f"{suite.suite.name}: {len(suite.items)} problems of {suite.source}", flush=True)
    heartbeat.said()
    skipped = [reason for suite in loaded for reason in suite.skipped]
    if c.eval.check_gold:
        print_gold(check_gold(loaded, c.verifier, heartbeat), skipped)
        return None
    heartbeat.begin("evaluate", "reading the reference answers")
    unread = read_answers(loaded, c.verifier)
    for line in (line for lines in unread.values() for line in lines):
        print(f"warning  {line}")
    if skipped:
        print(f"warning  {len(skipped)} rows have no tests and are left out; see results.json")
    _check_lengths(c, loaded)
    place = find_parameters(c, workdir, step)
    model = c.model.source if place is None else str(place.directory.parent)
    taken = 0 if place is None else place.step
    name = "source" if place is None else place.name
    with (
        open_compilation_cache(c.log.compilation_cache, workdir),
        results_directory(workdir / EVALUATIONS_DIR, c.eval.name, name) as directory,
    ):
        results = _evaluate_suites(c, loaded, unread, place, directory, heartbeat)
        document = {"model": model, "step": taken, "name": directory.name, "suites": results}
        write_json(directory / RESULTS_FILE, document)
        table = format_table(document)
        write_text(directory / "table.md", table)
    print(table + f"\nresults  {directory}", flush=True)
    return directory


def _check_places(config: Config, workdir: Path, step: str) -> None:
    """Refuses at once what is not there, before anything is read."""
    e = config.eval
    for name in e.suites:
        find_suite(name, e.data_dir)
    if not e.suites:
        check_sources(config.data.eval, "data.eval")
    if not e.check_gold:
        check_parameters(config, workdir, step)
        if config.data.tokenizer:  # a model's own writes any text
            check_writable(e.suites, open_tokenizer(config), config.data.tokenizer)
        if e.name:
            require_no_results(workdir / EVALUATIONS_DIR / e.name)


def _evaluate_suites(
    config: Config,
    loaded: Sequence[LoadedSuite],
    unread: Mapping[str, Sequence[str]],
    place: Place | None,
    directory: Path,
    heartbeat: Heartbeat,
) -> dict[str, Any]:
    """Evaluates all suites, archives the attempts in `directory`, and returns the summaries."""
    c, taken = config, 0 if place is None else place.step
    results: dict[str, Any] = {}
    params: Params | None = None
    archive = AttemptArchive(directory)
    grouped: dict[Config, list[LoadedSuite]] = {}  # suites with the same settings
    for member in loaded:
        grouped.setdefault(suite_config(c, member.suite), []).append(member)
    with contextlib.ExitStack() as stack:
        same = None
        if c.eval.majority:
            same = _same_answers(stack.enter_context(open_pool(c.verifier, "math")))
        for shared, members in grouped.items():
            most = max(len(member.items) for member in members) * shared.eval.samples
            heartbeat.begin("evaluate", "verifier and weights")
            with open_parts(shared, sequences=most, heartbeat=heartbeat) as parts:
                params = params or load_parameters(c, parts.policy, place)
                for member in members:
                    heartbeat.begin(f"evaluate {member.suite.name}", "estimates")
                    metrics, attempts = evaluate_suite(member, shared, parts, params, same)
                    archive.write(member.suite.name, taken, attempts)
                    summary = _summary(member, shared, metrics, attempts)
                    for line in summary["errors"]:
                        print(f"warning  {line}", flush=True)
                    print_gain(metrics)
                    summary |= {"unread_answers": unread[member.suite.name]}
                    results[member.suite.name] = summary
    return results


def load_suites(config: Config) -> list[LoadedSuite]:
    """The suites of `config.eval.suites`; without any, the problems of `config.data.eval`."""
    c, e = config, config.eval
    if e.suites:
        return [
            load_suite(name, e.data_dir, e.suite_problems, e.released_from, e.released_until)
            for name in dict.fromkeys(e.suites)
        ]
    opened = open_evaluation(c)
    problems = opened.first(c.data.eval_problems, "data.eval_problems")
    places = {p.id: opened.places.get(p.id, f"{c.data.eval}:{p.id}") for p in problems}
    items = [Item(p, places[p.id], solution=given_solution(p)) for p in problems]
    own = Suite(
        OWN,
        (),
        hub=None,
        item=None,
        protocol="config.eval",
        prompt=c.data.prompt_template,
        correction_prompt=c.data.correction_template,
        samples=e.samples,
        temperature=c.sampling.temperature,
        pass_at=e.pass_at,
    )
    return [LoadedSuite(own, c.data.eval, items, [])]


def evaluate_suite(
    loaded: LoadedSuite,
    config: Config,
    parts: Parts,
    params: Params,
    same_answers: SameAnswers | None,
) -> tuple[dict[str, Estimate], list[Attempt]]:
    """Evaluates `params` on one suite: metrics by name, and all attempts.

    Args:
      config: as `suite_config` gives it; `parts` are opened with it.
    """
    suite, items, samples = loaded.suite, loaded.items, config.eval.samples
    key = jax.random.fold_in(random_key(config.seed), EVAL_KEY)
    if suite.name != OWN:
        key = jax.random.fold_in(key, zlib.crc32(suite.name.encode()))
    asked = [parts.prompts.base(item.problem) for item in items]
    groups = [item.group or item.problem.id for item in items]
    if suite.task == CORRECT:
        anchors = [_given(item, prompt) for item, prompt in zip(items, asked, strict=True)]
        write = parts.prompts.correction
        return evaluate_corrections(parts.attempt, params, anchors, write, samples, key, groups)
    if suite.task == CRITIQUE:
        return evaluate_critiques(parts.attempt, params, asked, samples, key, groups)
    source, own = config.data.eval, suite.name == OWN
    given = given_attempts(source, config.eval.given_attempts if own else 0, asked)
    return evaluate(
        parts.attempt,
        params,
        asked,
        parts.prompts.correction,
        samples=samples,
        pass_at=config.eval.pass_at,
        corrected_attempts=min(config.eval.corrected_attempts, samples),
        correction_rounds=config.eval.correction_rounds,
        key=key,
        given=given,
        same_answers=same_answers,
        true_lines=line_checker(source) if own else None,
    )


def format_table(document: Mapping[str, Any]) -> str:
    """The results as a markdown table, a row for each metric."""
    rows = []
    for name, suite in document["suites"].items():
        head = (name, suite["problems"], suite["samples"], f"{suite['temperature']:g}")
        for metric, e in suite["metrics"].items():
            digits = 1 if metric.startswith("length") else 3
            value, low, high = (f"{e[k]:.{digits}f}" for k in ("value", "low", "high"))
            rows.append((*head, metric, value, f"{low} to {high}"))
    titles = ("suite", "problems", "samples", "temperature", "metric", "value", "95% interval")
    title = f"# {document['model']}, step {document['step']}"
    return "\n".join([title, "", *markdown_table(titles, rows)]) + "\n"


def suite_config(config: Config, suite: Suite) -> Config:
    """The config under which a suite is asked: its templates, temperature and samples."""
    e, replace = config.eval, dataclasses.replace
    samples, temperature = suite.samples, suite.temperature
    if suite.name != OWN:
        samples = e.suite_samples or samples
        temperature = temperature if e.suite_temperature == -1 else e.suite_temperature
    pass_at = tuple(k for k in suite.pass_at if k <= samples)
    corrected = 1 if suite.task == CORRECT else e.corrected_attempts
    data = replace(
        config.data, prompt_template=suite.prompt, correction_template=suite.correction_prompt
    )
    return replace(
        config,
        data=data,
        sampling=replace(config.sampling, temperature=temperature),
        verifier=replace(config.verifier, kind=suite_kind(config.verifier)),
        eval=replace(e, samples=samples, pass_at=pass_at, corrected_attempts=corrected),
    )


def _check_lengths(config: Config, loaded: Sequence[LoadedSuite]) -> None:
    tokenizer = open_tokenizer(config)
    for member in loaded:
        prompts = open_prompts(suite_config(config, member.suite), tokenizer)
        for item in member.items:
            try:
                prompts.base(item.problem)
            except CipoError as error:
                raise CipoError(f"{item.where}: {error}") from error


def _same_answers(pool: VerifierPool) -> SameAnswers:
    """Whether answers are equal, in the pool: a pair that hangs costs its worker."""

    def same(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        def completion(pair: tuple[str, str]) -> tuple[Problem, str]:
            return Problem("answers", "", answer=pair[0]), f"\\boxed{{{pair[1]}}}"

        return [verdict.correct for _, verdict in verdicts(pool, pairs, completion)]

    return same


def _errors_of(suite: str, attempts: Sequence[Attempt]) -> list[str]:
    """How many attempts have no verdict, and why, the most frequent reasons first; [] for none."""
    failed = [a for a in attempts if not a.judged]
    if not failed:
        return []
    problems = len({a.problem.id for a in failed})
    reasons = collections.Counter(
        a.verdict.detail.replace(f"problem {a.problem.id!r}", "a problem") for a in failed
    )
    first = f"{suite}: {len(failed)} of {len(attempts)} attempts, of {problems} problems, have no "
    first += (
        "verdict and count as neither right nor wrong: tests, verifier or sandbox are at fault. "
        f"They have the outcome error in attempts/{suite}-*.jsonl.gz"
    )
    shown = [printable(f"{suite}: {n} times: {why[:200]}") for why, n in reasons.most_common(3)]
    return [first, *shown]


def _given(item: Item, prompt: Prompt) -> Attempt:
    """The item's attempt; a suite of this task has one in every item."""
    assert item.given is not None
    return given_attempt(prompt, item.given, bool(item.given_correct))


def _summary(
    loaded: LoadedSuite, config: Config, metrics: Mapping[str, Estimate], attempts: list[Attempt]
) -> dict[str, Any]:
    return {
        "source": loaded.source,
        "protocol": loaded.suite.protocol,
        "problems": len(loaded.items),
        "skipped": loaded.skipped,
        "samples": config.eval.samples,
        "temperature": config.sampling.temperature,
        "sampled_tokens": sum(len(a.completion.tokens) for a in attempts),
        "errors": _errors_of(loaded.suite.name, attempts),
        "metrics": {name: dataclasses.asdict(e) for name, e in metrics.items()},
    }
