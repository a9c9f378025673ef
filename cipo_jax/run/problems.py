"""The problems of a run: read, checked, cleaned and identified, before an accelerator is touched.

A training problem whose prompt exceeds the budget, or cannot be written by the tokenizer, would end
a run at the step that draws it; here it is found at the start (of a generator, if it is among its
first problems). `config.data.drop` leaves out what is too long, repeated, or also in the evaluation
data. How each is found is decided in `data/`;
`commands/data.py` reports the same findings.
"""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cipo_jax.config.keys import Config, Data, Eval
from cipo_jax.data.benchmarks.suites import find_suite, load_suite
from cipo_jax.data.datasets import Columns, Placed, ProblemSource
from cipo_jax.data.decontaminate import Match, find_duplicates, find_overlap
from cipo_jax.data.mixture import Part, TaskSplit, fingerprints, load_parts, open_mixture
from cipo_jax.data.prompts import PromptWriter
from cipo_jax.data.sources import GENERATED, check_sources
from cipo_jax.data.tasks.generated import TrueLines, given_solutions
from cipo_jax.types import Attempt, CipoError, Completion, Outcome, Problem, Prompt, Verdict
from cipo_jax.verifiers.code.specification import check_tests

GENERATED_CHECKED = 256  # problems of a generator at most


@dataclasses.dataclass(frozen=True)
class ProblemSet:
    """Problems to train or to evaluate on.

    Attributes:
      source: in the order of training or evaluation.
      dropped: {reason of config.data.drop: problems left out}, the first reason that holds.
      fingerprints: as `mixture.fingerprints`.
      places: {problem id: "file:line"} of all that are not generated.
    """

    source: ProblemSource
    dropped: dict[str, int]
    fingerprints: dict[str, dict[str, Any]]
    places: dict[str, str]

    def first(self, count: int, key: str) -> list[Problem]:
        """As `source.first`.

        Args:
          key: of the config, which says how many.

        Raises:
          CipoError: as there, with the key.
        """
        try:
            return self.source.first(count)
        except CipoError as error:
            raise CipoError(f"config.{key}: {error}") from error


def check_places(config: Config) -> None:
    """Refuses sources of training and of its evaluations that do not exist, before anything that
    takes time. What is in them is checked where they are opened.

    Raises:
      CipoError: as `sources.check_sources` and `suites.find_suite`.
    """
    check_sources(config.data.train, "data.train")
    check_sources(config.data.eval, "data.eval")
    if config.cold_start.max_steps and not config.init_from:
        check_sources(config.cold_start.demonstrations, "cold_start.demonstrations")
    if "overlap" in config.data.drop:
        for name in config.eval.suites:
            find_suite(name, config.eval.data_dir)


def open_training(config: Config, prompts: PromptWriter, split: str = "train") -> ProblemSet:
    """The problems to train on ("train"), or to watch the cold start with ("dev": apart from
    "train" where the source is a generator).

    Raises:
      CipoError: anything wrong with the data, a prompt that is too long or cannot be written and
        is not to be dropped, or nothing left.
    """
    parts = load_training(config.data, config.seed, split)
    reasons = find_reasons(config.data, config.eval, parts, prompts)
    # Those of "dev" are like them, and take longer to find.
    for at in first_generated(config.data, config.seed, parts, split) if split == "train" else ():
        if (length := _length(at, prompts)) > config.data.max_prompt_tokens:
            raise _over_budget(at, length, config.data, "or lower config.data.max_operations")
    kept, dropped = drop(parts, reasons)
    if dropped and split == "train":
        left = sum(len(part.placed or ()) for part in kept)
        print(f"data     {left} problems to train on; left out: {shown_counts(dropped)}")
    task_split = _task_split(config.data, split)
    source = open_mixture(kept, config.seed, task_split)
    _check_judged(config, kept, task_split, "data.train")
    return ProblemSet(source, dropped, fingerprints(kept, task_split), _places(kept))


def open_evaluation(config: Config) -> ProblemSet:
    """The problems of `config.data.eval`, as they are.

    Raises:
      CipoError: anything wrong with the data.
    """
    parts, task_split = load_evaluation(config.data), _task_split(config.data, "test")
    source = open_mixture(parts, config.seed, task_split)
    _check_judged(config, parts, task_split, "data.eval")
    return ProblemSet(source, {}, fingerprints(parts, task_split), _places(parts))


def evaluation_prompts(
    config: Config, opened: ProblemSet, prompts: PromptWriter
) -> tuple[list[Prompt], list[Attempt]]:
    """What a run's own evaluations ask: prompts, and the given attempts that are to be corrected.

    Args:
      opened: as `open_evaluation`.

    Raises:
      CipoError: too few problems, a prompt that is too long or cannot be written, or no given
        attempts can be made.
    """
    problems = opened.first(config.data.eval_problems, "data.eval_problems")
    try:
        asked = [prompts.base(problem) for problem in problems]
    except CipoError as error:
        raise CipoError(f"config.data.eval: {error}") from error
    return asked, given_attempts(config.data.eval, config.eval.given_attempts, asked)


