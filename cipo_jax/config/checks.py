"""Which values cannot be used together, each with its reason.

What a value may be by itself is its key's annotation (keys.py). The rules of the update are also
those of the functions of `rl/` that can be called without a config: they call `check_loss`,
`check_schedule` and `check_overlong_buffer`, so that each rule is written once.
"""

import operator
from typing import Any

from cipo_jax.config.keys import Algorithm, Config, Eval, Sampling
from cipo_jax.types import CipoError

# Keys of `eval` that only benchmarks have a use for.
_OF_SUITES = (
    *("suite_problems", "suite_samples", "suite_temperature"),
    *("released_from", "released_until"),
)


def check_combinations(c: Config) -> None:
    """Refuses values that cannot work together.

    Raises:
      CipoError: the first of them, with its key and the reason.
    """
    # Problems, verifier, model and mesh.
    if c.data.thinking and not c.data.chat_template:
        wanted = "'' without data.chat_template: the switch belongs to the chat template"
        _refuse(c, "data.thinking", wanted)
    if c.data.min_operations > c.data.max_operations:
        _refuse(c, "data.min_operations", f"<= data.max_operations = {c.data.max_operations}")
    v = c.verifier
    highest = max(v.reward_wrong, v.reward_no_answer, v.reward_timeout, v.reward_error)
    if v.reward_correct <= highest:
        wanted = f"more than any other outcome earns, {highest}, so that being right is learned"
        _refuse(c, "verifier.reward_correct", wanted)
    if c.model.num_heads % c.model.num_kv_heads:
        wanted = f"a multiple of num_kv_heads = {c.model.num_kv_heads}"
        reason = "each key/value head serves the same number of query heads"
        _refuse(c, "model.num_heads", f"{wanted}: {reason}")
    if (c.mesh.data, c.mesh.fsdp, c.mesh.tensor, c.mesh.context).count(-1) > 1:
        _refuse(c, "mesh", "at most one axis of size -1, which takes the devices that are left")

    # Anchors, corrections and the replay ratio.
    k, r = c.correction, c.replay
    if k.band_low > k.band_high:
        _refuse(c, "correction.band_low", f"<= correction.band_high = {k.band_high}")
    if r.adaptive and not r.minimum <= r.initial <= r.maximum:
        wanted = f"within [replay.minimum, replay.maximum] = [{r.minimum}, {r.maximum}]"
        _refuse(c, "replay.initial", f"{wanted}, where the controller keeps it")
    if r.adaptive and k.weight and r.initial == 0:
        wanted = (
            "a value > 0, or replay.adaptive=False: the controller multiplies rho, so 0 stays 0"
        )
        _refuse(c, "replay.initial", wanted)
    if k.weight and c.num_anchors < 1:
        wanted = "a fraction that gives at least one anchor per step (or correction.weight=0)"
        _refuse(c, "correction.replay_fraction", wanted)
    most = c.rollout.problems_per_step * k.max_per_problem * k.wrong_group_multiple
    if k.weight and max(c.anchor_counts) > most:
        wanted = (
            f"at most {most} anchors of a kind, since a problem gives correction.max_per_problem = "
            f"{k.max_per_problem}: a lower fraction, or more of a problem"
        )
        _refuse(c, "correction.replay_fraction", wanted)
    if k.weight and k.from_corrections and not all(c.anchor_counts):
        wanted = f"0, or a share that leaves each of the two kinds one of {c.num_anchors} anchors"
        _refuse(c, "correction.from_corrections", wanted)
    fewest = min(filter(None, c.anchor_counts), default=1)
    if k.weight and k.wrong_group_multiple > fewest:
        wanted = f"<= {fewest}, the anchors chosen together in a step: a larger group has no place"
        _refuse(c, "correction.wrong_group_multiple", wanted)
    if k.weight and k.group_size < 2:
        wanted = ">= 2: a group of one has no group-relative advantage (or correction.weight=0)"
        _refuse(c, "correction.group_size", wanted)
    if k.weight and k.lambda_risk and c.algorithm.correction_advantage_norm == "group":
        _refuse(
            c,
            "correction.lambda_risk",
            "0 with algorithm.correction_advantage_norm='group': within one anchor's group the "
            "shaped reward takes two values, and dividing by their std removes the penalty; "
            "choose 'group_unshaped_std' or 'stream' to make it act",
        )

    # Loss, minibatches and learning rate.
    check_loss(c.algorithm)
    if c.algorithm.overlong == "soft":
        check_overlong_buffer(c.algorithm.overlong_buffer, c.data.max_completion_tokens)
    elif c.algorithm.overlong_buffer:
        wanted = f"0 with overlong={c.algorithm.overlong!r}: it is of the penalty of 'soft'"
        _refuse(c, "algorithm.overlong_buffer", wanted)
    groups = c.rollout.problems_per_step
    if c.batch.minibatches > groups:
        wanted = f"<= rollout.problems_per_step = {groups}: groups are dealt to minibatches whole"
        _refuse(c, "batch.minibatches", wanted)
    o = c.optimizer
    check_schedule(o.schedule, o.warmup_steps, o.decay_steps)
    for key in ("decay_steps", "final_share"):
        if o.schedule == "constant" and getattr(o, key):
            wanted = "0 with schedule='constant', which does not decay; or 'linear' or 'cosine'"
            _refuse(c, f"optimizer.{key}", wanted)

    # What is measured of the completions that an evaluation draws.
    if not all(1 <= k <= c.eval.samples for k in c.eval.pass_at):
        _refuse(c, "eval.pass_at", f"every k between 1 and eval.samples = {c.eval.samples}")
    if c.eval.corrected_attempts > c.eval.samples:
        _refuse(c, "eval.corrected_attempts", f"<= eval.samples = {c.eval.samples}")
    if c.eval.correction_rounds > 1 and not c.eval.corrected_attempts:
        wanted = "1 with eval.corrected_attempts = 0, which leaves nothing to correct"
        _refuse(c, "eval.correction_rounds", wanted)
    if c.eval.released_until and c.eval.released_from > c.eval.released_until:
        wanted = f"a date up to eval.released_until = {c.eval.released_until}"
        _refuse(c, "eval.released_from", wanted)
    for key in _OF_SUITES if not c.eval.suites else ():
        default = getattr(Eval(), key)
        if getattr(c.eval, key) != default:
            wanted = f"{default!r} without eval.suites, whose evaluation it is of"
            _refuse(c, f"eval.{key}", wanted)
    if c.log.on_recompile == "stop" and c.log.max_compiles_after_warmup < 0:
        wanted = "'warn' with log.max_compiles_after_warmup = -1, which allows any number"
        _refuse(c, "log.on_recompile", wanted)


