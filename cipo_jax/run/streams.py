"""The two streams of a step: prompts, sampling, and attempts as training sequences.

Decided here: what dynamic sampling replaces, with which keys streams are sampled, and which
attempts take part in what. Problems are drawn in `draw.py`, advantages computed in `rl/advantages`
and limited in `rl/limits`, anchors chosen in `rl/anchors`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cipo_jax.config.keys import Algorithm, Correction, Replay, Verifier
from cipo_jax.policy.model import Params
from cipo_jax.rl.advantages import group_advantages, overlong_penalty
from cipo_jax.rl.anchors import Selection, select_anchors
from cipo_jax.rl.limits import limit_right
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.rl.replay import Retention, fresh_rate
from cipo_jax.rl.rewards import (
    correct_array,
    is_counted,
    is_informative,
    outcome_reward,
    pass_rates,
    retention,
    shaped_rewards,
    verified_array,
)
from cipo_jax.run.rollout import MakeAttempts
from cipo_jax.run.transitions import repeats
from cipo_jax.types import BASE, CORRECTION, Attempt, Prompt

# Folded into the step's key; refill r uses REFILL_KEY + r, and never comes to AGAIN_KEY.
CORRECTION_KEY, REFILL_KEY, AGAIN_KEY = 1, 2, 2**31 - 1


@dataclasses.dataclass(frozen=True)
class BaseStream:
    """One step's groups of attempts at problems.

    Attributes:
      attempts: [N * G], group-major; what is trained on.
      replaced: [n * G], group-major; groups that dynamic sampling has not kept: those that it
        replaced, and those that were to replace them and taught nothing either. They were sampled
        and verified, so they count as compute and for the difficulty of their problems.
    """

    attempts: list[Attempt]
    replaced: list[Attempt]

    @property
    def sampled(self) -> list[Attempt]:
        """All that was sampled, group-major."""
        return [*self.attempts, *self.replaced]


def eligible_array(verified: np.ndarray, attempts: Sequence[Attempt], cut: bool) -> np.ndarray:
    """[N, G] bool, which attempts may be put back: `verified` ones, and those that were cut at the
    token limit only with `cut`."""
    finished = np.array([a.completion.finished for a in attempts], bool)
    return verified & (cut | finished.reshape(verified.shape))


def sample_base(
    attempt: MakeAttempts,
    params: Params,
    prompts: Sequence[Prompt],
    group_size: int,
    key: jax.Array,
    verifier: Verifier,
    overlong: str = "keep",
    spares: Callable[[int], Sequence[Prompt]] = lambda count: (),
) -> BaseStream:
    """Samples a group for each prompt; with spares, replaces groups that teach nothing.

    Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): a group whose rewards are all equal
    (with rewards of 1 and 0: all right or all wrong) has no advantage. Attempts that take no part
    in the advantages do not make a group different. As long as there are such groups and spares are
    left, the next spares are sampled, one for each, and those of them whose rewards differ take the
    places. What cannot be replaced stays, so that the batch keeps its size.

    Args:
      key: the step's key.
      verifier: what a verdict earns.
      overlong: `algorithm.overlong`.
      spares: the next n prompts of further problems, or fewer where there are no more.
    """

    def teaches(group: Sequence[Attempt]) -> bool:
        return is_informative(group, verifier, overlong)

    attempts = attempt(params, prompts, group_size, key, "rollout")
    groups = [attempts[i : i + group_size] for i in range(0, len(attempts), group_size)]
    replaced: list[Attempt] = []
    refill = 0
    while useless := [i for i, group in enumerate(groups) if not teaches(group)]:
        batch = spares(len(useless))
        if not batch:
            break
        refill_key = jax.random.fold_in(key, REFILL_KEY + refill)
        fresh = attempt(params, batch, group_size, refill_key, f"refill {refill + 1}")
        for i in range(0, len(fresh), group_size):
            group = fresh[i : i + group_size]
            if teaches(group):
                place = useless.pop(0)
                groups[place], group = group, groups[place]
            replaced += group
        refill += 1
    return BaseStream([a for group in groups for a in group], replaced)


def choose_anchors(
    attempts: Sequence[Attempt],
    group_size: int,
    count: int,
    success_share: float,
    correction: Correction,
    verifier: Verifier,
    rng: np.random.Generator,
) -> Selection:
    """The attempts of the base stream ([N * G], group-major) that are put back, as
    `select_anchors` takes `count`, `success_share` and `rng`."""
    known = verified_array(attempts, group_size, verifier)
    eligible = eligible_array(known, attempts, correction.cut_anchors)
    correct = correct_array(attempts, group_size)
    return _select(correct, known, eligible, count, success_share, correction, rng)


def _select(
    correct: np.ndarray,
    known: np.ndarray,
    eligible: np.ndarray,
    count: int,
    success_share: float,
    correction: Correction,
    rng: np.random.Generator,
    pass_rate: np.ndarray | None = None,
) -> Selection:
    """As `select_anchors`, with the rules of the config."""
    return select_anchors(
        correct,
        known,
        eligible,
        count,
        success_share,
        (correction.band_low, correction.band_high),
        correction.max_per_problem,
        correction.shortage,
        rng,
        wrong_min_pass_rate=correction.wrong_min_pass_rate,
        wrong_slots=correction.wrong_group_multiple,
        balanced="count" in correction.right_limits,
        pass_rate=pass_rate,
    )


def sample_corrections(
    attempt: MakeAttempts,
    params: Params,
    write: Callable[[Attempt], Prompt],
    group_size: int,
    key: jax.Array,
    quoted: Sequence[Attempt],
    fold: int = CORRECTION_KEY,
) -> list[Attempt]:
    """[n * G_c], group-major: corrections of `quoted`. One that is there several times gets others
    each time.

    Args:
      write: the correction prompt of an attempt.
      key: the step's key, into which `fold` is folded.
    """
    if not quoted:
        return []
    asked = list(map(write, quoted))
    return attempt(params, asked, group_size, jax.random.fold_in(key, fold), "correct")


def choose_again(
    attempts: Sequence[Attempt],
    corrections: Sequence[Attempt],
    anchors: Selection,
    group_sizes: tuple[int, int],
    count: int,
    success_share: float,
    correction: Correction,
    verifier: Verifier,
    rng: np.random.Generator,
) -> tuple[Selection, list[Attempt]]:
    """Corrections of a step's anchors that are put back themselves, by the rules for attempts: pass
    rates are those of the base stream. One that repeats what it quotes is not put back: its prompt
    would be that of its own anchor once more.

    Args:
      attempts: [N * G], group-major, of the base stream.
      corrections: group-major, of `anchors`, G_c for each of their slots.
      group_sizes: G and G_c.
      count, success_share, rng: as `select_anchors` takes them.

    Returns:
      `anchors`, followed by the chosen corrections; and these, one for each slot.
    """
    G, G_c = group_sizes
    at: list[list[Attempt]] = [[] for _ in attempts[::G]]  # corrections at each problem
    for i, correction_of in zip(
        anchors.problem.repeat(anchors.slots * G_c), corrections, strict=True
    ):
        at[i].append(correction_of)
    correct, known, eligible = np.zeros((3, len(at), max(map(len, at), default=0)), bool)
    for i, answers in enumerate(at):
        own = slice(len(answers))
        correct[i, own] = correct_array(answers, 1)[:, 0]
        known[i, own] = verified_array(answers, 1, verifier)[:, 0]
        eligible[i, own] = eligible_array(known[i, own], answers, correction.cut_anchors)
        eligible[i, own] &= np.array([not repeats(answer) for answer in answers], bool)
    base = correct_array(attempts, G), verified_array(attempts, G, verifier)
    rates = np.nan_to_num(pass_rates(*base))
    again = _select(correct, known, eligible, count, success_share, correction, rng, rates)
    return anchors.followed_by(again), [at[i][j] for i, j in again.in_slots()]


def by_part(
    sequences: Sequence[TrainSequence],
    anchors: Selection,
    attempts: Sequence[Attempt],
    group_size: int,
    verifier: Verifier,
) -> dict[str, list[TrainSequence]]:
    """The sequences of both streams by the parts of `rl/transfer`.

    Args:
      anchors: of the corrections, in the order of their groups.
      attempts: [N * G], group-major, of the base stream.
    """
    correct = correct_array(attempts, group_size) & verified_array(attempts, group_size, verifier)
    solved = correct.any(axis=1)[anchors.problem]
    of_anchor = np.where(anchors.right, "right", np.where(solved, "solved", "unsolved"))
    found: dict[str, list[TrainSequence]] = {}
    for s in sequences:
        part = "base" if s.stream == BASE else str(of_anchor[s.group])
        found.setdefault(part, []).append(s)
    return found


def base_sequences(
    attempts: Sequence[Attempt],
    rewards: np.ndarray,
    algorithm: Algorithm,
    verifier: Verifier,
    max_tokens: int,
) -> list[TrainSequence]:
    """The base stream's attempts ([N * G], group-major) with their advantages.

    Args:
      rewards: [N, G].
      max_tokens: the token limit of a completion.
    """
    norm = algorithm.advantage_norm
    ones = np.ones(len(rewards), int)
    return _sequences(attempts, rewards, ones, norm, algorithm, verifier, max_tokens, BASE)


def judge_retention(
    attempts: Sequence[Attempt],
    corrections: Sequence[Attempt],
    anchors: Selection,
    group_sizes: tuple[int, int],
    replay: Replay,
    verifier: Verifier,
) -> Retention:
    """The step's retention, and what `replay` compares it with.

    Args:
      attempts: [N * G], group-major, of the base stream.
      corrections: group-major, of `anchors`, G_c for each of their slots.
      group_sizes: G and G_c.
    """
    G, G_c = group_sizes
    known = verified_array(corrections, G_c, verifier)
    right = anchors.right.repeat(anchors.slots)
    value, target = retention(correct_array(corrections, G_c), right, known), None
    if replay.target == "constant":
        target = replay.target_retention
    elif value is not None:
        base = correct_array(attempts, G), verified_array(attempts, G, verifier)
        weights, again = known[right].sum(axis=1), anchors.is_correction[anchors.right]
        target = fresh_rate(*base, anchors.problem[anchors.right], weights, again)
    return Retention(value, target)


def correction_sequences(
    corrections: Sequence[Attempt],
    rewards: np.ndarray,
    anchors: Selection,
    correction: Correction,
    retention_is_held: bool,
    algorithm: Algorithm,
    verifier: Verifier,
    max_tokens: int,
) -> list[TrainSequence]:
    """The corrections (group-major, G_c for each slot of `anchors`) with their advantages, from
    risk-averse shaped rewards, within `correction.right_limits`.

    Args:
      rewards: [slots, G_c].
      retention_is_held: `Retention.is_held` of the step.
      max_tokens: the token limit of a completion.
    """
    correct = correct_array(corrections, rewards.shape[1])
    verified = verified_array(corrections, rewards.shape[1], verifier)
    right, slots = anchors.right, anchors.slots
    shaped = shaped_rewards(rewards, correct, right.repeat(slots), correction.lambda_risk, verified)
    norm = algorithm.correction_advantage_norm
    sequences = _sequences(
        corrections, shaped, slots, norm, algorithm, verifier, max_tokens, CORRECTION
    )
    limits, aggregation = correction.right_limits, algorithm.aggregation
    return limit_right(sequences, right, limits, aggregation, retention_is_held)


def _sequences(
    attempts: Sequence[Attempt],
    rewards: np.ndarray,
    slots: np.ndarray,
    norm: str,
    algorithm: Algorithm,
    verifier: Verifier,
    max_tokens: int,
    stream: int,
) -> list[TrainSequence]:
    """Attempts with their advantages; group k is the next `slots[k]` rows of `rewards`."""
    shape = rewards.shape
    counted = [is_counted(a, verifier, algorithm.overlong) for a in attempts]
    bare = np.array([outcome_reward(a.verdict, verifier) for a in attempts]).reshape(shape)
    if algorithm.overlong == "soft":
        lengths = np.array([len(a.completion.tokens) for a in attempts]).reshape(shape)
        rewards = rewards + overlong_penalty(lengths, max_tokens, algorithm.overlong_buffer)
    included = np.array(counted, bool).reshape(shape)
    span = verifier.reward_correct - verifier.reward_wrong
    # [groups, G of the largest]: the places of a row that a smaller group does not have take part
    # in nothing.
    sizes = slots * shape[1]
    exists = np.arange(sizes.max(initial=0)) < sizes[:, None]

    def grouped(values: np.ndarray) -> np.ndarray:
        whole = np.zeros(exists.shape, values.dtype)
        whole[exists] = values.reshape(-1)
        return whole

    by_group = grouped(rewards), norm, grouped(bare), grouped(included), span
    advantages = group_advantages(*by_group)[exists].tolist()
    group_of = np.arange(len(slots)).repeat(sizes).tolist()
    return [
        TrainSequence(
            prompt=a.prompt.tokens,
            completion=a.completion.tokens,
            old_logprobs=a.completion.logprobs,
            advantage=advantage,
            stream=stream,
            group=group_of[i],
            trained=counted[i],
        )
        for i, (a, advantage) in enumerate(zip(attempts, advantages, strict=True))
    ]
