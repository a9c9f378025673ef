"""A run in three lines."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invented_run import make_attempt

from cipo_jax.run import comparison
from cipo_jax.run.evaluate import against_another_attempt
from cipo_jax.run.records.archive import AttemptArchive, read_attempts
from cipo_jax.run.records.metrics_file import MetricWriter
from cipo_jax.run.verdict import verdicts
from cipo_jax.types import Attempt, Outcome, Problem, Verdict


def run(
    workdir: Path, before: float, after: float, grad_norm: float = 1.0, archive: bool = True
) -> str:
    """The verdict on a run of four steps whose problems have these pass rates."""
    writer = MetricWriter(workdir, tensorboard=False)
    rng = np.random.default_rng(0)
    easy = rng.uniform(-0.3, 0.3, 40)  # problems differ more than the two evaluations
    for step, rate in ((0, before), (4, after)):
        attempts = [
            make_attempt(Problem(f"p{i}", "?", "1"), "", j < round(8 * (rate + easy[i])))
            for i in range(40)
            for j in range(8)
        ]
        if archive:
            AttemptArchive(workdir).write("eval", step, attempts)
        share = float(np.mean([a.correct for a in attempts]))
        writer.write(step, {"eval/pass@1": share, "eval/pass@1_stderr": 0.03}, "eval")
    for step in range(1, 5):
        idle = {"base/group/informative": 0.0, "base/truncated": 0.9} if grad_norm == 0 else {}
        writer.write(step, {"grad_norm": grad_norm, **idle}, "train")
    writer.close()
    return verdicts(workdir)[0]


@pytest.mark.parametrize(
    ("before", "after", "grad_norm", "wanted"),
    [
        (0.4, 0.6, 1.0, "learned: pass@1 "),
        (0.6, 0.2, 1.0, "collapsed: pass@1 "),
        (0.5, 0.5, 1.0, "no difference: pass@1 "),
        (0.5, 0.5, 0.0, "nothing to learn from: 4 of 4 steps had nothing to learn from (no mixed"),
        (0.4, 0.6, 0.0, "learned: pass@1 "),
    ],
)
def test_the_verdict(
    tmp_path: Path, before: float, after: float, grad_norm: float, wanted: str
) -> None:
    told = run(tmp_path, before, after, grad_norm)
    assert told.startswith(wanted) and "95% interval" in told and "over 40 problems" in told
    assert ("cut" in told) == wanted.startswith("nothing")


def test_the_interval_pairs_problems_where_there_is_an_archive(tmp_path: Path) -> None:
    assert run(tmp_path / "a", 0.45, 0.5).startswith("learned")
    without = run(tmp_path / "b", 0.45, 0.5, archive=False)
    assert without.startswith("no difference") and "from standard errors" in without


def test_without_archive_and_standard_errors_there_is_no_verdict(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step, rate in ((0, 0.2), (4, 0.3)):
        writer.write(step, {"eval/pass@1": rate}, "eval")
    writer.close()
    (told,) = verdicts(tmp_path)
    assert told.startswith("no verdict: the evaluations have no eval/pass@1 with a standard error")


@pytest.mark.parametrize("grad_norm", [0.0, 1.0])
def test_standard_errors_of_problems_that_do_not_differ_say_nothing(
    tmp_path: Path, grad_norm: float
) -> None:
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step, rate in ((0, 0.0), (4, 1.0)):
        writer.write(step, {"eval/pass@1": rate, "eval/pass@1_stderr": 0.0}, "eval")
    writer.write(1, {"grad_norm": grad_norm}, "train")
    writer.close()
    (told,) = verdicts(tmp_path)
    assert told.startswith("no verdict: pass@1 " if grad_norm else "nothing to learn from: 1 of 1 ")
    assert told.endswith(
        "pass@1 0.0% at step 0, 100.0% at step 4, difference +100.0 points (without an interval, "
        "as both standard errors are 0 and no attempts are archived)"
    )


def test_a_single_problem_shows_nothing(tmp_path: Path) -> None:
    problem = Problem("p", "?", "1")
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step, right in ((0, 2), (4, 7)):
        attempts = [make_attempt(problem, "", j < right) for j in range(8)]
        corrections = [make_attempt(problem, "", j < right, a) for j, a in enumerate(attempts)]
        AttemptArchive(tmp_path).write("eval", step, [*attempts, *corrections[-6:]])
        writer.write(step, {"eval/pass@1": right / 8}, "eval")
    writer.close()
    learned, *corrected = verdicts(tmp_path)
    assert learned.startswith("no difference: pass@1 25.0% at step 0, 87.5% at step 4")
    assert "(95% interval -" in learned and len(corrected) == 2
    assert not any("(95% interval +" in told for told in corrected)


def test_a_run_without_two_evaluations_has_no_verdict_yet(tmp_path: Path) -> None:
    assert verdicts(tmp_path) == ["no verdict yet: it takes two evaluations, there are 0"]
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"grad_norm": 0.0, "base/group/mixed": 0.0}, "train")
    writer.close()
    (told,) = verdicts(tmp_path)
    assert told.endswith("so far 1 of 1 steps had nothing to learn from (no mixed group)")


def test_attempts_without_a_verdict_are_left_out(tmp_path: Path) -> None:
    """An outage of the verifier in the last evaluation is no collapse."""
    problems = [Problem(f"p{i}", "?", "1") for i in range(40)]
    for step in (0, 4):
        attempts = [make_attempt(p, "", right) for p in problems for right in (True, True, False)]
        if step:
            lost = Verdict(Outcome.ERROR)
            attempts += [dataclasses.replace(a, verdict=lost) for a in attempts]
        AttemptArchive(tmp_path).write("eval", step, attempts)
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step in (0, 4):
        writer.write(step, {"eval/error": step / 8}, "eval")
    writer.close()
    (told,) = verdicts(tmp_path)
    assert told.startswith("no difference: pass@1 66.7% at step 0, 66.7% at step 4")


def beside_another(
    chains: Sequence[Sequence[Attempt]], groups: Sequence[Sequence[Attempt]]
) -> dict[str, float]:
    """The metrics of an evaluation about these."""
    return {f"eval/{k}": e.value for k, e in against_another_attempt(chains, groups).items()}


def test_corrections_are_counted_by_hand(tmp_path: Path) -> None:
    """8 of 10 problems get a wrong attempt; 2 of those are mended first, 6 in the end, while one
    right attempt of two is spoilt. Another attempt is right at 1 of the 8 first, at 4 at last."""
    problems = [Problem(f"p{i}", "?", "1") for i in range(10)]
    base = [make_attempt(p, "", i >= 8) for i, p in enumerate(problems)]
    archive, writer = AttemptArchive(tmp_path), MetricWriter(tmp_path, tensorboard=False)
    for step, mended, solved in ((0, 2, 1), (4, 6, 4)):
        after = [i < mended or i == 8 for i in range(10)]
        corrections = [make_attempt(a.problem, "", r, a) for a, r in zip(base, after, strict=True)]
        others = [make_attempt(p, "", i < solved) for i, p in enumerate(problems)]
        archive.write("eval", step, [*base, *others, *corrections])
        chains = list(zip(base, corrections, strict=True))
        groups = list(zip(base, others, strict=True))
        writer.write(step, {"eval/pass@1": 0.2} | beside_another(chains, groups), "eval")
        assert len(verdicts(tmp_path)) == (1 if step == 0 else 3)
    writer.close()
    _, after, wrong = verdicts(tmp_path)
    assert after.startswith(
        "corrections: right after a correction 70.0%, before it 20.0%: +50.0 points (95% interval "
    )
    assert wrong.startswith(
        "wrong attempts: mended 25.0% of 8, then 75.0% of 8: +50.0 points (95% interval "
    )
    assert wrong.endswith("; another attempt is right in 12.5%, then in 50.0%")


def test_attempts_wrong_at_first_are_followed(tmp_path: Path) -> None:
    """8 of 10 problems get a wrong attempt: 2 are mended then, 6 of the same in the end. Of 2 that
    are wrong in the end none is mended."""
    problems = [Problem(f"p{i}", "?", "1") for i in range(10)]
    archive, writer = AttemptArchive(tmp_path), MetricWriter(tmp_path, tensorboard=False)
    first = [make_attempt(p, "", i >= 8) for i, p in enumerate(problems)]
    mended = [make_attempt(a.problem, "", i < 2, a) for i, a in enumerate(first)]
    archive.write("eval", 0, [*first, *mended])
    last = [make_attempt(p, "", i >= 2) for i, p in enumerate(problems)]
    mended = [make_attempt(a.problem, "", a.correct, a) for a in last]
    again = [make_attempt(a.problem, "", i < 6, a) for i, a in enumerate(first[:8])]
    archive.write("eval", 4, [*last, *mended], again)
    another = "resampled_w2r"
    for step, then, now in ((0, 0.125, 0.125), (4, 0.5, 0.25)):
        followed = {"eval/first_wrong/w2r": then, f"eval/first_wrong/{another}": then}
        writer.write(step, followed | {f"eval/correction/{another}": now}, "eval")
    writer.close()
    _, after, wrong = verdicts(tmp_path)
    assert after.startswith("corrections: right after a correction 80.0%, before it 80.0%: ")
    assert wrong.startswith(
        "wrong attempts: of 8 at step 0, mended then 25.0%, at step 4 75.0%: +50.0 points (95% "
    )
    assert wrong.endswith(
        "; another attempt is right in 12.5%, then in 50.0%; of 2 at step 4, mended 0.0%; another "
        "attempt is right in 25.0%"
    )


def test_a_run_that_has_not_followed_them_from_its_start_compares_those_of_each_time(
    tmp_path: Path,
) -> None:
    """As where a run of an older version is continued."""
    archive, writer = AttemptArchive(tmp_path), MetricWriter(tmp_path, tensorboard=False)
    base = [make_attempt(Problem(f"p{i}", "?", "1"), "", False) for i in range(4)]
    for step, of_first, followed in (
        (0, (), {}),
        (4, [make_attempt(a.problem, "", True, a) for a in base], {"eval/first_wrong/w2r": 1.0}),
    ):
        corrections = [make_attempt(a.problem, "", i < step, a) for i, a in enumerate(base)]
        archive.write("eval", step, [*base, *corrections], of_first)
        writer.write(step, {"eval/pass@1": 0.0} | followed, "eval")
    writer.close()
    told = verdicts(tmp_path)[2]
    assert told.startswith("wrong attempts: mended 0.0% of 4, then 100.0% of 4: +100.0 points")


def test_one_attempt_a_problem_says_nothing_of_another(tmp_path: Path) -> None:
    base = [make_attempt(Problem(f"p{i}", "?", "1"), "", False) for i in range(4)]
    archive, writer = AttemptArchive(tmp_path), MetricWriter(tmp_path, tensorboard=False)
    corrections = [make_attempt(a.problem, "", True, a) for a in base]
    chains = list(zip(base, corrections, strict=True))
    for step in (0, 4):
        archive.write("eval", step, [*base, *corrections])
        alone = beside_another(chains, [[a] for a in base])
        writer.write(step, {"eval/pass@1": 0.0} | alone, "eval")
    writer.close()
    told = verdicts(tmp_path)[2]
    assert "mended 100.0% of 4, then 100.0% of 4" in told and "another" not in told


def test_corrections_that_are_not_evaluated_are_not_told_of(tmp_path: Path) -> None:
    run(tmp_path, 0.4, 0.6)
    assert len(verdicts(tmp_path)) == 1


def test_the_archive_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[set[int]] = []

    def reading(workdir: Path, phase: str, steps: set[int]) -> Iterator[Any]:
        read.append(steps)
        return read_attempts(workdir, phase, steps)

    monkeypatch.setattr(comparison, "read_attempts", reading)
    run(tmp_path, 0.4, 0.6)
    assert read == [{0}, {4}]
    # What has been counted is not read again.
    evaluations = [{"step": 0}, {"step": 2}, {"step": 4}]
    ends = comparison.count_ends(tmp_path, evaluations)
    assert verdicts(tmp_path, ends) and read == 2 * [{0}, {4}]
