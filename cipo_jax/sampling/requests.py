"""What the engine keeps of a request on the host. `schedule` decides what happens to it."""

import dataclasses

import numpy as np

from cipo_jax.types import Completion


@dataclasses.dataclass(eq=False)
class CachedPrompt:
    """A prompt and its pages, shared by the requests that wait for a slot.

    Attributes:
      tokens: [P] int32. All but the last are prefilled; the first decode step feeds the last.
      shard: the row shard whose pages it uses.
      waiting: requests that have not got a slot yet.
      pages: pages held for it.
      filled: leading tokens whose keys and values are in the pages.
      begun: it has its pages.
    """

    tokens: np.ndarray
    shard: int
    waiting: int
    pages: list[int] = dataclasses.field(default_factory=list)
    filled: int = 0
    begun: bool = False

    @property
    def missing(self) -> int:
        """Tokens still to be prefilled."""
        return len(self.tokens) - 1 - self.filled

    @property
    def ready(self) -> bool:
        return self.begun and self.missing == 0


@dataclasses.dataclass(eq=False)
class Request:
    """One completion to sample.

    Attributes:
      key: [2] uint32, the data of its call's PRNG key.
      temperature: see `choose.choose_tokens`.
      limit: tokens to sample at most.
      prompt: what is prefilled: its prompt or, after an eviction, also the tokens it had.
      prompt_tokens: [P] int32, the prompt it came with.
      arrival: its place in the order of arrival.
      tokens, logprobs: sampled so far.
    """

    id: int
    key: np.ndarray
    temperature: float
    limit: int
    prompt: CachedPrompt
    prompt_tokens: np.ndarray
    arrival: int
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)

    def all_tokens(self) -> np.ndarray:
        """Prompt and completion so far, int32."""
        return np.concatenate([self.prompt_tokens, np.asarray(self.tokens, np.int32)])

    def completion(self, finished: bool) -> Completion:
        tokens, logprobs = np.asarray(self.tokens, np.int32), np.asarray(self.logprobs, np.float32)
        return Completion(tokens, logprobs, finished)


@dataclasses.dataclass(eq=False)
class Row:
    """A request in a slot.

    Attributes:
      pages: pages held for it, in order of position.
      in_flight: chunks dispatched whose results have not been read.
      gone: it has left its slot; later results for the slot belong to another row.
    """

    request: Request
    slot: int
    shard: int
    pages: list[int]
    in_flight: int = 0
    gone: bool = False

    def reach(self, chunk: int) -> int:
        """How many positions it may have written after the chunks in flight and one more."""
        r = self.request  # its first decode step feeds the prompt's last position
        sampled = min(len(r.tokens) + (self.in_flight + 1) * chunk, r.limit)
        return len(r.prompt_tokens) - 1 + sampled