def given_attempts(name: str, wrong: int, prompts: Sequence[Prompt]) -> list[Attempt]:
    """Attempts at the problems of `prompts` that the embedded task makes, to see how a policy
    corrects attempts that are not its own: `wrong` wrong ones each, and the right one.

    Args:
      name: config.data.eval, where the problems are from.
      wrong: config.eval.given_attempts; 0 gives none.

    Raises:
      CipoError: they are asked for, and `name` is not an embedded task.
    """
    if not wrong:
        return []
    if name not in GENERATED:
        raise CipoError(
            f"config.eval.given_attempts: got {wrong}, wanted 0 with config.data.eval={name!r}: "
            f"only {', '.join(GENERATED)} can make attempts"
        )
    return [
        given_attempt(prompt, text, right)
        for prompt in prompts
        for text, right in given_solutions(GENERATED[name], prompt.problem, wrong)
    ]


def line_checker(source: str) -> TrueLines | None:
    """Tells which lines of attempts at the problems of a source (config.data.eval, config.data.
    train) are true; None if it is no embedded task, or one whose lines cannot be checked."""
    return GENERATED[source].true_lines if source in GENERATED else None


def given_attempt(prompt: Prompt, text: str, right: bool) -> Attempt:
    """An attempt from the data, with the data's label for a verdict."""
    outcome = Outcome.CORRECT if right else Outcome.WRONG
    return attempt_as_text(prompt, text, Verdict(outcome, detail="given by the data"))


def attempt_as_text(prompt: Prompt, text: str, verdict: Verdict) -> Attempt:
    """An attempt to be quoted, whose tokens are not known."""
    nothing = Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), finished=True)
    return Attempt(prompt, nothing, text, verdict)


def load_training(data: Data, seed: int, split: str = "train") -> list[Part]:
    """The sources of `data.train`, before anything is left out. To train on, a generator is a list
    of its first `data.train_problems`, unless that is 0.

    Raises:
      CipoError: anything wrong with a source, or there is no generator to limit.
    """
    d = data
    parts = load_parts(d.train, _columns(d), "data.train")
    if not d.train_problems or split != "train":
        return parts
    if all(part.placed is not None for part in parts):
        raise CipoError(
            f"config.data.train_problems: got {d.train_problems}, wanted 0 with config.data.train="
            f"{d.train!r}: only {', '.join(GENERATED)} make as many problems as are wanted"
        )
    listed = []
    for part in parts:
        if part.placed is None:  # a generator's first problems are the same for every seed
            alone = dataclasses.replace(part, weight=None)
            first = open_mixture([alone], seed, _task_split(d, split)).first(d.train_problems)
            placed = tuple(Placed(f"{part.name}:{p.id}", p) for p in first)
            part = dataclasses.replace(part, placed=placed)
        listed.append(part)
    return listed


def load_evaluation(data: Data) -> list[Part]:
    """The sources of `data.eval`."""
    return load_parts(data.eval, _columns(data), "data.eval")


def find_reasons(
    data: Data, evaluation: Eval, parts: Sequence[Part], prompts: PromptWriter
) -> dict[str, str]:
    """{problem id: the reason of `data.drop` to leave it out}, the first that holds.

    Raises:
      CipoError: a prompt that is too long and not to be dropped, or cannot be written.
    """
    d = data
    placed = all_placed(parts)
    reasons: dict[str, str] = {}
    if "overlap" in d.drop:
        matches = overlap(d, evaluation, placed)
        reasons |= {placed[m.position].problem.id: "overlap" for m in matches}
    if "duplicates" in d.drop:
        for position, _ in find_duplicates([p.problem.question for p in placed]):
            reasons.setdefault(placed[position].problem.id, "duplicates")
    for at in placed:
        if at.problem.id in reasons:
            continue
        length = _length(at, prompts)
        if length <= d.max_prompt_tokens:
            continue
        if "too_long" not in d.drop:
            way = "or leave such problems out by --config.data.drop=\"('too_long',)\" "
            raise _over_budget(at, length, d, f"{way}(--mode=data shows how many there are)")
        reasons[at.problem.id] = "too_long"
    return reasons


