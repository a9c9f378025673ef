"""The two streams of a step: prompts, sampling, and attempts as training sequences.

Decided here: what dynamic sampling replaces, and with which keys streams are sampled. Advantages
are computed in `rl/advantages`, anchors chosen in `rl/anchors`.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from cipo_jax.config.keys import Algorithm, Rollout, Verifier
from cipo_jax.data.datasets import ProblemSource
from cipo_jax.data.prompts import PromptWriter
from cipo_jax.policy.model import Params
from cipo_jax.rl.advantages import group_advantages, overlong_penalty
from cipo_jax.rl.difficulty import Memory, choose_learnable
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.rl.rewards import correct_array, reward_of, shaped_rewards, verified_array
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


def choose_prompts(
    rollout: Rollout,
    prompts: PromptWriter,
    problems: ProblemSource,
    difficulty: Memory,
    seed: Sequence[int],
    step: int,
) -> tuple[list[Prompt], list[Prompt]]:
    """The step's prompts, and the spares of dynamic sampling: a function of the arguments alone.

    Args:
      difficulty: what is known of the problems, for the curriculum "learnability".
      seed: of the curriculum's draw.
    """
    wanted = rollout.problems_per_step * (1 + rollout.max_refills)
    if rollout.curriculum == "learnability":
        candidates = problems.batch(step, wanted * rollout.curriculum_candidates)
        ids = [p.id for p in candidates]
        chosen = choose_learnable(difficulty, ids, wanted, np.random.default_rng(seed))
        drawn = [candidates[i] for i in chosen]
    else:
        drawn = problems.batch(step, wanted)
    written = [prompts.base(p) for p in drawn]
    return written[: rollout.problems_per_step], written[rollout.problems_per_step :]


def sample_base(
    attempt: MakeAttempts,
    params: Params,
    prompts: Sequence[Prompt],
    spares: Sequence[Prompt],
    group_size: int,
    key: jax.Array,
    verifier: Verifier,
) -> BaseStream:
    """Samples a group for each prompt; with spares, replaces groups that teach nothing.

    Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): a group whose rewards are all equal
    (with rewards of 1 and 0: all right or all wrong) has no advantage. As long as there are such
    groups and spares are left, the next spares are sampled, one for each, and those of them whose
    rewards differ take the places. What cannot be replaced stays, so that the batch keeps its size.

    Args:
      spares: prompts of further problems, used in order.
      key: the step's key.
      verifier: what a verdict earns.
    """

    def teaches_nothing(group: Sequence[Attempt]) -> bool:
        return len({reward_of(a.verdict, verifier) for a in group}) == 1

    attempts = attempt(params, prompts, group_size, key, "rollout")
    groups = [attempts[i : i + group_size] for i in range(0, len(attempts), group_size)]
    replaced: list[Attempt] = []
    refill = 0
    while spares and (useless := [i for i, group in enumerate(groups) if teaches_nothing(group)]):
        batch, spares = spares[: len(useless)], spares[len(useless) :]
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
    attempts: Sequence[Attempt], rewards: np.ndarray, algorithm: Algorithm, max_tokens: int
) -> list[TrainSequence]:
    """The base stream's attempts ([N * G], group-major) with their advantages.

    Args:
      rewards: [N, G].
      max_tokens: the token limit of a completion.
    """
    norm = algorithm.advantage_norm
    return _sequences(attempts, rewards, rewards, norm, algorithm, max_tokens, BASE)


def correction_sequences(
    corrections: Sequence[Attempt],
    rewards: np.ndarray,
    anchor_right: np.ndarray,
    lambda_risk: float,
    algorithm: Algorithm,
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
    verified = verified_array(corrections, rewards.shape[1])
    shaped = shaped_rewards(rewards, correct, anchor_right, lambda_risk, verified)
    norm = algorithm.correction_advantage_norm
    return _sequences(corrections, shaped, rewards, norm, algorithm, max_tokens, CORRECTION)


def _sequences(
    attempts: Sequence[Attempt],
    rewards: np.ndarray,
    unshaped: np.ndarray,
    norm: str,
    algorithm: Algorithm,
    max_tokens: int,
    stream: int,
) -> list[TrainSequence]:
    included = np.ones(rewards.shape, bool)
    if algorithm.overlong == "mask":
        included = np.array([a.completion.finished for a in attempts]).reshape(rewards.shape)
    elif algorithm.overlong == "soft":
        lengths = np.array([len(a.completion.tokens) for a in attempts]).reshape(rewards.shape)
        penalty = overlong_penalty(lengths, max_tokens, algorithm.overlong_buffer)
        rewards, unshaped = rewards + penalty, unshaped + penalty
    advantages = group_advantages(rewards, norm, unshaped, included).reshape(-1).tolist()
    sequences = []
    for i, (a, advantage) in enumerate(zip(attempts, advantages, strict=True)):
        if included.flat[i]:
            c, group = a.completion, i // rewards.shape[1]
            sequences.append(
                TrainSequence(a.prompt.tokens, c.tokens, c.logprobs, advantage, stream, group)
            )
    return sequences
