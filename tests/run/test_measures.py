"""Metric definitions, by attempts made by hand."""

import re

import numpy as np
import pytest
from places import ROOT

from cipo_jax.config.keys import Algorithm, Verifier
from cipo_jax.rl.anchors import Selection
from cipo_jax.run.measures import (
    METRICS,
    Metric,
    device_measures,
    find_metric,
    pass_rate_histogram,
    reduce_attempts,
    reference,
    stream_measures,
)
from cipo_jax.run.transitions import transitions
from cipo_jax.types import Attempt, Completion, Outcome, Problem, Prompt, Verdict

PROBLEM = Problem("p", "1+1?", "2")


def attempt(
    outcome: Outcome,
    *,
    text: str = "text",
    extracted: str | None = None,
    tokens: int = 3,
    finished: bool = True,
    anchor: Attempt | None = None,
) -> Attempt:
    return Attempt(
        Prompt(PROBLEM, np.zeros(2, np.int32), anchor),
        Completion(np.zeros(tokens, np.int32), np.zeros(tokens, np.float32), finished),
        text,
        Verdict(outcome, extracted),
    )


def test_reduce_attempts_by_hand():
    o = Outcome
    attempts = [
        # three groups of four: all right, all wrong in four ways, mixed
        *[attempt(o.CORRECT, tokens=t) for t in (10, 20, 30, 40)],
        *[attempt(outcome) for outcome in (o.WRONG, o.NO_ANSWER, o.TIMEOUT, o.ERROR)],
        *[attempt(o.CORRECT), attempt(o.CORRECT), attempt(o.WRONG)],
        attempt(o.WRONG, tokens=48, finished=False),
    ]
    lengths = [10, 20, 30, 40] + [3] * 7 + [48]
    assert reduce_attempts(attempts, 4, "base") == pytest.approx(
        {
            # nothing is known of the one that the verifier failed on
            "base/reward/mean": 6 / 11,
            "base/pass_rate": 6 / 11,
            "base/outcome/correct": 6 / 12,
            "base/outcome/wrong": 3 / 12,
            "base/outcome/no_answer": 1 / 12,
            "base/outcome/timeout": 1 / 12,
            "base/outcome/error": 1 / 12,
            "base/length/mean": sum(lengths) / 12,
            # rank 0.95 * 11 = 10.45 of the sorted lengths: between 40 and 48
            "base/length/p95": 40 + 0.45 * 8,
            "base/truncated": 1 / 12,
            "base/group/all_right": 1 / 3,
            "base/group/all_wrong": 1 / 3,
            "base/group/mixed": 1 / 3,
            "base/group/informative": 1 / 3,
        }
    )


def test_without_any_verdict_nothing_is_said_of_rewards_and_pass_rates():
    metrics = reduce_attempts([attempt(Outcome.ERROR)] * 4, 2, "b")
    assert metrics.keys().isdisjoint({"b/reward/mean", "b/pass_rate"})
    assert metrics["b/outcome/error"] == 1
    # Where failures are not left out they earn their reward, though nothing is known of them.
    failures = Verifier(left_out=(), reward_error=-0.5)
    metrics = reduce_attempts([attempt(Outcome.ERROR)] * 4, 2, "b", failures)
    assert metrics["b/reward/mean"] == -0.5 and "b/pass_rate" not in metrics


def test_the_pass_rate_goes_by_verdicts_and_the_reward_by_what_they_earned():
    attempts = [attempt(o) for o in (Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER)]
    metrics = reduce_attempts(attempts, 3, "b", Verifier(reward_wrong=0.25, reward_no_answer=-0.5))
    assert metrics["b/reward/mean"] == pytest.approx(0.25)
    assert metrics["b/pass_rate"] == pytest.approx(1 / 3)
    assert metrics["b/outcome/no_answer"] == pytest.approx(1 / 3)


