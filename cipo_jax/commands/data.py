"""What is in the data and what is wrong with it: `--mode=data`, before anything is trained.

    python -m cipo_jax.main --mode=data --config=configs/math.py --config.data.train=train.jsonl

prints the sources with their fingerprints; how long prompts are in tokens and which share is over
the budget; repeated questions; questions that `data.eval` or `eval.suites` also have; reference
answers that the verifier cannot read, and tests that it cannot run, unless it is a function of your
own; one base prompt and one correction prompt as the policy sees them. `--output=kept.jsonl` also
writes the problems that `data.drop` keeps. Nothing here uses an accelerator. An embedded task makes
any number of problems: those of the first step are checked.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cipo_jax.commands.gold import reads_answers, unread_answers
from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config, Data
from cipo_jax.data import mixture
from cipo_jax.data.datasets import Columns, Placed
from cipo_jax.data.decontaminate import find_duplicates
from cipo_jax.data.prompts import PromptWriter
from cipo_jax.data.sources import GENERATED, parse_sources
from cipo_jax.run import problems as problem_sets
from cipo_jax.run.parts import open_prompts, open_tokenizer
from cipo_jax.run.records.files import replacing
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError, Outcome, Problem, Verdict

_SHOWN = 5  # examples of each kind of finding
_BINS, _BAR = 10, 40  # rows and width of the histogram


def command(invocation: Invocation) -> None:
    """The mode."""
    config = invocation.config
    with Heartbeat(config.log.heartbeat_seconds) as heartbeat:
        inspect_data(config, invocation.flags["output"], heartbeat)


def inspect_data(
    config: Config, output: str | None = None, heartbeat: Heartbeat | None = None
) -> None:
    """Prints the findings; with `output`, writes the kept problems to that jsonl file.

    Raises:
      CipoError: data that cannot be read, with file and line, or `output` cannot be what is meant.
    """
    data, seed, heartbeat = config.data, config.seed, heartbeat or Heartbeat()
    if output:
        _check_output(Path(output), data)
    heartbeat.begin("data", "reading the problems")
    parts = problem_sets.load_training(data, seed)
    evaluation = problem_sets.load_evaluation(data)
    tokenizer = open_tokenizer(config)
    prompts = open_prompts(config, tokenizer)
    _print_sources("train", data, parts)
    _print_sources("eval", data, evaluation)
    placed = _looked_at(data, seed, parts, "train")

    heartbeat.begin("data", "lengths in tokens")
    fitting = _print_lengths(config, placed, prompts)
    heartbeat.begin("data", "repeated questions")
    _print_duplicates(placed)
    _print_overlap(config, problem_sets.all_placed(parts))
    for name, checked in (("train", placed), ("eval", _looked_at(data, seed, evaluation, "test"))):
        if reads_answers(config.verifier):
            heartbeat.begin("data", f"reading the answers of {name}")
            unread = unread_answers(checked, config.verifier)
            answers = sum(p.problem.answer is not None for p in checked)
            _print_findings(f"answers of {name} that the verifier cannot read", unread, answers)
        _print_tests(name, checked, config.verifier.kind)
    if fitting:
        _print_prompts(prompts, fitting[0].problem, tokenizer.show)
    else:
        print("\nno prompt fits, so none is shown")
    if output:
        reasons = problem_sets.find_reasons(data, config.eval, parts, prompts)
        names = data.question_column, data.answer_column, data.tests_column, data.id_column
        _write_kept(parts, reasons, Path(output), Columns(*names))


def _looked_at(data: Data, seed: int, parts: Sequence[mixture.Part], split: str) -> list[Placed]:
    """All problems of the parts that are lists, and some of those that a generator makes."""
    generated = problem_sets.first_generated(data, seed, parts, split)
    return [*problem_sets.all_placed(parts), *generated]


def _print_sources(name: str, data: Data, parts: Sequence[mixture.Part]) -> None:
    split = "train" if name == "train" else "test"
    generated = mixture.TaskSplit(split, data.min_operations, data.max_operations)
    total = sum(part.weight or 0.0 for part in parts)
    for source, about in mixture.fingerprints(parts, generated).items():
        part = next(part for part in parts if part.name == source)
        size = "unlimited"
        if part.placed is not None:
            tested = sum(p.problem.tests is not None for p in part.placed)
            size = f"{len(part.placed)} problems, {len(part.placed) - tested} with an answer, "
            size += f"{tested} with tests"
        weight = f", {part.weight / total:.1%} of the mixture" if part.weight else ""
        print(f"{name:<6} {source}: {size}{weight}, fingerprint {about['fingerprint']}")


def _print_lengths(config: Config, placed: Sequence[Placed], prompts: PromptWriter) -> list[Placed]:
    """Prints lengths in tokens; returns the problems whose base prompt fits its budget."""
    d = config.data
    measured, unwritable = [], []
    for at in placed:
        try:
            measured.append((at, *prompts.lengths(at.problem)))
        except CipoError as error:
            unwritable.append(f"{at.where}: {error}")
    if unwritable:
        _print_findings("prompts that cannot be made", unwritable, len(placed))
    if not measured:
        return []
    base = np.array([m[1] for m in measured])
    _print_histogram("base prompts", base, d.max_prompt_tokens, "data.max_prompt_tokens")
    over = [(at, length) for at, length, _ in measured if length > d.max_prompt_tokens]
    if long := [f"{at.where}: {length} tokens" for at, length in over]:
        _print_findings("prompts over data.max_prompt_tokens", long, len(measured))
    if config.correction.weight > 0:
        correction = np.array([m[2] for m in measured])
        room, budget = prompts.longest_correction(), "the longest that occurs in training"
        if config.batch.row_tokens:
            # A row of the train step holds the prompt and its completion.
            room = config.batch.row_tokens - d.max_completion_tokens
            budget = "batch.row_tokens - data.max_completion_tokens"
        _print_histogram("correction prompts, the attempt at its longest", correction, room, budget)
    return [at for at, length, _ in measured if length <= d.max_prompt_tokens]


def _print_histogram(title: str, lengths: np.ndarray, budget: int, key: str) -> None:
    over = int((lengths > budget).sum())
    print(
        f"\n{title}: {len(lengths)}, tokens min {lengths.min()}, median {np.median(lengths):.0f}, "
        f"95% {np.percentile(lengths, 95):.0f}, max {lengths.max()}; "
        f"over {key} = {budget}: {over} ({over / len(lengths):.2%})"
    )
    width = max(1, -(-(int(lengths.max()) - int(lengths.min()) + 1) // _BINS))
    edges = np.arange(lengths.min(), lengths.max() + width + 1, width)
    counts, _ = np.histogram(lengths, edges)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        bar = "#" * -(-int(count) * _BAR // int(counts.max()))
        print(f"  {low:>6} - {high - 1:<6} {count:>7}  {bar}".rstrip())


def _print_duplicates(placed: Sequence[Placed]) -> None:
    lines = []
    for position, earlier in find_duplicates([p.problem.question for p in placed]):
        (where, repeated), (first_where, first) = placed[position], placed[earlier]
        differs = repeated.answer != first.answer
        other = f", answer {repeated.answer!r} instead of {first.answer!r}" if differs else ""
        lines.append(f"{where}: repeats {first_where}{other}")
    _print_findings("repeated questions", lines, len(placed))


def _print_overlap(config: Config, placed: Sequence[Placed]) -> None:
    if not placed:
        print("\nquestions also in the evaluation data: a generator keeps its splits apart")
        return
    n = config.data.overlap_words
    matches = problem_sets.overlap(config.data, config.eval, placed)
    lines = []
    for m in matches:
        how = f"shares {m.words!r} with" if m.words else "is the same as"
        lines.append(f"{placed[m.position].where}: {how} {m.evaluation}")
    exact = sum(not m.words for m in matches)
    against = ", ".join(("data.eval", *config.eval.suites))
    title = f"questions also in {against} ({exact} equal, {len(matches) - exact} by {n} words)"
    _print_findings(title, lines, len(placed))


def _print_findings(title: str, lines: Sequence[str], total: int) -> None:
    share = f" ({len(lines) / total:.2%})" if total else ""
    print(f"\n{title}: {len(lines)} of {total}{share}")
    for line in lines[:_SHOWN]:
        print(f"  {line}")
    if len(lines) > _SHOWN:
        print(f"  and {len(lines) - _SHOWN} more")


def _print_tests(name: str, checked: Sequence[Placed], kind: str) -> None:
    """The problems whose tests cannot be run; nothing where none has tests, or none are run."""
    runs_tests = kind in ("code", "auto")
    tested = [at for at in checked if runs_tests and at.problem.tests is not None]
    wrong = [
        f"{at.where}: {why}"
        for at in tested
        if (why := problem_sets.malformed_tests(kind, at.problem))
    ]
    if tested:
        _print_findings(f"tests of {name} that the verifier cannot run", wrong, len(tested))


def _print_prompts(prompts: PromptWriter, problem: Problem, show: Callable) -> None:
    """A base prompt, and a correction prompt that quotes the source's own solution, or "..." where
    there is none that the tokenizer can write: training does not need it."""
    base = prompts.base(problem)
    solution = problem.meta.get("solution")
    quoted = functools.partial(problem_sets.attempt_as_text, base, verdict=Verdict(Outcome.WRONG))
    try:
        correction = prompts.correction(quoted(solution if isinstance(solution, str) else "..."))
    except CipoError:
        correction = prompts.correction(quoted("..."))
    cut = ", the attempt cut in the middle" if correction.trimmed else ""
    for title, prompt in (("base prompt", base), (f"correction prompt{cut}", correction)):
        head = f"----- {title}, {len(prompt.tokens)} tokens -----"
        print(f"\n{head}\n{show(prompt.tokens)}\n----- end -----")


def _check_output(file: Path, data: Data) -> None:
    """Raises CipoError if the kept problems cannot be written there, or would replace their
    source."""
    train, evaluation = (
        [source.name for source in parse_sources(text, key)]
        for text, key in ((data.train, "data.train"), (data.eval, "data.eval"))
    )
    if GENERATED.keys() >= set(train):
        why = "an embedded task is no list of problems to write"
    elif any(file.resolve() == Path(name).resolve() for name in (*train, *evaluation)):
        why = "is a source of the data, which it would replace; wanted another file"
    elif file.is_dir() or not file.parent.is_dir():
        place = "is a directory" if file.is_dir() else "is in a directory that does not exist"
        why = f"{place}; wanted a jsonl file in one that does"
    elif file.suffix != ".jsonl":
        why = "is written as json lines; wanted a name that ends in .jsonl"
    else:
        return
    raise CipoError(f"--output={file}: {why}")


def _write_kept(
    parts: Sequence[mixture.Part], reasons: dict[str, str], file: Path, columns: Columns
) -> None:
    """Writes the kept problems so that the config that read them, with `columns`, reads them."""
    kept, dropped = problem_sets.drop(parts, reasons)
    problems = [placed.problem for placed in problem_sets.all_placed(kept)]
    with replacing(file) as temporary, temporary.open("w", encoding="utf-8") as out:
        for problem in problems:
            fields = dataclasses.asdict(problem)
            row = fields.pop("meta")
            row |= {columns.names(k)[0]: v for k, v in fields.items() if v is not None}
            out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    left_out = f"; left out: {problem_sets.shown_counts(dropped)}" if dropped else ""
    print(f"\n{len(problems)} problems written to {file}{left_out}")
