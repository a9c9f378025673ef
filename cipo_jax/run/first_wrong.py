"""The wrong attempts of a run's first evaluation, corrected again at each later one.

The share of wrong attempts that corrections mend ("w2r") is of other attempts at each evaluation:
as a policy learns, those that are still wrong are of harder problems, and the share may fall while
corrections get better. Of the same attempts, and so of the same problems, two evaluations can be
compared. How much of the rise is the policy's that now solves these problems anyway is told by
another attempt, at the same problems and at the same time.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from cipo_jax.policy.model import Params
from cipo_jax.run.evaluate import CorrectionPrompt, against_other_attempts, evaluate_corrections
from cipo_jax.run.problems import attempt_as_text
from cipo_jax.run.rollout import MakeAttempts
from cipo_jax.run.statistics import Estimate
from cipo_jax.types import Attempt, Outcome, Prompt, Verdict

PREFIX = "first_wrong/"
_KEY = 0  # folded into the evaluation's key; `evaluate` has the numbers from 1


@dataclasses.dataclass(frozen=True)
class WrongAttempt:
    """What a correction prompt quotes of an attempt; part of the host state."""

    problem_id: str
    text: str
    outcome: str
    extracted: str | None
    detail: str


@dataclasses.dataclass(frozen=True)
class FirstWrong:
    """The wrong attempts of the first evaluation, which was at `step`; part of the host state."""

    step: int
    attempts: tuple[WrongAttempt, ...]

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "FirstWrong":
        """What `dataclasses.asdict` gave."""
        return cls(raw["step"], tuple(WrongAttempt(**of) for of in raw["attempts"]))


def follow(
    first: FirstWrong | None,
    step: int,
    estimates: Mapping[str, Estimate],
    attempts: Sequence[Attempt],
    attempt: MakeAttempts,
    params: Params,
    prompts: Sequence[Prompt],
    correction_prompt: CorrectionPrompt,
    key: jax.Array,
) -> tuple[FirstWrong, dict[str, Estimate], list[Attempt]]:
    """Notes the wrong attempts of the first evaluation, or corrects them again, once each.

    Args:
      first: those of the first evaluation; None if this is it. One that is repeated, after a stop,
        is the first again.
      step: of this evaluation.
      estimates, attempts: what `evaluate` has returned for it.
      prompts, key: of the evaluation.

    Returns:
      `first`, known now.
      metrics, absent where nothing has a verdict:
        "first_wrong/w2r": of these attempts, those corrected;
        "first_wrong/resampled_w2r": of the attempts now at the same problems, those that are right;
        "first_wrong/w2r_gain": the difference.
        At the first evaluation they are those of "correction/" by their other names.
      the corrections; none at the first evaluation, which has them already.
    """
    if first is None or first.step == step:
        known = {k: estimates.get(f"correction/{k}") for k in ("w2r", "resampled_w2r", "w2r_gain")}
        metrics = {PREFIX + k: e for k, e in known.items() if e is not None}
        return FirstWrong(step, _own_wrong(attempts)), metrics, []
    if not first.attempts:
        return first, {}, []
    anchors = _anchors(first.attempts, prompts)
    corrected, corrections = evaluate_corrections(
        attempt, params, anchors, correction_prompt, 1, jax.random.fold_in(key, _KEY)
    )
    rates: dict[str, tuple[int, int]] = {}
    for a in (a for a in attempts if a.prompt.anchor is None):
        right, count = rates.get(a.problem.id, (0, 0))
        rates[a.problem.id] = right + a.correct, count + a.judged
    beside = against_other_attempts(list(zip(anchors, corrections, strict=True)), rates)
    mended = {k: e for k, e in corrected.items() if k == "correction/w2r"}
    metrics = {PREFIX + k.removeprefix("correction/"): e for k, e in (mended | beside).items()}
    return first, metrics, corrections


def _own_wrong(attempts: Sequence[Attempt]) -> tuple[WrongAttempt, ...]:
    """The own wrong attempts of an evaluation that it has corrected."""
    own = {id(a) for a in attempts if a.prompt.anchor is None}
    quoted = (a.prompt.anchor for a in attempts)
    wrong = [a for a in quoted if a is not None and id(a) in own and not a.correct]
    return tuple(
        WrongAttempt(
            a.problem.id, a.text, a.verdict.outcome.value, a.verdict.extracted, a.verdict.detail
        )
        for a in wrong
    )


def _anchors(wrong: Sequence[WrongAttempt], prompts: Sequence[Prompt]) -> list[Attempt]:
    """The attempts as correction prompts quote them."""
    asked = {prompt.problem.id: prompt for prompt in prompts}
    return [
        attempt_as_text(
            asked[of.problem_id], of.text, Verdict(Outcome(of.outcome), of.extracted, of.detail)
        )
        for of in wrong
    ]
