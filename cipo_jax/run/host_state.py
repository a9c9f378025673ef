"""What the loop remembers between steps in addition to the TrainState; part of every checkpoint."""

import dataclasses
from typing import Any

import numpy as np

from cipo_jax.config import keys
from cipo_jax.rl.difficulty import Difficulty, remember
from cipo_jax.rl.replay import ReplayState, Retention, update_replay
from cipo_jax.rl.rewards import correct_array, pass_rates, verified_array
from cipo_jax.run.first_wrong import FirstWrong
from cipo_jax.run.streams import BaseStream


@dataclasses.dataclass(frozen=True)
class HostState:
    """The state of the host side.

    Attributes:
      replay: the controller of rho.
      difficulty: running pass rate per problem id.
      streaks: for how many steps each health rule has been broken.
      sampled_tokens, step_tokens: in all steps so far, and in the last one.
      drawn: problems drawn in all steps so far, see `draw.py`.
      first_wrong: wrong attempts of the first evaluation, see `first_wrong.py`; None before it.
    """

    replay: ReplayState
    difficulty: dict[str, Difficulty] = dataclasses.field(default_factory=dict)
    streaks: dict[str, int] = dataclasses.field(default_factory=dict)
    sampled_tokens: int = 0
    step_tokens: int = 0
    drawn: int = 0
    first_wrong: FirstWrong | None = None

    def after_step(
        self,
        rollout: keys.Rollout,
        replay: keys.Replay,
        verifier: keys.Verifier,
        base: BaseStream,
        retention: Retention,
        sampled_tokens: int,
        drawn: int,
    ) -> "HostState":
        """The state after a step's two streams.

        Args:
          sampled_tokens: in this step.
          drawn: problems drawn, in all steps.
        """
        G, seen, controller = rollout.group_size, base.sampled, self.replay
        if replay.adaptive:
            controller = update_replay(
                controller,
                retention,
                minimum=replay.minimum,
                maximum=replay.maximum,
                gap_weight=replay.gap_weight,
                drop_weight=replay.drop_weight,
                streak_weight=replay.streak_weight,
            )
        rates = pass_rates(correct_array(seen, G), verified_array(seen, G, verifier))
        known = np.isfinite(rates)  # of the others the verifier said nothing
        ids = [a.problem.id for a, is_known in zip(seen[::G], known, strict=True) if is_known]
        return dataclasses.replace(
            self,
            replay=controller,
            difficulty=remember(self.difficulty, ids, rates[known], rollout.pass_rate_decay),
            sampled_tokens=self.sampled_tokens + sampled_tokens,
            step_tokens=sampled_tokens,
            drawn=drawn,
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any], rollout: keys.Rollout, step: int) -> "HostState":
        """What `to_json` gave, at a checkpoint of `step`. One from before `drawn` was counted has
        drawn all spares and candidates at each step."""
        widened = rollout.curriculum_candidates if rollout.curriculum == "learnability" else 1
        wrong = raw.get("first_wrong")
        each = rollout.most_problems * widened
        return cls(
            replay=ReplayState(**raw["replay"]),
            difficulty={k: Difficulty(**v) for k, v in raw["difficulty"].items()},
            streaks=dict(raw["streaks"]),
            sampled_tokens=raw.get("sampled_tokens", 0),
            step_tokens=raw.get("step_tokens", 0),
            drawn=raw.get("drawn", step * each),
            first_wrong=None if wrong is None else FirstWrong.from_json(wrong),
        )
