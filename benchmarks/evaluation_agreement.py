"""Evaluation beside transformers: the same problems, greedy, and the same verifier for both.

    python benchmarks/evaluation_agreement.py --model=DIR --suites=humaneval,mbpp --data=DIR
    python benchmarks/evaluation_agreement.py --model=DIR --suites=gsm8k --data=DIR --problems=60

Ours is what --mode=evaluate does with configs/math.py or configs/code.py (they differ in training
alone). The other side is transformers' `generate` on the same directory: it writes the prompt with
its own chat template, stops at the tokens of the model's generation_config.json, and has its texts
judged by our verifier. Needs torch.

For each suite: how many prompts and texts are equal token by token, pass@1 of both, and for each
text that differs the first place, with the logits of the two tokens there as both compute them in
one pass over all before. Where they are further apart than rounding explains, the texts differ for
another reason. In float32 that is 1e-3, at logits of about 20. The seconds are of sampling: ours
with compiling and verdicts, transformers' without.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from peers.transformers_greedy import Greedy
from peers.turns import write_json

from cipo_jax.commands.evaluate import evaluate_suite, suite_config
from cipo_jax.config import load_file
from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import resolve
from cipo_jax.data.benchmarks.suites import SOLVE, LoadedSuite, load_suite
from cipo_jax.policy.model import Params, hidden_states, unembed
from cipo_jax.run.parameters import load_parameters
from cipo_jax.run.parts import Parts, open_parts
from cipo_jax.run.statistics import estimate
from cipo_jax.types import Attempt
from cipo_jax.verifiers.judge import open_pool, verdicts

ROOT = Path(__file__).resolve().parents[1]
ROUNDING = {"float32": 1e-3, "bfloat16": 0.5}  # of logits, between two orders of summation
BLOCK = 256  # sequences are padded to a multiple, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first place where the two texts of a problem differ.

    Attributes:
      place: tokens before it, of the completion.
      ours, theirs: the tokens as text; "" where that side had ended.
      our_gap, their_gap: logit of their token minus that of ours, as each side computes it; None
        where one side was at its limit.
    """

    problem: str
    place: int
    ours: str
    theirs: str
    our_gap: float | None
    their_gap: float | None


def our_config(
    model: str, data: str, problems: int, new_tokens: int, dtype: str, rows: int
) -> Config:
    """configs/math.py with `model`, without corrections, with completions of `new_tokens`, of which
    `rows` are sampled at a time."""
    c = load_file("math.py", beside=str(ROOT / "configs" / "code.py")).get_config()
    c.model.source, c.model.compute_dtype = model, dtype
    c.data.max_completion_tokens = new_tokens
    c.sampling.slots = rows
    c.correction.weight = 0.0
    c.eval.corrected_attempts = 0
    c.eval.majority = False
    c.eval.data_dir, c.eval.suite_problems = data, problems
    return resolve(c)


def compare(loaded: LoadedSuite, config: Config, peer: Greedy, dtype: str) -> dict[str, Any]:
    """Both sides on one suite.

    Args:
      config: as `suite_config` gives it.
    """
    limit = config.data.max_completion_tokens
    with open_parts(config, sequences=len(loaded.items)) as parts:
        params = load_parameters(config, parts.policy, None)
        parts.heartbeat.begin(loaded.suite.name)  # says how much is left
        began = time.perf_counter()
        _, attempts = evaluate_suite(loaded, config, parts, params, None)
        seconds = [time.perf_counter() - began]
        parts.end_sampling()
        parts.heartbeat.end()
        ours = [list(map(int, a.completion.tokens)) for a in attempts]
        texts = [
            config.data.prompt_template.replace("{question}", a.problem.question) for a in attempts
        ]
        prompts = [peer.prompt(text, config.data.chat_template) for text in texts]
        peer.load()
        began = time.perf_counter()
        theirs = peer.generate(prompts, limit)
        seconds.append(time.perf_counter() - began)
        differences = [
            _difference(a, own, other, limit, parts, params, peer)
            for a, own, other in zip(attempts, ours, theirs, strict=True)
            if own != other
        ]
    said = [peer.decode(tokens) for tokens in theirs]
    with open_pool(config.verifier) as pool:
        pairs = list(zip(attempts, said, strict=True))
        judged = list(verdicts(pool, pairs, lambda pair: (pair[0].problem, pair[1])))
    right = np.array([[a.correct for a in attempts], [v.correct for _, v in judged]], float)
    gaps = [d.their_gap for d in differences]
    return {
        "suite": loaded.suite.name,
        "problems": len(attempts),
        "prompts_equal": sum(
            list(a.prompt.tokens) == p for a, p in zip(attempts, prompts, strict=True)
        ),
        "tokens_equal": sum(own == other for own, other in zip(ours, theirs, strict=True)),
        "texts_equal": sum(a.text == text for a, text in pairs),
        "verdicts_equal": int((right[0] == right[1]).sum()),
        "ended": [
            sum(a.completion.finished for a in attempts),
            sum(len(t) < limit for t in theirs),
        ],
        "seconds": seconds,
        "sampled_tokens": [sum(map(len, side)) for side in (ours, theirs)],
        "pass@1": [dataclasses.asdict(estimate(side)) for side in right],
        "within_rounding": sum(g is not None and abs(g) <= ROUNDING[dtype] for g in gaps),
        "differences": [dataclasses.asdict(d) for d in differences],
    }