def check_training(c: Config) -> None:
    """Refuses what cannot be meant in training, such as sampling that the policy gradient does not
    account for.

    Raises:
      CipoError: temperature 0, a truncated distribution, or a profile of steps that there are not.
    """
    if c.log.profile_steps and c.log.profile_steps[0] > c.num_steps:
        _refuse(c, "log.profile_steps", f"steps of the run, up to num_steps = {c.num_steps}")
    if c.sampling.temperature == 0:
        _refuse(
            c,
            "sampling.temperature",
            "a value > 0 in training: greedy completions of a problem are all the same, so nothing "
            "would be learned",
        )
    for key in ("top_k", "top_p", "min_p", "min_new_tokens"):
        default = getattr(Sampling(), key)
        if getattr(c.sampling, key) != default:
            _refuse(
                c,
                f"sampling.{key}",
                f"{default!r} in training: the trainer scores tokens under the full distribution, "
                "so the importance ratio would be biased",
            )


def check_loss(a: Algorithm, where: str = "config.algorithm") -> None:
    """Refuses settings of the policy loss that contradict each other.

    Args:
      where: how messages name the section.

    Raises:
      CipoError: the first of them.
    """
    if a.surrogate != "clip" and a.ratio != "token":
        _refuse(a, "ratio", "'token' with surrogate='cispo', which weighs single tokens", where)
    if a.surrogate != "clip" and a.dual_clip:
        wanted = "0 with surrogate='cispo', which bounds the weights of either sign"
        _refuse(a, "dual_clip", wanted, where)
    if a.old_logprobs != "trainer" and a.tis_cap:
        reason = "a ratio against the sampler's log-probs already holds the correction"
        _refuse(a, "tis_cap", f"0, or old_logprobs='trainer': {reason}", where)


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


def _refuse(section: Any, key: str, wanted: str, where: str = "config") -> None:
    value = operator.attrgetter(key)(section)
    raise CipoError(f"{where}.{key}: got {value!r}, wanted {wanted}")
