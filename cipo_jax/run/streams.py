"""The two streams of a step: prompts, sampling, and attempts as training sequences.

Decided here: what dynamic sampling replaces, with which keys streams are sampled, and which
attempts take part in what. Problems are drawn in `draw.py`, advantages computed in `rl/advantages`,
anchors chosen in `rl/anchors`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cipo_jax.config.keys import Algorithm, Verifier
from cipo_jax.policy.model import Params
from cipo_jax.rl.advantages import group_advantages, overlong_penalty
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.rl.rewards import (
    correct_array,
    is_counted,
    outcome_reward,
    reward_of,
    shaped_rewards,
    verified_array,
)
from cipo_jax.run.rollout import MakeAttempts
from cipo_jax.types import BASE, CORRECTION, Attempt, Prompt

CORRECTION_KEY, REFILL_KEY = 1, 2  # folded into the step's key; refill r uses REFILL_KEY + r


@dataclasses.dataclass(frozen=True)
class BaseStream:
    """One step's groups of attempts at problems.

    Attributes:
      attempts: [N * G], group-major; what is trained on.
      replaced: [n * G], group-major; groups that dynamic sampling replaced. They were sampled and
        verified, so they count as compute and for the difficulty of their problems.
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

    def teaches_nothing(group: Sequence[Attempt]) -> bool:
        counted = [a.verdict for a in group if is_counted(a, verifier, overlong)]
        return len({reward_of(verdict, verifier) for verdict in counted}) <= 1

    attempts = attempt(params, prompts, group_size, key, "rollout")
    groups = [attempts[i : i + group_size] for i in range(0, len(attempts), group_size)]
    replaced: list[Attempt] = []
    refill = 0
    while useless := [i for i, group in enumerate(groups) if teaches_nothing(group)]:
        batch = spares(len(useless))
        if not batch:
            break
        refill_key = jax.random.fold_in(key, REFILL_KEY + refill)
        fresh = attempt(params, batch, group_size, refill_key, f"refill {refill + 1}")
        for i in range(0, len(fresh), group_size):
            group = fresh[i : i + group_size]
            if not teaches_nothing(group):
                place = useless.pop(0)
                groups[place], group = group, groups[place]
            replaced += group
        refill += 1
    return BaseStream([a for group in groups for a in group], replaced)


def sample_corrections(
    attempt: MakeAttempts,
    params: Params,
    prompts: Sequence[Prompt],
    group_size: int,
    key: jax.Array,
) -> list[Attempt]:
    """[K * G_c], group-major: corrections of the anchors that the prompts quote."""
    if not prompts:
        return []
    return attempt(params, prompts, group_size, jax.random.fold_in(key, CORRECTION_KEY), "correct")


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
    return _sequences(attempts, rewards, norm, algorithm, verifier, max_tokens, BASE)


def correction_sequences(
    corrections: Sequence[Attempt],
    rewards: np.ndarray,
    anchor_right: np.ndarray,
    lambda_risk: float,
    algorithm: Algorithm,
    verifier: Verifier,
    max_tokens: int,
) -> list[TrainSequence]:
    """The corrections ([K * G_c], group-major) with their advantages, from risk-averse shaped
    rewards.

    Args:
      rewards: [K, G_c].
      anchor_right: [K] bool, whether each group's anchor was right.
      max_tokens: the token limit of a completion.
    """
    correct = correct_array(corrections, rewards.shape[1])
    verified = verified_array(corrections, rewards.shape[1], verifier)
    shaped = shaped_rewards(rewards, correct, anchor_right, lambda_risk, verified)
    norm = algorithm.correction_advantage_norm
    return _sequences(corrections, shaped, norm, algorithm, verifier, max_tokens, CORRECTION)


def _sequences(
    attempts: Sequence[Attempt],
    rewards: np.ndarray,
    norm: str,
    algorithm: Algorithm,
    verifier: Verifier,
    max_tokens: int,
    stream: int,
) -> list[TrainSequence]:
    shape = rewards.shape
    counted = [is_counted(a, verifier, algorithm.overlong) for a in attempts]
    bare = np.array([outcome_reward(a.verdict, verifier) for a in attempts]).reshape(shape)
    if algorithm.overlong == "soft":
        lengths = np.array([len(a.completion.tokens) for a in attempts]).reshape(shape)
        rewards = rewards + overlong_penalty(lengths, max_tokens, algorithm.overlong_buffer)
    included = np.array(counted, bool).reshape(shape)
    span = verifier.reward_correct - verifier.reward_wrong
    advantages = group_advantages(rewards, norm, bare, included, span).reshape(-1).tolist()
    return [
        TrainSequence(
            prompt=a.prompt.tokens,
            completion=a.completion.tokens,
            old_logprobs=a.completion.logprobs,
            advantage=advantage,
            stream=stream,
            group=i // shape[1],
            trained=counted[i],
        )
        for i, (a, advantage) in enumerate(zip(attempts, advantages, strict=True))
    ]