def test_what_the_verifier_failed_on_is_left_out():
    right, wrong, failed = (attempt(o) for o in (Outcome.CORRECT, Outcome.WRONG, Outcome.ERROR))
    metrics = reduce_attempts([right, failed, failed, failed, wrong, failed], 2, "b")
    groups = [metrics[f"b/group/{name}"] for name in ("all_right", "all_wrong", "mixed")]
    assert groups == [1 / 3, 1 / 3, 0]
    assert metrics["b/pass_rate"] == 1 / 2
    corrections = [attempt(o, anchor=right) for o in (Outcome.CORRECT, Outcome.ERROR)]
    assert transitions(corrections)["correction/retention"] == 1
    assert transitions(corrections[1:]) == {}
    assert pass_rate_histogram(np.zeros((0, 2), bool)) == {}


def test_a_group_is_informative_if_the_rewards_of_what_counts_in_it_differ():
    right, wrong, failed, late = (
        attempt(o) for o in (Outcome.CORRECT, Outcome.WRONG, Outcome.ERROR, Outcome.TIMEOUT)
    )
    cut = attempt(Outcome.WRONG, finished=False)
    groups = [right, failed, right, late, right, cut, right, wrong, wrong, wrong]

    def informative(**left_out) -> float:
        return reduce_attempts(groups, 2, "b", **left_out)["b/group/informative"]

    assert informative() == 3 / 5
    late_too = Verifier(left_out=("error", "timeout"))
    assert informative(verifier=late_too) == 2 / 5
    assert informative(verifier=late_too, overlong="mask") == 1 / 5
    assert informative(verifier=Verifier(left_out=())) == 4 / 5


def test_a_left_out_timeout_counts_in_no_rate():
    right, late = attempt(Outcome.CORRECT), attempt(Outcome.TIMEOUT)
    late_too = Verifier(left_out=("error", "timeout"))
    assert reduce_attempts([right, late], 2, "b")["b/pass_rate"] == 1 / 2
    assert reduce_attempts([right, late], 2, "b", late_too)["b/pass_rate"] == 1
    corrections = [attempt(o, anchor=right) for o in (Outcome.CORRECT, Outcome.TIMEOUT)]
    assert transitions(corrections)["correction/retention"] == 1 / 2
    assert transitions(corrections, late_too)["correction/retention"] == 1


def test_what_was_sampled_is_told_apart_from_what_was_kept():
    right, wrong = attempt(Outcome.CORRECT), attempt(Outcome.WRONG)
    none = Selection(*(np.zeros(0, int) for _ in range(4)))
    kept, sampled = [right, wrong], [right, wrong, wrong, wrong]
    metrics = stream_measures(kept, sampled, [], (2, 2), none, [], Verifier(), Algorithm())
    assert metrics["base/pass_rate"] == 1 / 2 and metrics["sampled/pass_rate"] == 1 / 4
    assert (metrics["pass_rate/0_of_2"], metrics["sampled/pass_rate/0_of_2"]) == (0, 1 / 2)
    assert metrics["sampled/group/mixed"] == 1 / 2
    assert not [name for name in metrics if find_metric(name) is None]
    without = stream_measures(kept, None, [], (2, 2), none, [], Verifier(), Algorithm())
    assert not [name for name in without if name.startswith("sampled/")]


def test_groups_are_consecutive_attempts():
    right, wrong = attempt(Outcome.CORRECT), attempt(Outcome.WRONG)
    assert reduce_attempts([right, right, wrong, wrong], 2, "b")["b/group/mixed"] == 0
    assert reduce_attempts([right, wrong, right, wrong], 2, "b")["b/group/mixed"] == 1
    uneven = reduce_attempts([right, right, wrong, wrong, wrong], [1, 3, 1], "b")
    assert uneven["b/group/mixed"] == uneven["b/group/all_right"] == pytest.approx(1 / 3)
    assert uneven["b/group/informative"] == pytest.approx(1 / 3)


