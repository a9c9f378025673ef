"""Sampling with a pretrained model: `benchmarks/generation.py --model=DIR`, and its contenders.

The engine on one device with all cores, and transformers' `generate` with as many torch threads,
are processes of their own that take turns (`peers/turns.py`). Both get the same token ids:
questions of the embedded word problems in the model's chat template, cut to lengths drawn evenly
from `LENGTHS`. Every prompt is continued by the same number of tokens, whatever the model says.
transformers pads prompts on the left to the longest. Without a temperature both take the likeliest
token; the share of completions that agree to the last token is then shown as well. (Ties and
rounding make some differ.)

`start_up` times whole processes from their start: of ours to the first token of `--mode=generate`
and to the first line of a training run, and of a script that does with transformers what
`--mode=generate` does. Nothing is kept from one process to the next but the file system's cache.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers.turns import Measured, Turns, spread, spread_text, take_turns

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (20, 100)  # tokens of a prompt, unless its chat template alone takes more
SHORTEST = 4  # tokens of a question
OURS, PEER = "engine", "transformers"
QUESTION = "What is 17 + 25?"


@dataclasses.dataclass(frozen=True)
class Work:
    """What a contender does in a turn.

    Attributes:
      model: a Hugging Face directory.
      prompts: token ids.
      new: tokens to sample for each.
      temperature: 0: the likeliest token.
      threads: of torch.
    """

    model: str
    prompts: list[list[int]]
    new: int
    temperature: float
    threads: int


def make_prompts(model: Path, count: int) -> list[list[int]]:
    """The same ones for the same model and count."""
    from cipo_jax.data.tasks.word_problems import make_problem
    from cipo_jax.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(str(model))
    before, after = tokenizer.frame(has_chat_template(model))
    rng = np.random.default_rng(0)
    prompts = []
    for _ in range(count):
        length = int(rng.integers(*LENGTHS, endpoint=True)) - len(before) - len(after)
        question: list[int] = []
        while len(question) < max(length, SHORTEST):
            question += tokenizer.encode(make_problem(rng, 1, 2).question + " ")
        prompts.append([*before, *question[: max(length, SHORTEST)], *after])
    return prompts


def has_chat_template(model: Path) -> bool:
    """Whether the directory has one; Gemma's base models have not."""
    named = json.loads((model / "tokenizer_config.json").read_text()).get("chat_template")
    return bool(named) or (model / "chat_template.jinja").exists()


# The contenders.


def engine_turn(work: Work) -> Callable[[], dict[str, Any]]:
    """Samples with the engine: prompts are prefilled anew in every turn."""
    import jax

    from cipo_jax.policy.huggingface.config import config_from_hf
    from cipo_jax.policy.huggingface.load import load_params
    from cipo_jax.policy.random_keys import key_data, random_key
    from cipo_jax.policy.sharding import make_mesh
    from cipo_jax.sampling.choose import Choice
    from cipo_jax.sampling.engine import Engine
    from cipo_jax.sampling.settings import EngineSettings

    directory, mesh = Path(work.model), make_mesh(1, 1, 1, devices=jax.devices()[:1])
    config = config_from_hf(directory)
    params = load_params(directory, config, mesh)
    settings = EngineSettings(
        max(map(len, work.prompts)),
        work.new,
        Choice(stop_ids=()),
        temperature=work.temperature,
        slots=len(work.prompts),
    )
    engine, key = Engine(config, mesh, settings), key_data(random_key(1))

    def turn() -> dict[str, Any]:
        engine.close()  # forgets the prompts
        engine.open(params)
        for i, prompt in enumerate(work.prompts):
            engine.submit(i, np.asarray(prompt, np.int32), key)
        done: dict[int, list[int]] = {}
        while engine.busy:
            done |= {i: completion.tokens.tolist() for i, completion in engine.step()}
        return _said([done[i] for i in range(len(work.prompts))])

    return turn


def transformers_turn(work: Work) -> Callable[[], dict[str, Any]]:
    """Samples with `generate`, all prompts in one batch."""
    import torch
    import transformers

    torch.set_num_threads(work.threads)
    network = transformers.AutoModelForCausalLM.from_pretrained(
        work.model, dtype=torch.float32, local_files_only=True
    ).eval()
    longest = max(map(len, work.prompts))
    padded = [[0] * (longest - len(prompt)) + prompt for prompt in work.prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in work.prompts]
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
    how: dict[str, Any] = {"do_sample": False, "temperature": None}
    if work.temperature:
        how = {"do_sample": True, "temperature": work.temperature}

    def turn() -> dict[str, Any]:
        out = network.generate(
            **inputs,
            **how,
            top_k=None if not work.temperature else 0,
            top_p=None,
            max_new_tokens=work.new,
            eos_token_id=None,
            pad_token_id=0,
        )
        return _said(out[:, longest:].tolist())

    return turn


def _said(completions: Sequence[Sequence[int]]) -> dict[str, Any]:
    """A turn's answer: how many tokens, and a number for each completion."""
    digests = [zlib.crc32(np.asarray(tokens, np.int32).tobytes()) for tokens in completions]
    return {"tokens": sum(map(len, completions)), "digests": digests}


CONTENDERS = {OURS: engine_turn, PEER: transformers_turn}


# The benchmark.


