"""Every metric of a run: its name, its unit, what it is, and how it is computed from attempts.

`METRICS` is the one list of names; `python -m cipo_jax.run.measures > docs/metrics.md` makes the
page. What is a function of attempts, anchors and verdicts is computed here, what compares
corrections with the attempts they quote in `transitions.py`. The rest comes from where it is
measured: the train step (losses, entropy, gradients), sampler, verifier pool, clock and compiler.
Not decided here: when anything is written, and how hosts are combined.
"""

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cipo_jax.config.keys import Algorithm, Verifier
from cipo_jax.rl.anchors import Selection
from cipo_jax.rl.packing import TrainSequence
from cipo_jax.rl.rewards import is_counted, is_informative, reward_of, verified_array
from cipo_jax.run.transitions import gradient_weight, transitions, wrong_solved
from cipo_jax.types import STREAMS, Attempt, Outcome, Prompt


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a metric is.

    Attributes:
      section: of the page of metrics.
      name: as in metrics.jsonl; {stream} is "base" or "correction", other braces are any word.
      unit: of its values; a share is in [0, 1].
      meaning: what it is, and how it is computed. A share of nothing is absent.
    """

    section: str
    name: str
    unit: str
    meaning: str

    def matches(self, name: str) -> bool:
        """Whether this is the metric called `name`."""
        pattern = re.escape(self.name).replace(r"\{stream\}", "(base|correction)")
        return re.fullmatch(re.sub(r"\\\{\w+\\\}", r"[^/]+?", pattern), name) is not None


# "# section", then "name | unit | meaning" a line; an indented line continues the one before it.
_TABLE = """
# Attempts
{stream}/reward/mean | reward | Mean of what the verdicts earn (`verifier.reward_*`), before
    shaping. Outcomes of `verifier.left_out` earn nothing and do not count.
{stream}/pass_rate | share | Of attempts that are correct, of those with a verdict. Outcomes of
    `verifier.left_out` are none, here and below.
{stream}/outcome/{outcome} | share | Of attempts with this outcome: correct, wrong, no_answer,
    timeout, error.
{stream}/length/mean | tokens | Mean length of completions, stop token included.
{stream}/length/p95 | tokens | 95th percentile of the length, with linear interpolation.
{stream}/truncated | share | Of completions that ran into the token limit.
{stream}/group/all_right | share | Of groups whose attempts with a verdict are all correct.
{stream}/group/all_wrong | share | Of groups with verdicts, but no correct attempt.
{stream}/group/mixed | share | Of groups with both; with rewards of 1 and 0 only these have a
    gradient.
{stream}/group/informative | share | Of groups in which the rewards of what takes part in the
    advantages differ, a penalty for length aside: the others do not teach what is right.
pass_rate/{k}_of_{G} | share | Of the base stream's groups with k of their G attempts correct;
    groups with an attempt without a verdict are left out.
sampled/pass_rate | share | With dynamic sampling (`rollout.max_refills`), base/pass_rate of all
    that was sampled, replaced groups included; base/... is of what was kept.
sampled/reward/mean | reward | Likewise, and so are the others.
sampled/outcome/{outcome} | share | As base/outcome/{outcome}.
sampled/length/{statistic} | tokens | As base/length/mean and base/length/p95.
sampled/truncated | share | As base/truncated.
sampled/group/{kind} | share | As base/group/{kind}.
sampled/pass_rate/{k}_of_{G} | share | As pass_rate/{k}_of_{G}.
rollout/replaced_groups | number | Groups that dynamic sampling has sampled and not kept
    (`rollout.max_refills`).

# Corrections
transition/{kind} | share | Of corrections by what the quoted attempt was and the correction is:
    r2r, r2w, w2r, w2w (r right, w wrong). They sum to 1.
transition/{kind}_count | number | How many they are.
correction/fix_rate | share | w2r / (w2r + w2w): of wrong attempts that are corrected.
correction/retention | share | r2r / (r2r + r2w): of right attempts that are kept right; it
    steers the controller of rho.
correction/break_rate | share | 1 - retention: of right attempts that are spoilt.
correction/copy_rate | share | Of corrections whose text is the quoted attempt's, thoughts and outer
    space aside.
