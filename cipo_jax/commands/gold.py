"""Does our verifier agree with a suite's own answers? If not, scores say little about a model.

`read_answers` names the reference answers that cannot be read as mathematics; it takes a second
and runs before every evaluation, unless the verifier is a function of the user's own. `check_gold`
verifies all that is known to be right or wrong: reference answers, reference solutions, and given
attempts against their labels. Neither touches an accelerator.
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from cipo_jax.config.keys import Verifier
from cipo_jax.data.benchmarks.rows import Item
from cipo_jax.data.benchmarks.suites import LoadedSuite
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import Problem, Verdict
from cipo_jax.verifiers.judge import open_pool, suite_kind, verdicts

READER = "cipo_jax.verifiers.math.gold:read_gold"


@dataclasses.dataclass(frozen=True)
class GoldResult:
    """The verdicts on one kind of text of one suite.

    Attributes:
      kind: "answer", "solution" or "given"; "" if the suite has none of them.
      total: how many were verified.
      failures: (place, id, verdict, expected) of those whose verdict was not the expected one.
    """

    suite: str
    kind: str
    total: int
    failures: list[tuple[str, str, Verdict, bool]]


def reads_answers(verifier: Verifier) -> bool:
    """Whether reference answers are read as mathematics: a function of the user's own may read them
    in any way."""
    return suite_kind(verifier) == "auto"


def read_answers(suites: Sequence[LoadedSuite], verifier: Verifier) -> dict[str, list[str]]:
    """{suite: `unread_answers` of its items}."""
    found: dict[str, list[str]] = {loaded.suite.name: [] for loaded in suites}
    items = [(loaded.suite.name, item) for loaded in suites for item in loaded.items]
    placed = ((name, item.where, item.problem) for name, item in items)
    for name, line in _unread(placed, verifier):
        found[name].append(line)
    return found


def unread_answers(placed: Iterable[tuple[str, Problem]], verifier: Verifier) -> list[str]:
    """One line, with file and line, for each reference answer that cannot be read; none unless
    `reads_answers`.

    Args:
      placed: (place, problem); problems without an answer are skipped.
    """
    return [line for _, line in _unread((("", *at) for at in placed), verifier)]


def check_gold(
    suites: Sequence[LoadedSuite], verifier: Verifier, heartbeat: Heartbeat | None = None
) -> list[GoldResult]:
    """Verifies what the suites say is right, or wrong, by the verifier that judges completions; a
    `heartbeat` says how much has been."""
    results, heartbeat = list[GoldResult](), heartbeat or Heartbeat()
    with open_pool(verifier, suite_kind(verifier)) as pool:
        for loaded in suites:
            known = [(item, *text) for item in loaded.items for text in _known_texts(item)]
            totals: collections.Counter[str] = collections.Counter()
            failures = collections.defaultdict(list)
            heartbeat.begin(f"gold {loaded.suite.name}")
            judged = verdicts(pool, known, lambda text: (text[0].problem, text[2]))
            counted = heartbeat.counting(judged, "verified", len(known))
            for (item, kind, _, right), verdict in counted:
                totals[kind] += 1
                if verdict.correct != right or not verdict.judged:
                    failures[kind].append((item.where, item.problem.id, verdict, right))
            results += [
                GoldResult(loaded.suite.name, kind, total, failures[kind])
                for kind, total in (totals or {"": 0}).items()
            ]
    return results


def print_gold(results: Sequence[GoldResult], skipped: Sequence[str], shown: int = 50) -> None:
    """A line for each suite and kind of text, then each failure with its place and verdict."""
    for result in results:
        if not result.total:
            print(
                f"{result.suite:28} nothing to verify: no answers, solutions or labelled attempts"
            )
            continue
        agreeing = result.total - len(result.failures)
        print(
            f"{result.suite:28} {result.kind:9} {agreeing:5} of {result.total:5} as expected "
            f"({agreeing / result.total:.2%})"
        )
    for reason in skipped:
        print(f"left out   {reason}")
    for result in results:
        for where, name, verdict, right in result.failures[:shown]:
            said = f"expected {'correct' if right else 'a failure'}, got {verdict.outcome.value}"
            reason = verdict.detail or f"answer {verdict.extracted!r:.60}"
            print(f"{result.suite} {result.kind} {name!r}: {said} ({reason:.120}) at {where}")
        if len(result.failures) > shown:
            print(f"{result.suite} {result.kind}: and {len(result.failures) - shown} more")


def _unread(
    placed: Iterable[tuple[str, str, Problem]], verifier: Verifier
) -> Iterator[tuple[str, str]]:
    """(name, line) of each answer among (name, place, problem) that cannot be read."""
    with_answer = [at for at in placed if at[2].answer is not None]
    if not with_answer or not reads_answers(verifier):
        return
    with open_pool(verifier, READER) as pool:
        for at, verdict in verdicts(pool, with_answer, lambda at: (at[2], "")):
            if not verdict.correct:
                name, where, problem = at
                why = verdict.detail or verdict.outcome.value
                yield name, f"{where}: answer of {problem.id!r}: {problem.answer!r:.80}: {why}"


def _known_texts(item: Item) -> Iterator[tuple[str, str, bool]]:
    """(kind, completion, whether it is right) of all that the row says."""
    if item.problem.answer is not None:
        yield "answer", f"\\boxed{{{item.problem.answer}}}", True
    if item.solution is not None:
        yield "solution", item.solution, True
    if item.given is not None and item.given_correct is not None:
        yield "given", item.given, item.given_correct