def test_reduce_attempts_of_nothing_and_of_broken_groups():
    assert reduce_attempts([], 4, "base") == {}
    with pytest.raises(ValueError, match="3 attempts are not whole groups of 2"):
        reduce_attempts([attempt(Outcome.WRONG)] * 3, 2, "base")


def test_a_step_without_a_gradient_keeps_its_metrics():
    of_base = {"base/tokens": 40, "base/trained_tokens": 0, "base/entropy": 0.5, "loss/base": 0.0}
    nothing = {"correction/tokens": 0, "correction/trained_tokens": 0, "correction/entropy": np.nan}
    measures = device_measures(of_base | nothing | {"grad_norm": 0.0})
    assert measures["base/entropy"] == 0.5 and measures["tokens/trained"] == 0
    assert not [name for name in measures if name.startswith("correction/")]
    # Completions that the verifier failed on are measured, and in no loss.
    failed = {"correction/tokens": 9, "correction/trained_tokens": 0, "correction/entropy": 0.4}
    measures = device_measures(of_base | failed | {"loss/correction": np.nan, "loss/total": 0.1})
    assert measures["correction/entropy"] == 0.4 and "loss/correction" not in measures
    assert measures["loss/base"] == 0 and measures["loss/total"] == 0.1


# The table.


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("{stream}/pass_rate", "base/pass_rate", True),
        ("{stream}/pass_rate", "correction/pass_rate", True),
        ("{stream}/pass_rate", "eval/pass_rate", False),
        ("{stream}/pass_rate", "pass_rate", False),
        ("pass_rate/{k}_of_{G}", "pass_rate/3_of_8", True),
        ("eval/pass@{k}", "eval/pass@16", True),
        ("eval/pass@{k}", "eval/pass@16/x", False),
        ("time/step", "time/steps", False),
        ("time/step", "time.step", False),
    ],
)
def test_names_of_the_table_stand_for_names_of_the_file(
    pattern: str, name: str, matches: bool
) -> None:
    assert Metric("Section", pattern, "share", "What it is.").matches(name) is matches


def test_every_metric_of_the_table_is_found_by_its_name() -> None:
    words = {"stream": "base", "part": "right", "kind": "r2w", "class": "right", "name": "w2r"}
    for metric in METRICS:
        name = re.sub(r"{(\w+)}", lambda word: words.get(word[1], "1"), metric.name)
        phase = "cold_start" if metric.section == "Cold start" else "train"
        assert find_metric(name, phase) is metric


def test_a_name_that_several_patterns_match_has_the_meaning_of_the_closest() -> None:
    def name(of: str, phase: str = "eval") -> str:
        known = find_metric(of, phase)
        assert known is not None
        return known.name

    assert name("eval/correction/round_1/solved_gain_stderr").endswith("round_{r}/{name}_stderr")
    assert name("grad/base_norm", "train") == "grad/{stream}_norm"
    assert name("grad/unsolved_norm", "train") == "grad/{part}_norm"
    metric = find_metric("loss/demonstration")  # in no other phase
    assert metric is not None and metric.section == "Cold start"


def test_every_metric_computed_from_attempts_is_in_the_table() -> None:
    right, wrong = attempt(Outcome.CORRECT), attempt(Outcome.WRONG)
    corrections = [attempt(o, anchor=a) for o in Outcome for a in (right, wrong)]
    names = {*reduce_attempts([right, wrong], 2, "base"), *transitions(corrections)}
    assert len(names) > 25 and not [name for name in names if find_metric(name) is None]


def test_a_metric_is_listed_once_and_says_what_it_is() -> None:
    names = [(metric.section, metric.name) for metric in METRICS]
    assert len(names) == len(set(names)) > 70
    for metric in METRICS:
        assert metric.meaning.endswith(".") and metric.unit, metric


def test_the_page_of_metrics_is_that_of_the_table() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == reference()