correction/answer_changed_frac | share | Of corrections whose extracted answer is another string
    than the quoted attempt's; no answer equals no answer only.
correction/copy_rate/{class} | share | As correction/copy_rate, of corrections of right or of wrong
    attempts alone.
correction/same_answer/{class} | share | Of corrections of right or of wrong attempts that have an
    answer, those with the same answer (the same string). Of a wrong attempt it is an error that
    was repeated.
correction/right_weight | share | Of the correction stream's gradient weight, the part of right
    anchors: sums of abs(advantage) x completion tokens (with `algorithm.aggregation` sequence_mean
    of abs(advantage)), after `correction.right_limits`. Near 1 the stream teaches to keep what is
    there, and not to correct. It is no gradient: parts of that cancel.
correction/wrong_solved | share | Of wrong anchors, those with at least one right correction. The
    other ones' groups are all wrong and teach nothing.
anchor/count | number | Attempts put back.
anchor/realised_success_share | share | Of them that are right.
anchor/fallback_frac | share | Of them from problems outside the band of difficulty.
anchor/trimmed_frac | share | Of correction prompts whose quoted attempt was cut.
anchor/corrections_frac | share | Of anchors that are corrections themselves
    (`correction.from_corrections`); absent without any.
replay/rho | share | Of anchors that are to be right, as the controller wants it (rho).
replay/target | share | What the step's retention is compared with (`replay.target`).

# Update
loss/total | loss | L_base + lambda L_corr, the mean over the step's updates.
loss/{stream} | loss | Of the stream alone, without its weight.
{stream}/tokens | tokens | Completion tokens, of which the statistics below are: all that were kept,
    whether they have a gradient or not.
{stream}/trained_tokens | tokens | Those with a gradient.
{stream}/entropy | nats per token | Entropy of the policy at the sampling temperature.
{stream}/ratio_mean | ratio | Mean importance ratio, new over old policy.
{stream}/ratio_max | ratio | The largest.
{stream}/clip_frac | share | Of tokens whose ratio is clipped.
{stream}/clip_low_frac | share | Of them from below.
{stream}/clip_high_frac | share | Of them from above, dual clipping included.
{stream}/advantage_abs | reward | Mean absolute advantage of a token, 0 for those without one.
{stream}/sampler_gap | nats per token | Mean absolute difference of the trainer's log-probs from
    the sampler's.
{stream}/sampler_k3 | nats per token | KL(sampler, trainer) by the k3 estimate.
{stream}/kl | nats per token | KL to the frozen reference, with `algorithm.kl_coef`.
{stream}/tis_mean | ratio | Mean weight of truncated importance sampling, with `algorithm.tis_cap`.
{stream}/tis_capped_frac | share | Of tokens whose weight is capped.
grad_norm | norm | Global norm of the gradient before clipping, the mean over the step's updates.
param_norm | norm | Global norm of the parameters after the step.
grad/{stream}_norm | norm | Of the stream's own gradient, without lambda
    (`log.gradient_stats_every`).
grad/cosine | cosine | Between the gradients of the two streams; absent where one of them is 0.
grad/{part}_norm | norm | Of the gradient of a part of the correction stream: corrections of right
    anchors (`right`), of wrong ones (`wrong`), and of those wrong ones whose problem no attempt of
    the step solves (`unsolved`). Like the following absent where it is 0.
grad/{part}_cosine | cosine | Between this part's gradient and the base stream's: above 0, what the
    part teaches also helps to solve problems directly, as far as a small step goes.
grad/right_wrong_cosine | cosine | Between the gradients of corrections of right and of wrong
    anchors: below 0, keeping what is there and correcting work against each other.
learning_rate | rate | Of the step's first update.