def compare(work: Work, repeats: int, peer: bool) -> dict[str, Any]:
    """Tokens per second of each contender, and what they have in common."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "work.json"
        file.write_text(json.dumps(dataclasses.asdict(work)))
        names = CONTENDERS if peer else {OURS: engine_turn}
        commands = {name: [sys.executable, __file__, name, str(file)] for name in names}
        turns = take_turns(commands, repeats)
    asked = len(work.prompts) * work.new
    assert all(turn["tokens"] == asked for taken in turns.values() for turn in taken)
    found: dict[str, Any] = {
        name: {
            "tokens_per_second": spread([asked / turn["seconds"] for turn in taken]),
            "peak_bytes": max(turn["peak_bytes"] for turn in taken),
        }
        for name, taken in turns.items()
    }
    found["prompts"] = len(work.prompts)
    if peer:
        pairs = zip(turns[OURS], turns[PEER], strict=True)
        found["faster_by"] = spread([theirs["seconds"] / ours["seconds"] for ours, theirs in pairs])
        if not work.temperature:
            last = (turns[name][-1]["digests"] for name in (OURS, PEER))
            found["agree"] = float(np.mean([a == b for a, b in zip(*last, strict=True)]))
    return found


PEER_SCRIPT = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
directory, question, chat, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
model = AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.float32, local_files_only=True
).eval()
if chat == "True":
    turns = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
else:
    inputs = tokenizer(question, return_tensors="pt")
out = model.generate(**inputs, max_new_tokens=1, do_sample=False)
print("said", tokenizer.decode(out[0, -1:]))
"""


def start_up(model: Path, repeats: int, peer: bool, threads: int) -> dict[str, Measured]:
    """Seconds from the start of a process to what it is started for."""
    chat = has_chat_template(model)
    main = [sys.executable, "-u", "-m", "cipo_jax.main", "--config=configs/small.py"]
    main += [f"--config.model.source={model}", f"--config.data.chat_template={chat}"]
    generate = ["--mode=generate", f"--prompt={QUESTION}", "--config.data.max_completion_tokens=1"]
    script = [sys.executable, "-u", "-c", PEER_SCRIPT, str(model), QUESTION, str(chat)]
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as workdir:
            place = f"--workdir={workdir}/run"
            ways = {
                "first token": ([*main, *generate, place], "(1 tokens"),
                "first line of a run": ([*main, place], ""),
            }
            if peer:
                ways["transformers' first token"] = ([*script, str(threads)], "said ")
            for name, (command, said) in ways.items():
                seconds.setdefault(name, []).append(_seconds_until(command, said))
    return {name: spread(taken) for name, taken in seconds.items()}


def _seconds_until(command: Sequence[str], said: str) -> float:
    """Seconds until a line that begins so; then the process is ended.

    Raises:
      RuntimeError: it ended without one; the message has its output.
    """
    began, lines = time.perf_counter(), []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line)
                if line.strip() and line.startswith(said):
                    return time.perf_counter() - began
        finally:
            process.kill()
    raise RuntimeError(f"{' '.join(command)} never said {said!r}:\n{''.join(lines)}")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `generation.py` takes for this."""
    parser.add_argument("--model", help="a Hugging Face directory, instead of random models")
    parser.add_argument("--prompts", default="1,8,64", help="with --model: numbers of prompts")
    parser.add_argument("--new-tokens", type=int, default=64, help="with --model: for each prompt")
    parser.add_argument("--temperature", type=float, default=0.0, help="with --model; 0: greedy")
    parser.add_argument("--start-up", action="store_true", help="with --model: only time the start")


def run(options: argparse.Namespace) -> None:
    """The benchmark of `options.model`."""
    model, threads = Path(options.model).resolve(), len(os.sched_getaffinity(0))
    results: dict[str, Any] = {"model": model.name, "work": []}
    if options.start_up:
        results["start_up"] = start_up(model, options.repeats, options.peer, threads)
    else:
        for count in map(int, options.prompts.split(",")):
            prompts = make_prompts(model, count)
            work = Work(str(model), prompts, options.new_tokens, options.temperature, threads)
            results["work"].append(compare(work, options.repeats, options.peer))
            if not options.json:
                _show(model.name, work, results["work"][-1])
    if options.json:
        print(json.dumps(results))
    for name, taken in results.get("start_up", {}).items() if not options.json else ():
        print(f"  {name:26} {spread_text(taken, '.1f')} s", flush=True)


def _show(name: str, work: Work, found: dict[str, Any]) -> None:
    lengths = [len(prompt) for prompt in work.prompts]
    print(
        f"{name}: {len(lengths)} prompts of {min(lengths)} to {max(lengths)} tokens (in all "
        f"{sum(lengths)}), {work.new} new tokens each"
    )
    for contender in CONTENDERS:
        if contender in found:
            rate = spread_text(found[contender]["tokens_per_second"], ".1f")
            peak = found[contender]["peak_bytes"] / 2**30
            print(f"  {contender:16} {rate} tokens/s, at most {peak:.2f} GiB")
    if "faster_by" in found:
        agree = f", {found['agree']:.0%} of completions agree" if "agree" in found else ""
        print(f"  engine is {spread_text(found['faster_by'])}x as fast{agree}", flush=True)


def contend(name: str, file: str) -> None:
    """A contender's process."""
    turns = Turns()
    turns.serve(CONTENDERS[name](Work(**json.loads(Path(file).read_text()))))


if __name__ == "__main__":
    contend(*sys.argv[1:])
