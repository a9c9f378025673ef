"""A pretrained model, SmolLM2-135M-Instruct, goes through the program as transformers has it.

`make test-all` fetches it into checkpoints/, by `--mode=fetch`. Where that cannot be, these tests
are skipped.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from places import NO_REAL_MODEL, REAL_MODEL, ROOT, TESTS
from tiny_models import load, one_device

from cipo_jax.commands.export import export
from cipo_jax.config.command_line import parse
from cipo_jax.config.keys import Config
from cipo_jax.data.prompts import PromptWriter
from cipo_jax.main import MODES
from cipo_jax.policy import model
from cipo_jax.run.parts import open_engine, open_policy, open_prompts, open_tokenizer
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.sizes import with_sizes
from cipo_jax.sampling.engine import Engine
from cipo_jax.types import Problem

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(600),  # a run takes most of a minute where nothing else does
    pytest.mark.skipif(not (REAL_MODEL / "config.json").is_file(), reason=NO_REAL_MODEL),
]
QUESTIONS = (
    "What is the capital of France?",
    "Tom has 3 boxes with 12 pens each. He gives 5 pens away. How many pens are left?",
    "Write a haiku about the sea, the wind and a very small boat.",
)
NEW = 24  # tokens
ARGUMENTS = [
    f"--config={ROOT / 'configs' / 'small.py'}",
    f"--config.model.source={REAL_MODEL}",
    f"--config.data.max_completion_tokens={NEW}",
]


@pytest.fixture(scope="module")
def config() -> Config:
    return parse(["cipo_jax", *ARGUMENTS], MODES).config


@pytest.fixture(scope="module")
def prompts(config: Config) -> PromptWriter:
    return open_prompts(config, open_tokenizer(config))


@pytest.fixture(scope="module")
def asked(prompts: PromptWriter) -> list[np.ndarray]:
    """The tokens of the questions' prompts."""
    return [prompts.base(Problem(question, question)).tokens for question in QUESTIONS]


@pytest.fixture(scope="module")
def ours() -> tuple[model.ModelConfig, model.Params]:
    return load(REAL_MODEL)


@pytest.fixture(scope="module")
def engine(config: Config, asked: list[np.ndarray]) -> Engine:
    tokenizer, mesh = open_tokenizer(config), one_device()
    policy = open_policy(config, tokenizer, mesh, max(map(len, asked)))
    return open_engine(with_sizes(config, policy, len(asked)).sampling, policy, tokenizer)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a run of one step, on one device, as a user's command does it.

    Own verdicts, since the model solves too few problems to learn from so few.
    """
    workdir = tmp_path_factory.mktemp("real") / "run"
    settings: dict[str, Any] = {
        "num_steps": 1,
        "cold_start.max_steps": 0,
        "data.max_operations": 1,
        "data.max_attempt_tokens": 16,
        "data.max_completion_tokens": 12,
        "data.eval_problems": 1,
        "rollout.problems_per_step": 2,
        "rollout.group_size": 2,
        "correction.group_size": 2,
        "correction.cut_anchors": True,
        "verifier.kind": f"{TESTS / 'tiny_run.py'}:verify",
        "verifier.workers": 1,
        "eval.every": 0,
        "eval.at_start": False,
        "eval.samples": 1,
        "eval.pass_at": (1,),
        "log.tensorboard": False,
    }
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "cipo_jax.main", *ARGUMENTS, *flags, f"--workdir={workdir}"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    yield workdir
    shutil.rmtree(workdir)  # some gigabytes


def network_of(directory: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch", reason="parity needs torch: pip install cipo_jax[test]")
    return transformers.AutoModelForCausalLM.from_pretrained(directory).float().eval()


def greedy_of_transformers(network: Any, asked: list[np.ndarray]) -> list[list[int]]:
    import torch

    completions = []
    for prompt in asked:
        ids = torch.tensor(prompt).long()[None]
        mask = torch.ones_like(ids)
        both = network.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW)
        completions.append(both[0, len(prompt) :].tolist())
    return completions


def greedy(engine: Engine, params: model.Params, asked: list[np.ndarray]) -> list[list[int]]:
    engine.open(params)
    for i, prompt in enumerate(asked):
        engine.submit(i, prompt, np.zeros(2, np.uint32), temperature=0.0)
    found: dict[int, list[int]] = {}
    while engine.busy:
        found |= {i: completion.tokens.tolist() for i, completion in engine.step()}
    return [found[i] for i in range(len(asked))]


def test_prompts_and_tokens_are_those_of_transformers(
    config: Config, asked: list[np.ndarray]
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(REAL_MODEL)
    tokenizer = open_tokenizer(config)
    for question, prompt in zip(QUESTIONS, asked, strict=True):
        turn = [{"role": "user", "content": question}]
        wanted = theirs.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        assert prompt.tolist() == wanted
    for text in (*QUESTIONS, "3 × 4 = 12 … ça va?\n\n\\boxed{12}", "  two  spaces\t"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode(text) == theirs(text, add_special_tokens=False).input_ids
    end = theirs.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.stop_ids == (end,) and end not in tokenizer.encode("<|im_end|>")


def test_logits_and_greedy_tokens_are_those_of_transformers(
    engine: Engine, ours: tuple[model.ModelConfig, model.Params], asked: list[np.ndarray]
) -> None:
    import torch

    network = network_of(REAL_MODEL)
    longest = max(map(len, asked))
    tokens, segments = np.zeros((2, len(asked), longest), np.int32)
    for row, prompt in enumerate(asked):
        tokens[row, : len(prompt)], segments[row, : len(prompt)] = prompt, 1
    positions = np.broadcast_to(np.arange(longest, dtype=np.int32), tokens.shape)
    shape, params = ours

    @jax.jit
    def logits(params: model.Params) -> jax.Array:
        hidden, _ = model.hidden_states(shape, params, tokens, positions, segments)
        return model.unembed(shape, params, hidden)

    got = np.asarray(logits(params))
    with torch.no_grad():
        wanted = network(torch.tensor(tokens).long(), torch.tensor(segments).long()).logits.numpy()
    real = segments > 0
    assert np.abs(wanted[real]).max() > 10
    np.testing.assert_allclose(got[real], wanted[real], rtol=0, atol=1e-3)
    assert greedy(engine, params, asked) == greedy_of_transformers(network, asked)


def test_one_step_of_both_streams(run: Path) -> None:
    (step,) = [line for line in read_metrics(run) if line["phase"] == "train"]
    numbers = {k: v for k, v in step.items() if isinstance(v, int | float)}
    assert len(numbers) > 40 and np.isfinite([*numbers.values()]).all()
    assert step["grad_norm"] > 0
    streams = [attempt["stream"] for attempt in read_attempts(run, "train")]
    assert streams.count("base") == 4 and streams.count("correction") > 0


def test_its_export_is_the_same_model_in_transformers(
    run: Path,
    config: Config,
    engine: Engine,
    ours: tuple[model.ModelConfig, model.Params],
    asked: list[np.ndarray],
    tmp_path: Path,
) -> None:
    directory = export(config, run, tmp_path / "exported")
    _, params = load(directory)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, ours[1])
    assert all(0 < change < 1e-3 for change in jax.tree.leaves(moved)), moved
    wanted = greedy_of_transformers(network_of(directory), asked)
    assert greedy(engine, params, asked) == wanted
    shutil.rmtree(directory)