def drop(parts: Sequence[Part], reasons: dict[str, str]) -> tuple[list[Part], dict[str, int]]:
    """The parts without the problems of `reasons`, and how many each reason left out.

    Raises:
      CipoError: a source with nothing left.
    """
    kept = []
    for part in parts:
        if part.placed is not None:
            rest = tuple(p for p in part.placed if p.problem.id not in reasons)
            if not rest:
                counts = collections.Counter(reasons[p.problem.id] for p in part.placed)
                raise CipoError(
                    f"config.data.drop: leaves none of the {len(part.placed)} problems of "
                    f"{part.name} ({shown_counts(counts)}); see --mode=data"
                )
            part = dataclasses.replace(part, placed=rest)
        kept.append(part)
    return kept, dict(collections.Counter(reasons.values()))


def shown_counts(counts: dict[str, int]) -> str:
    """As "3 overlap, 1 too_long"."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def needed_but_missing(kind: str, problem: Problem) -> tuple[str, ...]:
    """The fields of which a verifier needs one, if the problem has none of them."""
    by_kind = {"math": ("answer",), "code": ("tests",), "auto": ("answer", "tests")}
    fields = by_kind.get(kind, ())  # your own function may need anything
    return () if any(getattr(problem, field) is not None for field in fields) else fields


def malformed_tests(kind: str, problem: Problem) -> str:
    """Why a verifier of programs cannot run the problem's tests; "" if it can, or does not."""
    if kind in ("code", "auto") and problem.tests is not None:
        try:
            check_tests(problem)
        except CipoError as error:
            return str(error)
    return ""


def all_placed(parts: Sequence[Part]) -> list[Placed]:
    """The problems of all parts that have an end."""
    return [placed for part in parts for placed in part.placed or ()]


def first_generated(data: Data, seed: int, parts: Sequence[Part], split: str) -> list[Placed]:
    """Some problems of each part that has no end, by which it is checked."""
    found = []
    for part in parts:
        if part.placed is None:
            source = open_mixture(
                [dataclasses.replace(part, weight=None)], seed, _task_split(data, split)
            )
            # Those of the first step; `batch` would ask for as many different ones.
            first = itertools.islice(source.offer(0, 0), GENERATED_CHECKED)
            found += [Placed(f"{part.name}:{p.id}", p) for p in first]
    return found


def overlap(data: Data, evaluation: Eval, placed: Sequence[Placed]) -> list[Match]:
    """The problems that `data.eval` or `eval.suites` also have. A generator keeps its splits apart
    by itself and is left out.

    Raises:
      CipoError: anything wrong with the evaluation data.
    """
    against = [(p.where, p.problem.question) for p in all_placed(load_evaluation(data))]
    for name in dict.fromkeys(evaluation.suites):
        loaded = load_suite(name, evaluation.data_dir)
        for item in loaded.items:
            against += [(item.where, q) for q in (item.plain, item.problem.question) if q]
    questions = [p.problem.question for p in placed]
    return find_overlap(questions, against, data.overlap_words)


def _places(parts: Sequence[Part]) -> dict[str, str]:
    return {placed.problem.id: placed.where for placed in all_placed(parts)}


def _check_judged(config: Config, parts: Sequence[Part], split: TaskSplit, key: str) -> None:
    """Refuses problems without what the verifier needs; a generator's are all like its first."""
    kind, found = config.verifier.kind, [(p.where, p.problem) for p in all_placed(parts)]
    for part in parts:
        if part.placed is None:
            alone = open_mixture([dataclasses.replace(part, weight=None)], config.seed, split)
            found.append((f"the first problem of {part.name}", alone.first(1)[0]))
    for where, problem in found:
        if missing := needed_but_missing(kind, problem):
            raise CipoError(
                f"config.verifier.kind: got {kind!r}, but in config.{key} {where} "
                f"has no {' and no '.join(missing)}; wanted a verifier for such problems ('math' "
                "needs answers, 'code' tests, 'auto' one of them), or the column's name in "
                "config.data.answer_column or config.data.tests_column"
            )
        if wrong := malformed_tests(kind, problem):
            raise CipoError(f"config.{key}: {where}: {wrong}")


def _length(at: Placed, prompts: PromptWriter) -> int:
    """The tokens of a training problem's base prompt.

    Raises:
      CipoError: one of its prompts cannot be written.
    """
    try:
        return prompts.lengths(at.problem)[0]
    except CipoError as error:
        raise CipoError(f"config.data.train: {at.where}: {error}") from error


def _over_budget(at: Placed, length: int, data: Data, way: str) -> CipoError:
    return CipoError(
        f"config.data.train: {at.where}: the prompt of problem {at.problem.id!r} takes {length} "
        f"tokens, the budget is config.data.max_prompt_tokens = {data.max_prompt_tokens}; raise "
        f"it, {way}"
    )


def _columns(d: Data) -> Columns:
    return Columns(d.question_column, d.answer_column, d.tests_column, d.id_column)


def _task_split(data: Data, split: str) -> TaskSplit:
    return TaskSplit(split, data.min_operations, data.max_operations)