# Cost
time/rollout | seconds | Sampling and verifying the base stream.
time/correct | seconds | Choosing anchors, sampling and verifying corrections.
time/score | seconds | Log-probs of the frozen reference, with `algorithm.kl_coef`.
time/update | seconds | Packing and the compiled update.
time/step | seconds | The sum of these four.
time/checkpoint | seconds | That the loop waited for the save after the step before.
time/compile | seconds | Compiling programs, or reading them from the cache.
time/verify_hidden | share | Of the time with outstanding verdicts, the part with sampling.
time/verify_wait | seconds | Waiting for verdicts after sampling had ended.
time/verify_p50 | seconds | Median of the most recent verifications.
time/verify_p99 | seconds | 99th percentile of them.
verify/lost_workers | number | Verifier workers that were killed or crashed.
tokens/sampled | tokens | Completion tokens of both streams and of what dynamic sampling replaced.
tokens/trained | tokens | Completion tokens with a gradient, of both streams.
tokens/pad_share | share | Of the batch's tokens in use that are padding.
tokens/per_second_per_device | tokens per second | Sampled, over time/rollout + time/correct.
tokens/trained_per_second_per_device | tokens per second | Trained, over time/update.
update/mfu | share | Of the devices' bfloat16 peak that the model's FLOPs have used (padding and
    remat do not count); for the devices in run/watch/speed.py.
sampler/useful_rows | share | Of decoded rows that gave a token.
sampler/reused_prompt | share | Of prompt tokens that were found in the cache.
sampler/cache_used | share | Of the cache's pages, those in use when it was fullest.
sampler/evictions | number | Sequences taken out of a full cache, to be computed again.
compile/count | number | Programs compiled since the step before.
compile/cached | number | Programs read from the cache instead.

# Evaluations
eval/pass@{k} | share | Unbiased pass@k, the mean over problems.
eval/pass@{k}_stderr | share | Its standard error over problems.
eval/length/mean | tokens | Mean length of completions.
eval/no_answer | share | Of attempts without a readable answer.
eval/lines_true | share | Of the lines of attempts that can be checked, those that are true; of an
    embedded task whose lines say something. An equation has its result; a line of "guess" evaluates
    the next operation at the guess, and compares; one of "colouring" has the neighbours that have a
    colour, and marks a conflict. The boxed line is left out; in natural language equations alone
    are checked, elsewhere a line that cannot be read counts as not true.
eval/lines_true_stderr | share | Its standard error over problems.
eval/error | share | Of attempts without a verdict: verifier, tests or sandbox are at fault.
    They count as neither right nor wrong; a problem has a pass@k if it has k verdicts.
eval/correction/accuracy_before | share | Of the own attempts that are then corrected, those that
    are right.
eval/correction/accuracy_after | share | Of their corrections, those that are right.
eval/correction/w2r | share | Of wrong own attempts, those that are corrected.
eval/correction/r2r | share | Of right own attempts, those that are kept right.
eval/correction/r2w | share | Of right own attempts, those that are spoilt.
eval/correction/error | share | Of their corrections, those without a verdict.
eval/correction/resampled_w2r | share | For the same wrong own attempts: of the other attempts at
    their problems, those that are right.
eval/correction/w2r_gain | difference | eval/correction/w2r minus that: whether a correction is
    better than another attempt. Where it is not, attempts hold nothing that helps the policy, and
    corrections have little to teach.
eval/correction/round_{r}/accuracy | share | With `eval.correction_rounds`: of corrected own
    attempts, those that are right after r rounds.
eval/correction/round_{r}/solved | share | Of them, those that were right at any time up to then,
    the first attempt included.
eval/correction/round_{r}/attempts | number | As many attempts take the tokens of the attempt and
    its r corrections.
eval/correction/round_{r}/pass | share | pass@k of the same problems with that many attempts, linear
    between whole numbers; absent where there are fewer `eval.samples`.
eval/correction/round_{r}/solved_gain | difference | solved minus pass, paired by problem.
eval/correction/round_{r}/vote | share | maj@k with that many attempts (`--mode=evaluate`).
eval/correction/{name}_stderr | as its metric | Of any of these, its standard error over problems.
eval/correction/round_{r}/{name}_stderr | as its metric | Likewise.
eval/first_wrong/w2r | share | Of the own attempts that were wrong at the run's first evaluation,
    those corrected: of the same attempts at each evaluation, where eval/correction/w2r is of those
    that are wrong now, of ever harder problems. At the first evaluation the two are the same.
eval/first_wrong/resampled_w2r | share | Of the attempts now at their problems, the right ones.
eval/first_wrong/w2r_gain | difference | The first of these minus the second.
eval/first_wrong/{name}_stderr | as its metric | Of any of these, its standard error over problems.
eval/given/{name} | share | The first six of these for attempts that the task makes
    (`eval.given_attempts`).
