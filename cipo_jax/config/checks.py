"""Which values cannot be used together, each with its reason.

What a value may be by itself is its key's annotation (keys.py). The rules of the update are also
those of the functions of `rl/` that can be called without a config: they call `check_loss`,
`check_schedule` and `check_overlong_buffer`, so that each rule is written once.
"""

import operator
from typing import Any

from cipo_jax.config.keys import Algorithm, Config, Sampling
from cipo_jax.types import CipoError


def check_combinations(config: Config) -> None:
    """Refuses values that cannot work together.

    Raises:
      CipoError: the first of them, with its key and the reason.
    """
    _check_parts(config)
    _check_streams(config)
    _check_update(config)
    _check_evaluation(config)


def check_training(config: Config) -> None:
    """Refuses sampling that the policy gradient does not account for.

    Raises:
      CipoError: temperature 0, or a truncated distribution.
    """
    _require(
        config.sampling.temperature > 0,
        config,
        "sampling.temperature",
        "a value > 0 in training: greedy completions of a problem are all the same, so nothing "
        "would be learned",
    )
    for key in ("top_k", "top_p", "min_p", "min_new_tokens"):
        default = getattr(Sampling(), key)
        _require(
            getattr(config.sampling, key) == default,
            config,
            f"sampling.{key}",
            f"{default!r} in training: the trainer scores tokens under the full distribution, so "
            "the importance ratio would be biased",
        )


def check_loss(a: Algorithm, where: str = "config.algorithm") -> None:
    """Refuses settings of the policy loss that contradict each other.

    Args:
      where: how messages name the section.

    Raises:
      CipoError: the first of them.
    """
    _require(
        a.surrogate == "clip" or a.ratio == "token",
        a,
        "ratio",
        "'token' with surrogate='cispo', which weighs single tokens",
        where,
    )
    _require(
        a.surrogate == "clip" or a.dual_clip == 0,
        a,
        "dual_clip",
        "0 with surrogate='cispo', which bounds the weights of either sign",
        where,
    )
    _require(
        a.old_logprobs == "trainer" or a.tis_cap == 0,
        a,
        "tis_cap",
        "0, or old_logprobs='trainer': a ratio against the sampler's log-probs already holds the "
        "correction",
        where,
    )


def check_schedule(
    schedule: str, warmup_steps: int, decay_steps: int, where: str = "config.optimizer"
) -> None:
    """Refuses a learning rate that has no update left to decay over.

    Raises:
      CipoError: decay_steps is not after the warm-up.
    """
    if schedule != "constant" and decay_steps <= warmup_steps:
        raise CipoError(
            f"{where}.decay_steps: got {decay_steps}, wanted more than warmup_steps = "
            f"{warmup_steps} with schedule={schedule!r}, so that updates are left to decay over"
        )


def check_overlong_buffer(
    buffer: int, max_tokens: int, where: str = "config.algorithm.overlong_buffer"
) -> None:
    """Refuses a soft overlong penalty that would begin before a completion does.

    Raises:
      CipoError: the buffer is not within 1 and the token limit of a completion.
    """
    if not 1 <= buffer <= max_tokens:
        raise CipoError(
            f"{where}: got {buffer}, wanted 1 to {max_tokens} (the token limit of a completion) "
            "with overlong='soft'"
        )


def _require(ok: bool, section: Any, key: str, wanted: str, where: str = "config") -> None:
    if not ok:
        value = operator.attrgetter(key)(section)
        raise CipoError(f"{where}.{key}: got {value!r}, wanted {wanted}")


def _check_parts(c: Config) -> None:
    """Problems, verifier, model and mesh."""
    _require(
        c.data.thinking == "" or c.data.chat_template,
        c,
        "data.thinking",
        "'' without data.chat_template: the switch belongs to the chat template",
    )
    _require(
        c.data.min_operations <= c.data.max_operations,
        c,
        "data.min_operations",
        f"<= data.max_operations = {c.data.max_operations}",
    )
    v = c.verifier
    highest = max(v.reward_wrong, v.reward_no_answer, v.reward_timeout, v.reward_error)
    _require(
        v.reward_correct > highest,
        c,
        "verifier.reward_correct",
        f"more than any other outcome earns, {highest}: else being right would not be learned",
    )
    _require(
        c.model.num_heads % c.model.num_kv_heads == 0,
        c,
        "model.num_heads",
        f"a multiple of num_kv_heads = {c.model.num_kv_heads}: each key/value head serves as many "
        "query heads",
    )
    _require(
        (c.mesh.data, c.mesh.fsdp, c.mesh.tensor).count(-1) <= 1,
        c,
        "mesh",
        "at most one axis of size -1, which takes the devices that are left",
    )


def _check_streams(c: Config) -> None:
    """Anchors, corrections and the replay ratio."""
    _require(
        c.correction.band_low <= c.correction.band_high,
        c,
        "correction.band_low",
        f"<= correction.band_high = {c.correction.band_high}",
    )
    _require(
        c.replay.minimum <= c.replay.initial <= c.replay.maximum or not c.replay.adaptive,
        c,
        "replay.initial",
        f"within [replay.minimum, replay.maximum] = [{c.replay.minimum}, {c.replay.maximum}], "
        "where the controller keeps it",
    )
    if c.correction.weight == 0:
        return
    _require(
        c.num_anchors >= 1,
        c,
        "correction.replay_fraction",
        "a fraction that gives at least one anchor per step (or correction.weight=0)",
    )
    _require(
        c.correction.group_size >= 2,
        c,
        "correction.group_size",
        ">= 2: a group of one has no group-relative advantage (or correction.weight=0)",
    )
    _require(
        c.correction.lambda_risk == 0 or c.algorithm.correction_advantage_norm != "group",
        c,
        "correction.lambda_risk",
        "0 with algorithm.correction_advantage_norm='group': within one anchor's group the "
        "shaped reward takes two values, and dividing by their std removes the penalty; "
        "choose 'group_unshaped_std' or 'stream' to make it act",
    )


def _check_update(c: Config) -> None:
    """Loss, minibatches and learning rate."""
    check_loss(c.algorithm)
    if c.algorithm.overlong == "soft":
        check_overlong_buffer(c.algorithm.overlong_buffer, c.data.max_completion_tokens)
    _require(
        c.batch.minibatches <= c.rollout.problems_per_step,
        c,
        "batch.minibatches",
        f"<= rollout.problems_per_step = {c.rollout.problems_per_step}: groups are dealt to "
        "minibatches whole",
    )
    check_schedule(c.optimizer.schedule, c.optimizer.warmup_steps, c.optimizer.decay_steps)


def _check_evaluation(c: Config) -> None:
    """What is measured of the completions that an evaluation draws."""
    _require(
        all(1 <= k <= c.eval.samples for k in c.eval.pass_at),
        c,
        "eval.pass_at",
        f"every k between 1 and eval.samples = {c.eval.samples}",
    )
    _require(
        c.eval.corrected_attempts <= c.eval.samples,
        c,
        "eval.corrected_attempts",
        f"<= eval.samples = {c.eval.samples}",
    )
