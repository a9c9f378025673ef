"""The record of a run of a study, and the measures of several records.

A record (`measure_run`) has sums per test problem from the archived attempts of the run's last
evaluation, and its learning curve from metrics.jsonl. Everything that a study shows is a function
of its records. This file decides what is measured; formulas of uncertainty are in
`run/statistics.py`, and how a measure is shown is decided in `report.py` and `figures.py`.
"""

import collections
import functools
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.commands.study.plan import FINAL, RESULTS, read_object, read_results, read_timing
from cipo_jax.config.resolve import read_resolved, resolve
from cipo_jax.data.sources import GENERATED
from cipo_jax.run.comparison import is_judged, learning_curve, stream_of, training_steps
from cipo_jax.run.problems import open_evaluation
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.run.records.files import write_text
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.statistics import between, pass_at_k
from cipo_jax.types import CipoError

_RECORD = f"{FINAL}/measures.json"
# What the learning curve keeps of the run's evaluations.
_CURVE = ("pass@", "correction/", "first_wrong/", "given/", "length/mean", "lines_true")
# Between the gradients of parts of the streams; records of an older format lack these.
COSINES = ("right_cosine", "wrong_cosine", "unsolved_cosine", "right_wrong_cosine")
# What a record keeps of the training steps, by the name it has there. The gradients of the streams
# are measured at every `log.gradient_stats_every`-th step only.
_TRAINING = {
    "reward": "base/reward/mean",
    "all_wrong": "base/group/all_wrong",
    "anchors": "anchor/count",
    "rho": "replay/rho",
    "retention": "correction/retention",
    "cosine": "grad/cosine",
    **{name: f"grad/{name}" for name in COSINES},
    "base_norm": "grad/base_norm",
    "correction_norm": "grad/correction_norm",
}
# The third of the worked solution in which an attempt leaves it.
STAGES = ("early", "middle", "late")

# Of wrong attempts that have an answer. Records of an older format lack these.
_REPEATS = ("own_answered", "own_repeated", "own_agreed", "given_answered", "given_repeated")
_SUMS = (
    *("samples", "right", "tokens", "surprise", "errors"),
    *("own_wrong", "own_w2r", "own_right", "own_r2w"),
    *("given_wrong", "given_w2r", "given_right", "given_r2w"),
    *(f"own_{kind}_{stage}" for stage in STAGES for kind in ("wrong", "w2r")),
    *_REPEATS,
)
_FORMAT = 6  # of a record; one of another format is made again

Record = dict[str, Any]
Ratio = tuple[np.ndarray, np.ndarray]  # [seeds, problems] each


