"""The nouns of the project: what flows from one room to the next.

    Problem --prompts--> Prompt --sampling--> Completion --verifiers--> Attempt
    Attempts --anchors--> correction Prompts --(the same path)--> Attempts
    both --advantages--> TrainSequences --packing--> TrainBatch --train_step--> TrainState

Dimension letters, used only in `policy/`, `sampling/`, `rl/`, and in shape comments; small letters
are explained where they stand:

    everywhere   B sequences or rows    T tokens of a row      V vocabulary
    policy/      D model width          N query heads          K key/value heads
                 H head width           F MLP width            L layers
                 S tokens (key side)    P pages of the cache   W pages of a row, at most
    sampling/    S slots                W pages of a row, at most
    rl/          N prompts of a stream  G group size           U minibatches of a step
                 M microbatches         R rows of a microbatch
    outside policy/                     P tokens of a prompt   C tokens of a completion

This module imports no accelerator runtime, so that verifier workers can use it.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """One verifiable task.

    Attributes:
      id: unique within its data set.
      question: the text shown to the policy.
      answer: the reference answer as text, for answer-checking verifiers. Never shown.
      tests: the test specification, for program-checking verifiers. Never shown.
      meta: anything else the source said (level, subject, source name).
    """

    id: str
    question: str
    answer: str | None = None
    tests: Mapping[str, Any] | None = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Outcome(enum.StrEnum):
    """How a verification ended. Only `CORRECT` is right."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # nothing in the completion could be read as an answer
    TIMEOUT = "timeout"  # the verifier ran past its deadline and was killed
    ERROR = "error"  # no verdict: the verifier failed, its process died, or the tests are at fault


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the verifier said of one completion.

    Attributes:
      extracted: the answer that was read from the completion, if any.
      detail: a short human-readable reason.
      seconds: wall time spent on this item by its worker.
      score: the share of tests passed, in [0, 1], with partial credit on; 1 only with CORRECT.
    """

    outcome: Outcome
    extracted: str | None = None
    detail: str = ""
    seconds: float = 0.0
    score: float | None = None

    @property
    def correct(self) -> bool:
        return self.outcome is Outcome.CORRECT

    @property
    def judged(self) -> bool:
        """Was a verdict reached? After ERROR nothing is known of the completion: it is neither
        right nor wrong."""
        return self.outcome is not Outcome.ERROR


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A worked answer for the supervised cold start.

    Attributes:
      solution: the completion to imitate.
      previous_attempt: if given, the demonstration is of a correction: the prompt quotes this
        attempt (right or wrong, the prompt does not tell) and `solution` is the corrected answer.
    """

    problem: Problem
    solution: str
    previous_attempt: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """A tokenised request for completions.

    Attributes:
      tokens: [P] int32, P >= 1.
      anchor: the earlier attempt this prompt quotes; None in the base stream.
      kept: of a quoted attempt that was cut in the middle to fit its token budget, the number of
        characters of its head and of its tail that are quoted; None if nothing was cut.
      opening: what its end opens and the completion goes on in, such as `<think>` or a code block
        (`verifiers/openings.py`); "" for nothing. Verifiers see it before the completion.
    """

    problem: Problem
    tokens: np.ndarray
    anchor: "Attempt | None" = None
    kept: tuple[int, int] | None = None
    opening: str = ""

    @property
    def trimmed(self) -> bool:
        return self.kept is not None


@dataclasses.dataclass(frozen=True, eq=False)
class Completion:
    """What the sampler returned for one request.

    Attributes:
      tokens: [C] int32, the stop token included when one was sampled.
      logprobs: [C] float32, log-prob of each token under the sampling distribution.
      finished: a stop token or a stop string ended it; False: it reached the token limit.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    finished: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Attempt:
    """A completion with its verdict; a correction is an attempt whose prompt has an anchor."""

    prompt: Prompt
    completion: Completion
    text: str
    verdict: Verdict

    @property
    def problem(self) -> Problem:
        return self.prompt.problem

    @property
    def correct(self) -> bool:
        return self.verdict.correct

    @property
    def judged(self) -> bool:
        return self.verdict.judged


class CipoError(ValueError):
    """A mistake in the user's input: the message names the field, the value and the fix."""


class TrainBatch(NamedTuple):
    """One step's sequences, packed into rows; the argument of the compiled train step.

    A row holds several sequences of one stream, told apart by segment ids 1, 2, ...; 0 is padding.
    Completions of one prompt may share it: then the prompt without its last token is a segment, and
    each completion, begun by that token, is another.
    Microbatches at the end may be empty (all padding). A `NamedTuple`, so that it is a pytree
    without importing JAX here.

    Attributes:
      tokens, segments: [U, M, R, T] int32.
      positions: [U, M, R, T] int32, from 0 within each prompt and completion.
      completion_mask: [U, M, R, T] float32, 1 on completion tokens; metrics are of these.
      loss_mask: [U, M, R, T] float32, 1 on those of completions that enter the loss.
      advantages: [U, M, R, T] float32, constant over a completion.
      old_logprobs: [U, M, R, T] float32, the sampler's log-probs; 0 off the completions.
      stream: [U, M, R] int32, `BASE` or `CORRECTION`.
      token_counts: [U, 2] float32, what each stream's loss is divided by: with a mean over tokens
        its tokens in `loss_mask`. None in the parts of a batch that are smaller than a minibatch.
      ref_logprobs: [U, M, R, T] float32, of the frozen reference; None without a KL term.
      prefixes: [U, M, R, T] int32, the segment that a token sees besides its own: its shared
        prompt; its own where it shares none. None: no prompt is shared.
    """

    tokens: Any
    positions: Any
    segments: Any
    completion_mask: Any
    loss_mask: Any
    advantages: Any
    old_logprobs: Any
    stream: Any
    token_counts: Any = None
    ref_logprobs: Any = None
    prefixes: Any = None


BASE, CORRECTION = 0, 1
STREAMS = ("base", "correction")