def _difference(
    attempt: Attempt,
    ours: Sequence[int],
    theirs: Sequence[int],
    limit: int,
    parts: Parts,
    params: Params,
    peer: Greedy,
) -> Difference:
    pairs = enumerate(zip(ours, theirs, strict=False))
    place = next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    names = [peer.show(side[place : place + 1]) for side in (ours, theirs)]
    gaps: list[float | None] = [None, None]
    if place < min(len(ours), len(theirs)):
        before = [*map(int, attempt.prompt.tokens), *ours[:place]]
        pair = [theirs[place], ours[place]]
        logits = [our_logits(parts, params, before), peer.logits(before)]
        gaps = [float(side[pair[0]] - side[pair[1]]) for side in logits]
    return Difference(attempt.problem.id, place, *names, *gaps)


def our_logits(parts: Parts, params: Params, before: Sequence[int]) -> np.ndarray:
    """[V] float32 logits of the token after `before`."""
    T = -(-len(before) // BLOCK) * BLOCK
    tokens = np.zeros((1, T), np.int32)
    tokens[0, : len(before)] = before
    model = parts.policy.model

    @jax.jit
    def last(params: Params, tokens: jax.Array, length: int) -> jax.Array:
        positions = jax.numpy.arange(T)[None]
        hidden, _ = hidden_states(model, params, tokens, positions, positions < length)
        return unembed(model, params, hidden[0, length - 1])

    return np.asarray(last(params, tokens, len(before)))


def shown(result: dict[str, Any], most: int = 8) -> str:
    """A suite's figures as text."""
    r, n = result, result["problems"]
    lines = [
        f"{r['suite']}: {n} problems",
        f"  prompts equal {r['prompts_equal']} of {n}, completions equal {r['tokens_equal']}, "
        f"texts {r['texts_equal']}, verdicts {r['verdicts_equal']}",
        f"  of {n - r['tokens_equal']} first differences, {r['within_rounding']} are between "
        "logits as close as rounding",
    ]
    sides = zip(
        ("ours", "transformers"),
        *(r[name] for name in ("pass@1", "ended", "sampled_tokens", "seconds")),
        strict=True,
    )
    for name, e, ended, tokens, seconds in sides:
        low, high = (f"{100 * e[k]:.1f}" for k in ("low", "high"))
        lines.append(
            f"  {name:13} pass@1 {100 * e['value']:.1f} [{low}, {high}], ended {ended} of {n}, "
            f"{tokens / n:.0f} tokens, {seconds:.0f} s"
        )
    for d in r["differences"][:most]:
        gaps = [f"{g:.1e}" if g is not None else "none" for g in (d["our_gap"], d["their_gap"])]
        lines.append(
            f"  {d['problem']}: token {d['place']}: {d['ours']!r} against {d['theirs']!r}, "
            f"logit gap {gaps[0]} by ours, {gaps[1]} by transformers"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--suites", default="humaneval,mbpp", help="comma-separated")
    parser.add_argument("--data", default="", help="directory of the suites' files; '': the hub")
    parser.add_argument("--problems", type=int, default=40, help="of each suite; 0: all")
    parser.add_argument("--new-tokens", type=int, default=384, help="most of a completion")
    parser.add_argument("--dtype", default="float32", choices=list(ROUNDING), help="of activations")
    parser.add_argument("--rows", type=int, default=16, help="at a time, on both sides")
    parser.add_argument("--peer-threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", default="", help="file for all results")
    options = parser.parse_args(argv)
    o = options
    config = our_config(o.model, o.data, o.problems, o.new_tokens, o.dtype, o.rows)
    peer = Greedy(o.model, o.dtype, o.rows, o.peer_threads)
    print(f"transformers: {peer.about}", flush=True)
    results = []
    for name in options.suites.split(","):
        loaded = load_suite(name, options.data, options.problems)
        if loaded.suite.task != SOLVE:
            raise SystemExit(f"--suites: {name} corrects or judges given attempts; not compared")
        results.append(compare(loaded, suite_config(config, loaded.suite), peer, options.dtype))
        print(shown(results[-1]), flush=True)
        if options.json:
            write_json(options.json, {"options": vars(options), "suites": results})


if __name__ == "__main__":
    main()
