"""Which values a config may have, and which it may not have together.

Every refusal names the key, the value, what would be right, and why where that is not plain.
"""

import difflib
import re

from cipo_jax.config.keys import DROP_REASONS, EXTRACTION_RULES, Config, Sampling, flatten
from cipo_jax.types import CipoError


def check_values(config: Config) -> None:
    """Refuses values outside their range and combinations that cannot work together.

    Raises:
      CipoError: the first of them.
    """
    for check in (
        _check_ranges,
        _check_model,
        _check_data,
        _check_sampling,
        _check_verifier,
        _check_streams,
        _check_update,
        _check_evaluation,
        _check_log,
    ):
        check(config)


def check_training(config: Config) -> None:
    """Refuses sampling that the policy gradient does not account for.

    Raises:
      CipoError: temperature 0, or a truncated distribution.
    """
    s = config.sampling
    if s.temperature == 0:
        raise CipoError(
            "config.sampling.temperature: got 0.0, wanted a value > 0 in training: greedy "
            "completions of a problem are all the same, so nothing would be learned"
        )
    for key in ("top_k", "top_p", "min_p", "min_new_tokens"):
        value, default = getattr(s, key), getattr(Sampling(), key)
        if value != default:
            raise CipoError(
                f"config.sampling.{key}: got {value!r}, wanted {default!r} in training: the "
                "trainer scores tokens under the full distribution, so the importance ratio would "
                "be biased"
            )


def _require(ok: bool, key: str, value: object, wanted: str) -> None:
    if not ok:
        raise CipoError(f"config.{key}: got {value!r}, wanted {wanted}")


def _check_ranges(c: Config) -> None:
    """Keys that are right or wrong by themselves."""
    choices = {
        "model.param_dtype": ("float32", "bfloat16"),
        "model.compute_dtype": ("float32", "bfloat16"),
        "sampling.cache_dtype": ("", "float32", "bfloat16"),
        "model.remat": ("none", "full", "attention", "dots"),
        "data.thinking": ("", "on", "off"),
        "correction.shortage": ("other", "empty"),
        "rollout.curriculum": ("uniform", "learnability"),
        "health.action": ("warn", "checkpoint", "stop"),
        "algorithm.advantage_norm": ("group", "group_mean", "rloo", "stream"),
        "algorithm.correction_advantage_norm": (
            "group",
            "group_mean",
            "rloo",
            "stream",
            "group_unshaped_std",
        ),
        "algorithm.overlong": ("keep", "mask", "soft"),
        "algorithm.surrogate": ("clip", "cispo"),
        "algorithm.ratio": ("token", "sequence"),
        "algorithm.aggregation": ("token_mean", "sequence_mean", "constant"),
        "algorithm.old_logprobs": ("sampler", "trainer"),
        "algorithm.kl_estimator": ("k1", "k2", "k3"),
        "optimizer.name": ("adamw", "adafactor", "muon"),
        "optimizer.schedule": ("constant", "linear", "cosine"),
        "optimizer.mu_dtype": ("", "float32", "bfloat16"),
        "log.on_recompile": ("warn", "stop"),
    }
    flat = flatten(c)
    for key, allowed in choices.items():
        _require(flat[key] in allowed, key, flat[key], "one of " + ", ".join(map(repr, allowed)))
    positive = (
        "model.num_layers model.d_model model.num_heads model.num_kv_heads model.head_dim "
        "model.mlp_dim model.rope_theta data.max_prompt_tokens data.max_attempt_tokens "
        "data.max_completion_tokens data.min_operations cold_start.batch_size "
        "cold_start.learning_rate cold_start.check_every cold_start.check_problems sampling.slots "
        "sampling.chunk sampling.page_size sampling.prefill_tokens "
        "rollout.problems_per_step correction.group_size "
        "correction.max_per_problem optimizer.learning_rate optimizer.grad_clip batch.row_tokens "
        "batch.microbatch_rows verifier.workers verifier.timeout_seconds eval.samples "
        "verifier.recycle_after verifier.memory_limit_mb "
        "rollout.curriculum_candidates health.patience "
        "batch.minibatches batch.epochs "
        "model.unroll checkpoint.every checkpoint.keep algorithm.clip_low algorithm.clip_high"
    )
    for key in positive.split():
        _require(flat[key] > 0, key, flat[key], "a value > 0")
    not_negative = (
        "num_steps max_sampled_tokens mesh.cpu_devices eval.every_tokens eval.given_attempts "
        "rollout.max_refills seed data.eval_problems cold_start.max_steps correction.weight "
        "data.overlap_words data.train_problems "
        "correction.replay_fraction correction.lambda_risk algorithm.kl_coef "
        "algorithm.entropy_coef algorithm.dual_clip algorithm.tis_cap algorithm.overlong_buffer "
        "optimizer.decay_steps log.gradient_stats_every "
        "optimizer.warmup_steps optimizer.weight_decay eval.every eval.corrected_attempts "
        "eval.suite_problems eval.suite_samples sampling.temperature sampling.top_k "
        "sampling.min_new_tokens sampling.cache_tokens sampling.tensor "
        "log.show_samples_every log.report_pairs log.compile_warmup_steps log.heartbeat_seconds "
        "replay.gap_weight replay.drop_weight "
        "verifier.stand_ins checkpoint.keep_best "
        "replay.streak_weight"
    )
    for key in not_negative.split():
        _require(flat[key] >= 0, key, flat[key], "a value >= 0")
    shares = (
        "cold_start.correction_share cold_start.right_share cold_start.stop_at_pass_rate "
        "correction.band_low correction.band_high replay.initial replay.minimum replay.maximum "
        "replay.target_retention rollout.pass_rate_decay optimizer.final_share sampling.min_p"
    )
    for key in shares.split():
        _require(0 <= flat[key] <= 1, key, flat[key], "a share in [0, 1]")
    for key in (k for k in flat if k.startswith("health.") and k.endswith(("_floor", "_ceiling"))):
        _require(flat[key] == -1 or flat[key] >= 0, key, flat[key], "a limit >= 0, or -1 for none")
    for key in ("optimizer.b1", "optimizer.b2"):
        _require(0 <= flat[key] < 1, key, flat[key], "a decay rate in [0, 1)")