eval/given/{name}_stderr | share | Of any of these, its standard error over problems.
time/eval | seconds | The evaluation.

# Cold start
loss/demonstration | nats per token | Negative log-likelihood of the demonstrations.
pass_rate | share | pass@1 on held-out problems, one sample each.
error | share | Of these samples without a verdict; pass_rate leaves them out.
lines_true | share | As eval/lines_true, of these samples.
learning_rate | rate | Of the step.

# Health
health/{rule} | as its metric | The value at which a rule of the `health` section fired.
"""


METRICS = tuple(
    Metric(lines[0], *line.split(" | "))
    for lines in map(str.splitlines, _TABLE.replace("\n    ", " ").split("\n# ")[1:])
    for line in filter(None, lines[1:])
)


def find_metric(name: str, phase: str = "train") -> Metric | None:
    """What is known of the metric called `name` in metrics.jsonl's lines of `phase`. Of several
    patterns that match, the one that leaves least open has the meaning."""
    found = [metric for metric in METRICS if metric.matches(name)]
    of_phase = [m for m in found if (m.section == "Cold start") == (phase == "cold_start")]
    return max(of_phase or found, key=lambda m: len(re.sub(r"{\w+}", "", m.name)), default=None)


def reference() -> str:
    """The page of metrics, as markdown."""
    lines = [_HEAD]
    for section in dict.fromkeys(metric.section for metric in METRICS):
        lines += [f"## {section}\n", "| metric | unit | |", "| --- | --- | --- |"]
        lines += [
            f"| `{m.name}` | {m.unit} | {m.meaning} |" for m in METRICS if m.section == section
        ]
        lines.append("")
    return "\n".join(lines)


_HEAD = """# Metrics

Made from `cipo_jax/run/measures.py` by `python -m cipo_jax.run.measures > docs/metrics.md`; edit
the table there, not this page.

