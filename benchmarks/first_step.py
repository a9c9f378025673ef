"""Seconds from the start of the process to the end of its first RL step.

    python benchmarks/first_step.py
    python benchmarks/first_step.py --peer --peer-python=PATH/bin/python --json=first.json

Ours is `python -m cipo_jax.main --config=configs/smoke.py` without cold start and without the
evaluation before the first step, which the peer does not have either. It ends with the step's line
on the screen. "CIPO" takes the config's two streams, "GRPO" the base stream alone. "cold" starts
with an empty compilation cache, "warm" with the cache that the cold start filled. The peer is TRL's
GRPOTrainer on a model, prompts and completions of the same size; it compiles nothing. See
`policy_update.py` for its installation. Contenders take turns; numbers are medians (lowest to
highest).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.turns import Contender, spread, spread_text, write_json
from policy_update import PEER, Work, add_peer_options, peer_command

from cipo_jax.config import load_file
from cipo_jax.config.resolve import resolve
from cipo_jax.run.parts import make_model_config, open_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "configs" / "smoke.py"
VARIANTS = {"CIPO": (), "GRPO": ("--config.correction.weight=0.0",)}
ARGUMENTS = (
    "--config.num_steps=1",
    "--config.cold_start.max_steps=0",
    "--config.eval.at_start=False",
    "--config.data.eval_problems=1",
    "--config.eval.samples=1",
    "--config.eval.pass_at=(1,)",
    "--config.eval.corrected_attempts=0",
)


def first_step(arguments: Sequence[str], workdir: Path, cache: Path) -> float:
    """Seconds of our program until the line of its first step.

    Raises:
      RuntimeError: it ended without one; the message has its output.
    """
    command = [sys.executable, "-u", "-m", "cipo_jax.main", f"--config={SMOKE}", *ARGUMENTS]
    command += [*arguments, f"--workdir={workdir}", f"--config.log.compilation_cache={cache}"]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    began, seconds, said = time.perf_counter(), None, []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if seconds is None and line.startswith("step 1/"):
                seconds = time.perf_counter() - began
    if seconds is None:
        raise RuntimeError(f"{' '.join(command)} printed no first step:\n{''.join(said)}")
    return seconds


def peer_first_step(python: str, threads: int) -> float:
    """The same for the peer."""
    c = resolve(load_file(SMOKE.name, beside=str(SMOKE)).get_config())
    shape = make_model_config(c.model, c.data.tokenizer, open_tokenizer(c))
    work = Work(
        "smoke",
        problems=c.rollout.problems_per_step,
        group=c.rollout.group_size,
        prompt=c.data.max_prompt_tokens,
        response=c.data.max_completion_tokens,
        microbatch=c.rollout.problems_per_step * c.rollout.group_size,
    )
    began = time.perf_counter()
    command = peer_command(python, work, shape, threads=threads, update_only=False)
    with Contender(command) as contender:
        contender.turn()
        return time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variants", default="CIPO,GRPO", help="comma-separated")
    add_peer_options(parser)
    options = parser.parse_args(argv)
    seconds: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for variant in options.variants.split(","):
            with tempfile.TemporaryDirectory() as directory:
                place = Path(directory)
                for state in ("cold", "warm"):
                    took = first_step(VARIANTS[variant], place / state, place / "cache")
                    seconds.setdefault(f"{variant} {state}", []).append(took)
        if options.peer:
            took = peer_first_step(options.peer_python, options.peer_threads)
            seconds.setdefault(PEER, []).append(took)
    found: dict[str, Any] = {name: spread(taken) for name, taken in seconds.items()}
    print(f"process start to the end of the first step, load {os.getloadavg()[0]:.1f}")
    for name, of in found.items():
        if options.peer:
            of["over_peer"] = of["median"] / found[PEER]["median"]
        ratio = f", {of['over_peer']:.2f}x the peer's" if options.peer else ""
        print(f"  {name:10} {spread_text(of, '.1f')} s{ratio}")
    write_json(options.json, found)


if __name__ == "__main__":
    main()