def _check_model(c: Config) -> None:
    """Model and mesh."""
    _require(
        c.model.num_heads % c.model.num_kv_heads == 0,
        "model.num_heads",
        c.model.num_heads,
        f"a multiple of num_kv_heads = {c.model.num_kv_heads}",
    )
    _require(
        c.model.head_dim % 2 == 0, "model.head_dim", c.model.head_dim, "an even number (for RoPE)"
    )
    for axis in ("data", "fsdp", "tensor"):
        size = getattr(c.mesh, axis)
        _require(size == -1 or size > 0, f"mesh.{axis}", size, "a size > 0, or -1 for the rest")
    sizes = (c.mesh.data, c.mesh.fsdp, c.mesh.tensor)
    _require(sizes.count(-1) <= 1, "mesh", sizes, "at most one axis of size -1")


def _check_data(c: Config) -> None:
    """Problems and prompts."""
    for i, reason in enumerate(c.data.drop):
        wanted = "one of " + ", ".join(map(repr, DROP_REASONS))
        _require(reason in DROP_REASONS, f"data.drop[{i}]", reason, wanted)
    _require(
        not c.data.thinking or c.data.chat_template,
        "data.thinking",
        c.data.thinking,
        "'' without data.chat_template: the switch belongs to the chat template",
    )
    _require(
        c.data.min_operations <= c.data.max_operations,
        "data.min_operations",
        c.data.min_operations,
        f"<= data.max_operations = {c.data.max_operations}",
    )
    for key, template, fields in (
        ("data.prompt_template", c.data.prompt_template, ("{question}",)),
        ("data.correction_template", c.data.correction_template, ("{question}", "{attempt}")),
    ):
        for name in fields:
            _require(template.count(name) == 1, key, template, f"a text that holds {name} once")


def _check_sampling(c: Config) -> None:
    """How completions are drawn."""
    s = c.sampling
    widths = s.prefill_widths
    _require(all(w > 0 for w in widths), "sampling.prefill_widths", widths, "widths > 0")
    _require(0 < s.top_p <= 1, "sampling.top_p", s.top_p, "a share in (0, 1]")
    _require(all(s.stop_strings), "sampling.stop_strings", s.stop_strings, "texts, none empty")


