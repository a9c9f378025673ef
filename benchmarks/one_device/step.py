"""Whole RL steps: a run of the program on generated problems, with a generated tokenizer."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from one_device.work import MODELS, Work
from peers.turns import spread

from cipo_jax.run.forecast.counts import count_parameters
from cipo_jax.run.records.metrics_file import read_metrics

PROGRAM = (sys.executable, "-m", "cipo_jax.main")
WARMUP_STEPS = 2  # of the run: its programs for few rows are compiled as they are met
STATE_BYTES = 12  # per parameter: itself and Adam's moments
PHASES = ("time/rollout", "time/correct", "time/update", "time/step")
STEP_METRICS = (
    *PHASES,
    "time/verify_hidden",
    "tokens/sampled",
    "tokens/per_second_per_device",
    "tokens/trained_per_second_per_device",
    "update/mfu",  # where the device's peak is known
    "base/reward/mean",
)


def measure_step(work: Work) -> Iterator[dict[str, Any]]:
    """What the run's metrics say of its steps after the first ones."""
    jax.config.update("jax_platforms", "cpu")  # here; the run needs all memory of the device
    needed = int(1.1 * STATE_BYTES * count_parameters(work.shape))
    with tempfile.TemporaryDirectory() as place:
        free = shutil.disk_usage(place).free
        if free < needed:
            yield {
                "skipped": f"{place} has {free / 2**30:.0f} GiB free, the run's checkpoint needs "
                f"{needed / 2**30:.0f}; TMPDIR names another place"
            }
            return
        for line in train(run_options(work, Path(place)), Path(place) / "run"):
            if line["phase"] == "train":
                yield {"step": line["step"], **{n: line[n] for n in STEP_METRICS if n in line}}
        lines = read_metrics(Path(place) / "run")
    steps = [x for x in lines if x["phase"] == "train" and x["step"] > WARMUP_STEPS]
    found = {name: spread([x[name] for x in steps]) for name in STEP_METRICS if name in steps[0]}
    yield {"steps": len(steps), "compile/count": sum(x["compile/count"] for x in steps), **found}


def train(options: Sequence[str], directory: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics of a run with these options, as they come; `directory`: where it writes.

    Raises:
      subprocess.CalledProcessError: the run failed.
    """
    command, seen, over = [*PROGRAM, *options, f"--workdir={directory}"], 0, False
    with subprocess.Popen(command, stdout=sys.stderr) as run:
        while not over:
            time.sleep(0.1)
            over = run.poll() is not None  # whatever it wrote until then is read
            lines = read_metrics(directory)
            yield from lines[seen:]
            seen = len(lines)
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, command)


def run_options(work: Work, place: Path) -> list[str]:
    """Of the run, whose data and tokenizer are written to `place`."""
    shape, steps = work.shape, WARMUP_STEPS + work.repeats
    first_word = write_tokenizer(place / "tokenizer", shape.vocab_size, work.new)
    rng = random.Random(0)
    with (place / "problems.jsonl").open("w") as file:
        for i in range(steps * work.problems):
            ids = rng.choices(range(first_word, shape.vocab_size), k=work.prompt)
            problem = {"id": str(i), "question": " ".join(map(word, ids)), "answer": f"{i % 2}"}
            print(json.dumps(problem), file=file)
    values: dict[str, Any] = {f"model.{k}": v for k, v in MODELS[work.model].items()}
    del values["model.vocab_size"]  # the tokenizer's
    values |= {"data.train": place / "problems.jsonl", "data.eval": place / "problems.jsonl"}
    values |= {"data.tokenizer": place / "tokenizer", "data.prompt_template": "{question}"}
    values |= {"data.correction_template": "{question} {attempt}", "num_steps": steps}
    values |= {"verifier.workers": max(2, (os.cpu_count() or 2) // 2), "checkpoint.every": steps}
    values |= {f"model.{k}": getattr(work, k) for k in ("compute_dtype", "remat")}
    values |= {f"sampling.{k}": getattr(work, k) for k in SAMPLING}
    config = Path(__file__).parents[2] / "configs" / "math.py"
    options = [f"--config={config}", *(f"--config.{k}={v}" for k, v in values.items())]
    return options + [f"--config.{setting}" for setting in SETTINGS.format(**vars(work)).split()]


SAMPLING = ("slots", "chunk", "page_size", "prefill_tokens")
# More flags of the run. One device, or it refuses; only the first and the last evaluation.
SETTINGS = """
    model.source= mesh.fsdp=1 data.chat_template=False data.eval_problems=1
    data.max_prompt_tokens={prompt} data.max_attempt_tokens={new} data.max_completion_tokens={new}
    sampling.tensor=0 sampling.cache_tokens=0 rollout.problems_per_step={problems}
    rollout.group_size={group} correction.group_size={group} batch.row_tokens={row_tokens}
    batch.microbatch_rows={microbatches[0]} eval.every=0 eval.samples=1 eval.pass_at=(1,)
    eval.corrected_attempts=0 checkpoint.keep=1 checkpoint.keep_best=0 log.tensorboard=False
    log.show_samples_every=0
"""


def write_tokenizer(directory: Path, vocab_size: int, mean_length: int) -> int:
    """Writes a tokenizer of `vocab_size` words; one in `mean_length` ends a completion.

    Returns:
      The first id that does not: those before it do.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    unknown = word(vocab_size - 1)
    words = Tokenizer(models.WordLevel({word(i): i for i in range(vocab_size)}, unknown))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=word(0), pad_token=word(0), unk_token=unknown
    )
    tokenizer.save_pretrained(directory)
    stops = range(max(1, round(vocab_size / mean_length)))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": list(stops)}))
    return len(stops)


def word(i: int) -> str:
    """A token's text. It holds an answer, so that half of all completions are right."""
    return f"w{i}\\boxed{{{i % 2}}}"
