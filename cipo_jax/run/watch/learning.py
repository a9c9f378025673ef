"""What keeps a step from teaching anything, from its metrics, and the key to change.

A run that learns nothing is silent: losses are finite and steps go by. These are the usual causes.
They are named before the first update and after each of the first steps; the step's line always
has their marks. Not decided here: how long a bad value may last (`health.py`).
"""

import dataclasses
from collections.abc import Mapping

FIRST_STEPS = 10  # of the run, after which findings are named in full
_MOST = 0.5  # share of completions


@dataclasses.dataclass(frozen=True)
class Finding:
    """Attributes: mark, of a few characters for the step's line; message, with shares and key."""

    mark: str
    message: str


def findings(scalars: Mapping[str, float]) -> list[Finding]:
    """What the metrics of a step's completions show; with dynamic sampling, of all sampled ones."""

    def share(name: str) -> float:
        return scalars.get(f"sampled/{name}", scalars.get(f"base/{name}", 0.0))

    found = []
    if (failed := share("outcome/error")) > _MOST:
        found.append(
            Finding(
                f"no verdict {failed:.0%}",
                f"{failed:.0%} of the completions have no verdict: verifier, tests or sandbox are "
                "at fault, not the policy; `detail` in attempts/*.jsonl.gz says why",
            )
        )
    elif teaches_nothing(scalars):
        right, wrong = share("group/all_right"), share("group/all_wrong")
        key = (
            "easier problems (config.data.train), a better start (config.cold_start.max_steps, "
            "config.init_from) or more attempts (config.rollout.group_size)"
            if wrong >= right
            else "harder problems (config.data.train)"
        )
        shares = f"{wrong:.0%} are all wrong, {right:.0%} all right"
        found.append(
            Finding(
                "no mixed group",
                f"no group has rewards that differ, so the step does not teach what is right: "
                f"{shares}; {key} would help",
            )
        )
    if (unread := share("outcome/no_answer")) > _MOST:
        found.append(
            Finding(
                f"no answer {unread:.0%}",
                f"{unread:.0%} of the completions have no answer that can be read: see "
                "config.verifier.extraction, and whether config.data.prompt_template asks for that "
                "form",
            )
        )
    if (cut := share("truncated")) > _MOST:
        found.append(
            Finding(
                f"cut {cut:.0%}",
                f"{cut:.0%} of the completions hit the token limit: raise "
                "config.data.max_completion_tokens",
            )
        )
    return found


def teaches_nothing(scalars: Mapping[str, float]) -> bool:
    """Whether no group of either stream has rewards that differ, a penalty for length aside. Lines
    of runs that did not measure this yet have the share of mixed groups."""
    shares = [
        scalars.get(f"{stream}/group/informative", scalars.get(f"{stream}/group/mixed"))
        for stream in ("base", "correction")
    ]
    known = [share for share in shares if share is not None]
    return bool(known) and not any(known)