metrics.jsonl has a json object a line: `phase` (cold_start, train, eval, health), `step`, and these
numbers. TensorBoard has the same names; those of phases other than train begin with the phase.
`{stream}` is `base` or `correction`. A share is in [0, 1]; where it would be a share of nothing, it
is absent. A value that is not finite is null, and `non_finite` says which it was.
"""


def reduce_attempts(
    attempts: Sequence[Attempt],
    group_size: int | Sequence[int],
    prefix: str,
    verifier: Verifier = Verifier(),  # noqa: B008
    overlong: str = "keep",
) -> dict[str, float]:
    """The metrics `prefix`/... of one stream of attempts; nothing for no attempts.

    Args:
      attempts: group-major.
      group_size: of all groups, or of each.
      prefix: the stream's name, such as "base".
      verifier: what a verdict earns and which say nothing; the default: 1 if correct, else 0.
      overlong: `algorithm.overlong`.

    Raises:
      ValueError: the attempts are not whole groups of these sizes.
    """
    sizes = group_size
    if isinstance(sizes, int):
        sizes = [sizes] * (len(attempts) // sizes)
    if len(attempts) != sum(sizes):
        raise ValueError(f"{len(attempts)} attempts are not whole groups of {group_size}")
    if not attempts:
        return {}
    correct = np.array([a.correct for a in attempts])
    lengths = np.array([len(a.completion.tokens) for a in attempts])
    outcomes = [a.verdict.outcome for a in attempts]
    rewards = np.array([reward_of(a.verdict, verifier) for a in attempts])
    earning = np.array([is_counted(a, verifier, "keep") for a in attempts])
    verified = verified_array(attempts, 1, verifier).ravel()
    starts = np.cumsum([0, *sizes[:-1]])
    rights, known = (np.add.reduceat(flags.astype(int), starts) for flags in (correct, verified))
    spans = [slice(i, i + size) for i, size in zip(starts, sizes, strict=True)]
    informative = [is_informative(attempts[span], verifier, overlong) for span in spans]
    metrics = {
        **({"reward/mean": float(rewards[earning].mean())} if earning.any() else {}),
        **({"pass_rate": float(correct[verified].mean())} if verified.any() else {}),
        **{f"outcome/{o.value}": outcomes.count(o) / len(outcomes) for o in Outcome},
        "length/mean": float(lengths.mean()),
        "length/p95": float(np.percentile(lengths, 95)),
        "truncated": float(np.mean([not a.completion.finished for a in attempts])),
        "group/all_right": float(np.mean((rights == known) & (known > 0))),
        "group/all_wrong": float(np.mean((rights == 0) & (known > 0))),
        "group/mixed": float(np.mean((rights > 0) & (rights < known))),
        "group/informative": float(np.mean(informative)),
    }
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def stream_measures(
    attempts: Sequence[Attempt],
    sampled: Sequence[Attempt] | None,
    corrections: Sequence[Attempt],
    group_sizes: tuple[int, int],
    anchors: Selection,
    sequences: Sequence[TrainSequence],
    verifier: Verifier,
    algorithm: Algorithm,
) -> dict[str, float]:
    """The metrics of both streams of a step that attempts and anchors decide.

    Args:
      attempts: [N * G], group-major.
      sampled: these and what dynamic sampling replaced; None without dynamic sampling.
      corrections: group-major, of `anchors`, G_c for each of their slots.
      group_sizes: G and G_c.
      sequences: both streams', with their advantages.
    """
    G, G_c = group_sizes
    overlong, sizes = algorithm.overlong, (anchors.slots * G_c).tolist()

    def histogram(attempts: Sequence[Attempt]) -> dict[str, float]:
        correct = np.array([a.correct for a in attempts]).reshape(-1, G)
        return pass_rate_histogram(correct[verified_array(attempts, G, verifier).all(axis=1)])

    of_sampled = {}
    if sampled is not None:
        of_sampled = reduce_attempts(sampled, G, "sampled", verifier, overlong)
        of_sampled |= {f"sampled/{name}": share for name, share in histogram(sampled).items()}
    return {
        **reduce_attempts(attempts, G, "base", verifier, overlong),
        **reduce_attempts(corrections, sizes, "correction", verifier, overlong),
        **histogram(attempts),
        **of_sampled,
        **transitions(corrections, verifier),
        **wrong_solved(corrections, sizes, verifier),
        **gradient_weight(sequences, anchors.right, algorithm.aggregation),
        **anchor_metrics(anchors, [c.prompt for c in corrections[::G_c]]),  # one for each slot
    }


def pass_rate_histogram(correct: np.ndarray) -> dict[str, float]:
    """pass_rate/{k}_of_G for k from 0 to G: share of the groups ([N, G] bool) with k right. Nothing
    for no groups."""
    groups, G = correct.shape
    if groups == 0:
        return {}
    counts = np.bincount(correct.sum(axis=1), minlength=G + 1)
    return {f"pass_rate/{k}_of_{G}": float(n / groups) for k, n in enumerate(counts)}


def anchor_metrics(anchors: Selection, prompts: Sequence[Prompt]) -> dict[str, float]:
    """What was put back, and the prompts that quote it; nothing without anchors."""
    if not len(anchors):
        return {}
    return {
        "anchor/count": float(len(anchors)),
        "anchor/realised_success_share": float(anchors.right.mean()),
        "anchor/fallback_frac": float(1 - anchors.in_band.mean()),
        "anchor/trimmed_frac": float(np.mean([p.trimmed for p in prompts])),
        **({"anchor/corrections_frac": again} if (again := anchors.is_correction.mean()) else {}),
    }


def device_measures(device_metrics: Mapping[str, Any]) -> dict[str, float]:
    """The train step's metrics as floats, with "tokens/trained"; without those of a stream that had
    no tokens, and without the loss of one of which nothing is in the loss."""
    measures = {name: float(value) for name, value in device_metrics.items()}
    trained = {s: measures[f"{s}/trained_tokens"] for s in STREAMS}
    for s in STREAMS:
        if trained[s] == 0 and np.isnan(measures.get(f"loss/{s}", 0.0)):
            del measures[f"loss/{s}"]
        if measures[f"{s}/tokens"] == 0:
            measures = {k: v for k, v in measures.items() if not k.startswith(f"{s}/")}
    return measures | {"tokens/trained": sum(trained.values())}


if __name__ == "__main__":
    sys.stdout.write(reference())