def _check_verifier(c: Config) -> None:
    """Verdicts and what they earn."""
    flat = flatten(c)
    _require(
        c.verifier.kind in ("math", "code", "auto") or ":" in c.verifier.kind,
        "verifier.kind",
        c.verifier.kind,
        "'math', 'code', 'auto', or an own function: 'package.module:function' or "
        "'path/to/file.py:function'",
    )
    v = c.verifier
    _require(bool(v.extraction), "verifier.extraction", v.extraction, "at least one rule")
    for i, rule in enumerate(v.extraction):
        close = difflib.get_close_matches(rule, EXTRACTION_RULES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        wanted = "one of " + ", ".join(map(repr, EXTRACTION_RULES)) + hint
        _require(rule in EXTRACTION_RULES, f"verifier.extraction[{i}]", rule, wanted)
    for key in (k for k in flat if k.startswith("verifier.reward_")):
        _require(-1 <= flat[key] <= 1, key, flat[key], "a reward in [-1, 1]")
    highest = max(v.reward_wrong, v.reward_no_answer, v.reward_timeout, v.reward_error)
    _require(
        v.reward_correct > highest,
        "verifier.reward_correct",
        v.reward_correct,
        f"more than any other outcome earns, {highest}: else being right would not be learned",
    )


def _check_streams(c: Config) -> None:
    """Groups, anchors, and the replay ratio."""
    _require(
        c.rollout.group_size >= 2,
        "rollout.group_size",
        c.rollout.group_size,
        ">= 2: a group of one has no group-relative advantage, so nothing would be learned",
    )
    _require(
        c.correction.band_low <= c.correction.band_high,
        "correction.band_low",
        c.correction.band_low,
        f"<= correction.band_high = {c.correction.band_high}",
    )
    _require(
        c.replay.minimum <= c.replay.initial <= c.replay.maximum or not c.replay.adaptive,
        "replay.initial",
        c.replay.initial,
        f"within [replay.minimum, replay.maximum] = [{c.replay.minimum}, {c.replay.maximum}]",
    )
    if c.correction.weight > 0:
        _require(
            round(c.correction.replay_fraction * c.rollout.problems_per_step) >= 1,
            "correction.replay_fraction",
            c.correction.replay_fraction,
            "a fraction that gives at least one anchor per step (or correction.weight=0)",
        )
        _require(
            c.correction.group_size >= 2,
            "correction.group_size",
            c.correction.group_size,
            ">= 2: a group of one has no group-relative advantage",
        )
        _require(
            not (c.correction.lambda_risk > 0 and c.algorithm.correction_advantage_norm == "group"),
            "correction.lambda_risk",
            c.correction.lambda_risk,
            "0 with algorithm.correction_advantage_norm='group': within one anchor's group the "
            "shaped reward takes two values, and dividing by their std removes the penalty; "
            "choose 'group_unshaped_std' or 'stream' to make it act",
        )


def _check_update(c: Config) -> None:
    """Loss, batch and optimiser."""
    a = c.algorithm
    _require(
        a.overlong != "soft" or 1 <= a.overlong_buffer <= c.data.max_completion_tokens,
        "algorithm.overlong_buffer",
        a.overlong_buffer,
        f"1 to data.max_completion_tokens = {c.data.max_completion_tokens} with overlong='soft'",
    )
    _require(
        a.dual_clip == 0 or (a.dual_clip > 1 and a.surrogate == "clip"),
        "algorithm.dual_clip",
        a.dual_clip,
        "0 (off), or a bound > 1 with surrogate='clip'",
    )
    _require(a.clip_low <= 1, "algorithm.clip_low", a.clip_low, "a value in (0, 1]")
    _require(
        not (a.kl_coef > 0 and a.kl_estimator == "k1"),
        "algorithm.kl_estimator",
        a.kl_estimator,
        "'k2' or 'k3' with kl_coef > 0: the expected on-policy gradient of k1 is zero",
    )
    _require(
        a.surrogate == "clip" or a.ratio == "token",
        "algorithm.ratio",
        a.ratio,
        "'token' with surrogate='cispo', which weighs single tokens",
    )
    _require(
        a.tis_cap == 0 or a.old_logprobs == "trainer",
        "algorithm.tis_cap",
        a.tis_cap,
        "0, or old_logprobs='trainer': a ratio against the sampler's log-probs already holds the "
        "correction",
    )
    groups = c.rollout.problems_per_step
    _require(
        c.batch.minibatches <= groups,
        "batch.minibatches",
        c.batch.minibatches,
        f"<= rollout.problems_per_step = {groups}: groups are dealt to minibatches whole",
    )
    o = c.optimizer
    _require(
        o.schedule == "constant" or o.decay_steps > o.warmup_steps,
        "optimizer.decay_steps",
        o.decay_steps,
        f"more than optimizer.warmup_steps = {o.warmup_steps} with schedule={o.schedule!r}",
    )


def _check_evaluation(c: Config) -> None:
    """What is measured."""
    flat = flatten(c)
    _require(
        all(1 <= k <= c.eval.samples for k in c.eval.pass_at),
        "eval.pass_at",
        c.eval.pass_at,
        f"every k between 1 and eval.samples = {c.eval.samples}",
    )
    _require(
        c.eval.suite_temperature == -1 or c.eval.suite_temperature >= 0,
        "eval.suite_temperature",
        c.eval.suite_temperature,
        "a temperature >= 0, or -1 for the benchmark's own",
    )
    for key in ("eval.released_from", "eval.released_until"):
        _require(
            not flat[key] or re.fullmatch(r"\d{4}-\d{2}-\d{2}", flat[key]) is not None,
            key,
            flat[key],
            "a date such as 2024-08-01, or nothing",
        )
    _require(
        not c.eval.name or re.fullmatch(r"[\w.+-]*\w[\w.+-]*", c.eval.name) is not None,
        "eval.name",
        c.eval.name,
        "a name for a directory",
    )
    _require(
        c.eval.corrected_attempts <= c.eval.samples,
        "eval.corrected_attempts",
        c.eval.corrected_attempts,
        f"<= eval.samples = {c.eval.samples}",
    )


def _check_log(c: Config) -> None:
    """What is watched."""
    most, steps = c.log.max_compiles_after_warmup, c.log.profile_steps
    _require(most >= -1, "log.max_compiles_after_warmup", most, "a number >= 0, or -1 for any")
    _require(
        not steps or (len(steps) == 2 and 1 <= steps[0] <= steps[1]),
        "log.profile_steps",
        steps,
        "(first, last) with 1 <= first <= last, or ()",
    )