def measure_run(directory: Path) -> Record:
    """The record of a run, made once after each evaluation and kept beside it.

    Returns:
      "steps", "sampled_tokens", "trained_tokens", "group_size", "max_sampled_tokens" (of the
      config), "seconds", "command" (null without a study.json);
      "curve": {"step", "tokens", "entropy", and the evaluations' metrics: a list each};
      "training": {"step", and what `_TRAINING` names: a list each, null where not measured};
      "problems": {name: a number per test problem}: "operations"; "samples", "right" (attempts);
      "tokens", "surprise" (sums over attempts: completion tokens, minus their log-prob in nats);
      "errors" (attempts and corrections without a verdict, which are in none of the others);
      "own_wrong", "own_w2r", "own_right", "own_r2w" (corrected own attempts, by what they were and
      became), "given_..." likewise of given ones, "own_wrong_early" and so on by the third of the
      worked solution in which they leave it (0 where the task has no worked solutions);
      "own_answered" (wrong own attempts that have an answer), "own_repeated" (those whose
      correction answers the same), "own_agreed" (the sum, over them, of the share of the problem's
      other samples that answer the same), "given_answered", "given_repeated"; for each round r of
      corrections "round_r_chains" (own attempts that were corrected r times), "round_r_right" and
      "round_r_solved" (of them, right after r rounds, and at any time up to then) and
      "round_r_tokens" (of the attempts and all their corrections).

    Raises:
      CipoError: there is no evaluation, its results or its archive are damaged, or not all training
        steps are in metrics.jsonl.
    """
    kept, made_from = directory / _RECORD, directory / RESULTS
    if kept.is_file() and kept.stat().st_mtime_ns > made_from.stat().st_mtime_ns:
        record = read_object(kept)
        if record.get("format") == _FORMAT:
            return record
    config = resolve(read_resolved(directory / "config.json"))
    step = read_results(directory)["step"]
    train = training_steps(directory, read_metrics(directory))
    timing = read_timing(directory)
    problems = open_evaluation(config).first(config.data.eval_problems, "data.eval_problems")
    task = GENERATED.get(config.data.eval)
    solutions = {p.id: task.solution(p).splitlines() for p in problems} if task else {}
    record = {
        "format": _FORMAT,
        "steps": max((line["step"] for line in train), default=0),
        "sampled_tokens": sum(line["tokens/sampled"] for line in train),
        "trained_tokens": sum(line["tokens/trained"] for line in train),
        "group_size": config.rollout.group_size,
        "max_sampled_tokens": config.max_sampled_tokens,
        "seconds": timing.get("seconds"),
        "command": timing.get("command"),
        "curve": _curve(directory, train),
        "training": {
            name: [_finite(line.get(metric)) for line in train]
            for name, metric in {"step": "step", **_TRAINING}.items()
        },
        "problems": _problem_sums(directory, step, solutions),
    }
    operations = {p.id: p.meta.get("operations", 0) for p in problems}
    ids = record["problems"].pop("id")
    record["problems"]["operations"] = [operations[i] for i in ids]
    write_text(kept, json.dumps(record) + "\n")
    return record


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _curve(directory: Path, train: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The run's own evaluations; entropy is the mean over the training steps since the last one."""
    curve = learning_curve(directory)
    entropies: list[float | None] = []
    for before, step in itertools.pairwise([0, *curve["step"]]):
        between = [line for line in train if before < line["step"] <= step]
        # A step may have none: older runs measured only completions with a gradient.
        since = [line["base/entropy"] for line in between if "base/entropy" in line]
        entropies.append(_finite(float(np.mean(since))) if since else None)
    wanted = [k for k in curve if k.startswith(_CURVE) and not k.endswith("_stderr")]
    first = {"step": curve["step"], "tokens": curve["tokens"], "entropy": entropies}
    return first | {name: curve[name] for name in wanted}


def _problem_sums(
    directory: Path, step: int, solutions: Mapping[str, Sequence[str]]
) -> dict[str, list]:
    """The sums of `measure_run`; `solutions` has the lines of worked ones."""
    sums: dict[str, dict[str, float]] = {}
    answers: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    corrected: list[tuple[str, str]] = []  # problem and answer of own wrong attempts
    # By index: whether an attempt or what it goes back to is right, and the tokens of all of them.
    chains: dict[int, tuple[bool, int]] = {}
    for attempt in read_attempts(directory / FINAL, "eval", {step}):
        of = sums.setdefault(attempt["problem_id"], dict.fromkeys(_SUMS, 0))
        if not is_judged(attempt):
            of["errors"] += 1
            continue
        right = attempt["outcome"] == "correct"
        if (whose := stream_of(attempt)) == "base":
            chains[attempt["index"]] = right, attempt["completion_tokens"]
            of["samples"] += 1
            of["right"] += right
            of["tokens"] += attempt["completion_tokens"]
            logprob = attempt["logprob_sum"]  # null if not finite
            of["surprise"] -= -math.inf if logprob is None else logprob
            answers[attempt["problem_id"]][attempt["extracted"]] += 1
            continue
        anchor = attempt["anchor"]
        if whose != "given":
            solved, tokens = chains[anchor["index"]]
            solved, tokens = solved or right, tokens + attempt["completion_tokens"]
            chains[attempt["index"]] = solved, tokens
            one = {"chains": 1, "right": right, "solved": solved, "tokens": tokens}
            for name, value in one.items():
                key = f"round_{attempt.get('round', 1)}_{name}"
                of[key] = of.get(key, 0) + value
            if whose != "own":
                continue
        was_right = anchor["outcome"] == "correct"
        of[f"{whose}_{'right' if was_right else 'wrong'}"] += 1
        of[f"{whose}_{'r2w' if was_right else 'w2r'}"] += right != was_right
        if whose == "own" and not was_right and attempt["problem_id"] in solutions:
            stage = _stage(anchor["text"].splitlines(), solutions[attempt["problem_id"]])
            of[f"own_wrong_{stage}"] += 1
            of[f"own_w2r_{stage}"] += right
        if was_right:
            continue
        if whose == "given":  # never verified, so no answer was extracted: take the last line
            of["given_answered"] += 1
            of["given_repeated"] += _last_line(attempt) == _last_line(anchor)
        elif anchor["extracted"]:
            of["own_answered"] += 1
            of["own_repeated"] += attempt["extracted"] == anchor["extracted"]
            corrected.append((attempt["problem_id"], anchor["extracted"]))
    for problem, answer in corrected:
        if others := sums[problem]["samples"] - 1:
            sums[problem]["own_agreed"] += (answers[problem][answer] - 1) / others
    if not sums:
        raise CipoError(f"{directory / FINAL}: holds no attempts of step {step}; evaluate it again")
    names = sorted(sums)
    keys = dict.fromkeys(key for of in sums.values() for key in of)
    return {"id": names} | {key: [sums[name].get(key, 0) for name in names] for key in keys}


def _last_line(attempt: Mapping[str, Any]) -> str:
    return attempt["text"].strip().rpartition("\n")[2]


def _stage(attempt: Sequence[str], solution: Sequence[str]) -> str:
    """In which third of the solution's lines the attempt first differs from it."""
    same = 0
    while same < min(len(attempt), len(solution)) and attempt[same] == solution[same]:
        same += 1
    # All lines the same and yet wrong: whatever came after them.
    return STAGES[min(same * len(STAGES) // len(solution), len(STAGES) - 1)]


def measures(records: Sequence[Record]) -> dict[str, Ratio]:
    """{measure: (above, below)} of runs that differ in the seed, as `over_seeds` takes them.

    pass@k             unbiased, the mean over problems
    before, two-turn   accuracy of own attempts, and of what the correction of each made of it
    w2r, r2w           of own attempts: share of wrong ones corrected, of right ones spoilt
    resampled w2r      of the wrong attempts beside which there are other samples: share of right
                       ones among these
    w2r gain           of the same attempts, w2r minus that
    after r            from r = 2 on: accuracy after r rounds of correction
    solved r           of own attempts: share that are right at any time up to round r
    resampled r        share of their problems that as many sampled tokens of independent attempts
                       solve; missing where the samples are too few
    given w2r, r2w     the same for the attempts that all runs are given
    length             completion tokens of an attempt
    entropy            nats per token: minus the log-prob of what was sampled, so an estimate

    Measures without a case (such as r2w where nothing was right) are left out.
    """
    p = _sums(records)
    named = {f"pass@{k}": pass_of(records, k) for k in pass_ks(records)}
    own = p["own_wrong"] + p["own_right"]
    named |= {
        "before": (p["own_right"], own),
        "two-turn": (p["own_right"] - p["own_r2w"] + p["own_w2r"], own),
        "w2r": (p["own_w2r"], p["own_wrong"]),
        "r2w": (p["own_r2w"], p["own_right"]),
        "resampled w2r": _resampled(p, p["own_wrong"]),
        "given w2r": (p["given_w2r"], p["given_wrong"]),
        "given r2w": (p["given_r2w"], p["given_right"]),
        "length": (p["tokens"], p["samples"]),
        "entropy": (p["surprise"], p["tokens"]),
    }
    return _with_cases(named | _of_rounds(p))


def is_share(measure: str) -> bool:
    """Whether a measure is a share of cases, so that its interval can be exact."""
    return measure not in ("w2r gain", "length", "entropy")


def _of_rounds(p: Mapping[str, np.ndarray]) -> dict[str, Ratio]:
    """The measures of rounds, and "w2r gain"; {} for records of an older format."""
    if "round_1_chains" not in p:
        return {}
    resampled, wrong = _resampled(p, p["own_wrong"])
    named = {"w2r gain": (np.where(wrong > 0, p["own_w2r"], 0) - resampled, wrong)}
    length = p["tokens"] / np.maximum(p["samples"], 1)
    for r in itertools.count(1):
        if f"round_{r}_chains" not in p:
            return named
        chains, right, solved, tokens = (
            p[f"round_{r}_{name}"] for name in ("chains", "right", "solved", "tokens")
        )
        if r > 1:
            named[f"after {r}"] = right, chains
        named[f"solved {r}"] = solved, chains
        passed = []  # by seed, whose lengths say how many attempts these tokens are
        for i, samples in enumerate(p["samples"]):
            as_many = tokens[i].sum() / max((chains[i] * length[i]).sum(), 1)
            drawn = np.arange(int(samples.max()))
            correct, judged = (drawn < p[name][i][:, None] for name in ("right", "samples"))
            of = functools.partial(pass_at_k, correct, judged=judged)
            passed.append(between(of, as_many, len(drawn)))
        known = ~np.isnan(passed)
        weights = np.where(known, chains, 0.0)
        named[f"resampled {r}"] = np.where(known, passed, 0.0) * weights, weights
    raise AssertionError("unreachable")


def by_first_error(records: Sequence[Record]) -> dict[str, dict[str, Ratio]]:
    """{stage: {"w2r", "resampled w2r"}} of wrong own attempts, by the third of the worked solution
    in which they leave it: "late" ones are near misses. What a seed has no case of is left out."""
    p = _sums(records)
    found = {}
    for stage in STAGES:
        wrong = p[f"own_wrong_{stage}"]
        named = {"w2r": (p[f"own_w2r_{stage}"], wrong), "resampled w2r": _resampled(p, wrong)}
        found[stage] = _with_cases(named)
    return found


def repeats(records: Sequence[Record]) -> dict[str, Ratio]:
    """{measure: (above, below)} of wrong attempts that have an answer; {} for records without.

    repeats            share of own ones whose correction gives the same answer
    resampled repeats  share of other attempts at the problem, if there are any, that give this
                       answer: whether errors are the policy's rather than chance
    given repeats      as repeats, of the attempts that all runs are given
    """
    p = _sums(records)
    if not p.keys() >= set(_REPEATS):
        return {}
    named = {
        "repeats": (p["own_repeated"], p["own_answered"]),
        "resampled repeats": (p["own_agreed"], np.where(p["samples"] > 1, p["own_answered"], 0)),
        "given repeats": (p["given_repeated"], p["given_answered"]),
    }
    return _with_cases(named)


def paired_measures(
    methods: Mapping[str, Sequence[Record]], method: str, reference: str
) -> dict[str, tuple[Ratio, Ratio]]:
    """{measure: (of the method, of the reference)} on the seeds that both have; {} without any."""
    sides = [methods[method], methods[reference]]
    seeds = set.intersection(*({r["seed"] for r in records} for records in sides))
    if not seeds:
        return {}
    ours, theirs = (measures([r for r in records if r["seed"] in seeds]) for records in sides)
    return {name: (ours[name], theirs[name]) for name in ours if name in theirs}


def _sums(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """[seeds, problems] each sum that all records have."""
    return {
        name: np.array([r["problems"][name] for r in records], np.float64)
        for name in records[0]["problems"]
        if all(name in r["problems"] for r in records)
    }


def _with_cases(ratios: Mapping[str, Ratio]) -> dict[str, Ratio]:
    """Those of which each seed has a case."""
    return {name: (a, b) for name, (a, b) in ratios.items() if (b.sum(axis=1) > 0).all()}


def _resampled(p: Mapping[str, np.ndarray], wrong: np.ndarray) -> Ratio:
    """Share of right samples among those beside so many wrong ones, [seeds, problems]; a single
    sample of a problem has none beside it, and does not count."""
    counted = np.where(p["samples"] > 1, wrong, 0)
    return counted * (p["right"] / np.maximum(p["samples"] - 1, 1)), counted


def pass_ks(records: Sequence[Record]) -> list[int]:
    """1, 4, 16, 64, ... as far as the samples go."""
    samples = min(max(r["problems"]["samples"]) for r in records)
    return [k for k in (1, 4, 16, 64, 256) if k <= samples]


def pass_of(records: Sequence[Record], k: int) -> Ratio:
    """Unbiased pass@k of each problem, and 1; 0 and 0 where it has fewer than k verdicts."""
    p = _sums(records)
    values = []
    for samples, right in zip(p["samples"], p["right"], strict=True):
        drawn = np.arange(max(int(samples.max()), k))
        values.append(pass_at_k(drawn < right[:, None], k, drawn < samples[:, None]))
    known = ~np.isnan(values)
    return np.where(known, values, 0.0), known.astype(float)


def by_method(results: Mapping[str, Any], task: str) -> dict[str, list[Record]]:
    """The task's records by method, each in the order of seeds."""
    found: dict[str, list[Record]] = {}
    for record in results["runs"]:
        if record["task"] == task:
            found.setdefault(record["method"], []).append(record)
    return {name: sorted(records, key=lambda r: r["seed"]) for name, records in found.items()}


def tasks_of(results: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(record["task"] for record in results["runs"]))
