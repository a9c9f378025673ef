"""A look at a checkpoint: what is printed, in which pieces, and which mistakes are named."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from cipo_jax.commands import generate as module
from cipo_jax.commands.generate import generate, settled_text
from cipo_jax.config import default_config
from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import provenance, resolve
from cipo_jax.main import run as command
from cipo_jax.run.parameters import fresh_parameters
from cipo_jax.run.parts import open_parts
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.run.records.directory import claim_workdir
from cipo_jax.sampling.engine import Engine
from cipo_jax.types import CipoError

QUESTIONS = ["Compute (7+2).", "Compute ((3*4)-5)."]


def tiny_config() -> Config:
    c = default_config()
    c.model.num_layers, c.model.d_model, c.model.head_dim, c.model.mlp_dim = 1, 16, 8, 24
    c.mesh.fsdp, c.mesh.data = 1, -1
    c.sampling.chunk = 4
    return resolve(c)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with the parameters of step 0."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny_config()
    claim_workdir(workdir, config, provenance(config, config, set()))
    with open_parts(config) as parts, Checkpoints(workdir / "checkpoints", keep=1) as saved:
        saved.save_params(fresh_parameters(config.model, config.seed, parts.policy))
    return workdir


@pytest.mark.slow
def test_a_single_completion_is_shown_as_it_grows(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces: list[str] = []
    step = Engine.step

    def watched(engine: Engine):
        pieces.append(capsys.readouterr().out)
        return step(engine)

    monkeypatch.setattr(Engine, "step", watched)
    (text,) = generate(tiny_config(), run, QUESTIONS[:1])
    rest = capsys.readouterr().out
    assert pieces[0] == f"parameters: {run}/checkpoints, step 0\n"
    streamed = "".join(pieces[1:])
    assert len(list(filter(None, pieces[1:]))) >= 3  # 44 tokens in chunks of four
    shown, _, summary = (streamed + rest).rpartition("\n(")
    assert shown == text and text.startswith(streamed)
    assert summary.endswith(("ended by a stop token)\n", "ended by the token limit)\n"))
    assert "tokens, mean log-prob -" in summary


@pytest.mark.slow
def test_prompts_and_samples_are_numbered(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = generate(tiny_config(), run, QUESTIONS, samples=2)
    printed = capsys.readouterr().out
    assert len(texts) == 4 and len(set(texts)) == 4
    for i, text in enumerate(texts):
        assert f"[prompt {i // 2}, sample {i % 2}]\n{text}\n(" in printed
    assert printed.count("mean log-prob") == 4
    assert generate(tiny_config(), run, QUESTIONS, samples=2) == texts
    # Greedy samples are all the same.
    c = tiny_config()
    c = dataclasses.replace(c, sampling=dataclasses.replace(c.sampling, temperature=0.0))
    first, second = generate(c, run, QUESTIONS[:1], samples=2)
    assert first == second


@pytest.mark.slow
def test_it_is_the_runs_policy_that_speaks(run: Path) -> None:
    """The same as its engine says to the prompt of training."""
    c = tiny_config()
    with open_parts(c) as parts:
        prompt = parts.prompts.base(module.Problem("p", QUESTIONS[0])).tokens
        engine = module.open_engine(parts.config.sampling, parts.policy, parts.tokenizer)
        params = fresh_parameters(c.model, c.seed, parts.policy)
        ((_, completion),) = engine.sample(params, [prompt], 1, jax.random.key(c.seed))
        wanted = parts.tokenizer.decode(completion.tokens.tolist())
    assert generate(c, run, QUESTIONS[:1]) == [wanted]


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--workdir={run}", "--mode=generate", "--prompt=Compute (7+2).", "--samples=2"]
    command(["cipo_jax", *flags, "--config.sampling.temperature=0.5"])
    assert capsys.readouterr().out.count("ended by") == 2
    with pytest.raises(CipoError, match="--prompt is missing"):
        command(["cipo_jax", *flags[:2]])
    with pytest.raises(CipoError, match="--samples: got 0"):
        command(["cipo_jax", *flags[:3], "--samples=0"])
    with pytest.raises(CipoError, match=r"--step: got '7', .*\[0\]"):
        command(["cipo_jax", *flags, "--step=7"])
    with pytest.raises(CipoError, match=r"problem '--prompt 0': .*max_prompt_tokens"):
        command(["cipo_jax", *flags[:2], f"--prompt={'1+' * 30}1"])


@pytest.mark.parametrize(
    ("text", "stops", "settled"),
    [
        ("abc", (), "abc"),
        ("abc\ufffd", (), "abc"),  # half a character
        ("abc\n", ("\n\n",), "abc"),
        ("ab<e", ("<end>", "e>"), "ab"),
        ("<end", ("<end>",), ""),
        ("", ("x",), ""),
    ],
)
def test_only_what_is_settled_is_shown(text: str, stops: tuple[str, ...], settled: str) -> None:
    assert settled_text(text, stops) == settled


@pytest.mark.parametrize(
    ("is_run", "setting", "kept"),
    [(True, "auto", "auto"), (False, "auto", ""), (False, "elsewhere", "elsewhere")],
)
def test_programs_are_kept_where_a_place_is_known(
    run: Path, monkeypatch: pytest.MonkeyPatch, is_run: bool, setting: str, kept: str
) -> None:
    """A directory that is no run's gets no files."""

    def opened(directory: str, workdir: Path) -> None:
        assert (directory, workdir) == (kept, run)
        raise InterruptedError

    monkeypatch.setattr(module, "open_compilation_cache", opened)
    if not is_run:
        monkeypatch.setattr(module, "find_parameters", lambda *_: None)
    log = dataclasses.replace(tiny_config().log, compilation_cache=setting)
    with pytest.raises(InterruptedError):
        generate(dataclasses.replace(tiny_config(), log=log), run, QUESTIONS[:1])


def test_stop_strings_end_what_is_shown(run: Path) -> None:
    (text,) = generate(tiny_config(), run, QUESTIONS[:1])
    stop = text[9:11]
    c = tiny_config()
    c = dataclasses.replace(c, sampling=dataclasses.replace(c.sampling, stop_strings=(stop,)))
    (cut,) = generate(c, run, QUESTIONS[:1])
    assert cut == text[: text.index(stop)] and np.isin(list(stop), list(text)).all()
