"""When a run ends and when it is evaluated: by steps, and by the tokens it has sampled.

Methods that sample different numbers of tokens per step are compared fairly at equal sampled
tokens, so both the end (`max_sampled_tokens`) and the evaluations (`eval.every_tokens`) can be set
in tokens. Sampled tokens are the completion tokens of both streams and of what dynamic sampling
discarded. A step is never cut: the budget is exceeded by less than one step.
"""

import dataclasses
import math

from cipo_jax.config.keys import Eval


@dataclasses.dataclass(frozen=True)
class Budget:
    """Attributes: as the keys and the section of the config with these names."""

    num_steps: int
    max_sampled_tokens: int
    eval: Eval

    def is_over(self, step: int, sampled_tokens: int) -> bool:
        """Whether the run ends after `step` steps, in which it has sampled `sampled_tokens`."""
        limit = self.max_sampled_tokens
        return step >= self.num_steps or bool(limit and sampled_tokens >= limit)

    def evaluation_is_due(self, step: int, sampled_tokens: int, step_tokens: int) -> bool:
        """Before the first step (`eval.at_start`), after the last, every `eval.every` steps, and
        whenever the sampled tokens have passed a multiple of `eval.every_tokens`.

        Args:
          sampled_tokens: in all `step` steps.
          step_tokens: in the last of them.
        """
        e = self.eval
        if self.is_over(step, sampled_tokens):
            return True
        if step == 0:
            return e.at_start
        if e.every and step % e.every == 0:
            return True
        before = sampled_tokens - step_tokens
        return bool(e.every_tokens and sampled_tokens // e.every_tokens > before // e.every_tokens)

    def steps_left(self, step: int, sampled_tokens: int) -> int:
        """How many steps are left; with a budget of tokens an estimate from the mean so far."""
        left = self.num_steps - step
        if self.max_sampled_tokens and sampled_tokens:
            tokens_left = max(0, self.max_sampled_tokens - sampled_tokens)
            left = min(left, math.ceil(tokens_left * step / sampled_tokens))
        return left
