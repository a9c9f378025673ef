"""The mode `export`: a run's parameters as transformers reads them, with the right tokenizer."""

import dataclasses
import json
import random
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_hf
import tiny_models

from cipo_jax.commands.export import export, save_char_tokenizer
from cipo_jax.config.keys import Config, Data, Mesh, Model
from cipo_jax.config.resolve import provenance
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.policy import model, sharding
from cipo_jax.policy.huggingface.export import export_hf
from cipo_jax.policy.sharding import make_mesh
from cipo_jax.rl.train_step import TrainState
from cipo_jax.run.parameters import find_parameters, restored_parameters
from cipo_jax.run.parts import make_model_config
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.types import CipoError

SMALL = Model(num_layers=2, d_model=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48)
CONFIG = Config(model=SMALL, mesh=Mesh(fsdp=2, data=4))


def save_run(
    workdir: Path, config: Config, vocab_size: int
) -> tuple[model.ModelConfig, dict[int, model.Params]]:
    """A run directory with checkpoints of steps 3 and 5; the architecture, and the parameters of
    each."""
    m = config.model
    shape = model.ModelConfig(
        vocab_size=vocab_size,
        rope_theta=m.rope_theta,
        qk_norm=m.qk_norm,
        tie_embeddings=m.tie_embeddings,
        num_layers=m.num_layers,
        d_model=m.d_model,
        num_heads=m.num_heads,
        num_kv_heads=m.num_kv_heads,
        head_dim=m.head_dim,
        mlp_dim=m.mlp_dim,
    )
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(provenance(config, config, set())))
    saved = {step: tiny_models.tiny_params(shape, seed=step) for step in (3, 5)}
    for step, params in saved.items():
        with Checkpoints(workdir / "checkpoints", keep=5) as checkpoints:
            state = TrainState(step=step, params=params, opt_state={"moments": np.zeros(3)})
            checkpoints.save(step, state, host={})
    return shape, saved


@pytest.mark.parametrize("changes", [{}, {"qk_norm": False, "tie_embeddings": False}])
def test_transformers_computes_the_same_logits(changes: dict, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="parity needs torch")
    tokenizer = load_tokenizer("char")
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(SMALL, **changes))
    shape, saved = save_run(tmp_path / "run", config, tokenizer.vocab_size)
    for step in ("latest", "3"):
        directory = export(config, tmp_path / "run", None, step)
        tiny_models.assert_transformers_agrees(directory, shape, saved[3 if step == "3" else 5])
        assert (
            json.loads((directory / "config.json").read_text())["max_position_embeddings"] == 112
        )  # 24 + 44 + 44
    assert {"hf-step-000003", "hf-step-000005"} <= {p.name for p in (tmp_path / "run").iterdir()}


def test_keys_that_are_no_part_of_the_model_do_not_matter(tmp_path: Path) -> None:
    """Such as the mesh of other devices, and prompts longer than any the model could take."""
    save_run(tmp_path / "run", CONFIG, load_tokenizer("char").vocab_size)
    other = dataclasses.replace(
        CONFIG,
        seed=9,
        mesh=dataclasses.replace(CONFIG.mesh, data=5, fsdp=3),
        data=dataclasses.replace(CONFIG.data, max_prompt_tokens=10**9),
        sampling=dataclasses.replace(CONFIG.sampling, tensor=7),
    )
    a = export(CONFIG, tmp_path / "run", tmp_path / "a")
    b = export(other, tmp_path / "run", tmp_path / "b")
    files = [directory / "model.safetensors" for directory in (a, b)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_parameters_of_another_shape_are_a_message(tmp_path: Path) -> None:
    save_run(tmp_path / "run", CONFIG, load_tokenizer("char").vocab_size)
    place = find_parameters(CONFIG, tmp_path / "run")
    assert place is not None
    wider = dataclasses.replace(SMALL, mlp_dim=2 * SMALL.mlp_dim)
    tokenizer = load_tokenizer("char")
    model = make_model_config(wider, CONFIG.data.tokenizer, tokenizer)
    with pytest.raises(CipoError, match="step_5: holds params of another model"):
        restored_parameters(place, model, make_mesh())


def test_generation_stops_where_the_run_does(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="loads the model")
    import transformers

    tokenizer = load_tokenizer("char")
    save_run(tmp_path / "run", CONFIG, tokenizer.vocab_size)
    directory = export(CONFIG, tmp_path / "run", tmp_path / "out")
    assert directory == tmp_path / "out"
    network = transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert network.generation_config.eos_token_id == list(tokenizer.stop_ids)
    assert network.generation_config.pad_token_id == tokenizer.pad_id


@pytest.mark.parametrize("name", ["char", "char_code"])
def test_the_embedded_tokenizers_in_transformers(name: str, tmp_path: Path) -> None:
    import transformers

    ours = load_tokenizer(name)
    save_char_tokenizer(ours, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == ours.vocab_size
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)
    draw = random.Random(0)
    pieces = [ours.decode([i]) for i in range(ours.vocab_size)]
    for _ in range(100):
        text = "".join(draw.choices(pieces, k=30))
        assert theirs(text).input_ids == ours.encode(text)
        ids = [draw.randrange(ours.vocab_size) for _ in range(30)]
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    with pytest.raises(Exception, match="UNK"):
        theirs("Ω")


def hf_run(tmp_path: Path, **data: str) -> tuple[Config, model.Params]:
    """A run that began from a Hugging Face checkpoint with a tokenizer, after one step."""
    source = tmp_path / "source"
    vocab_size = tiny_hf.make_tokenizer(source)
    shape = dataclasses.replace(tiny_models.TINY_CONFIG, vocab_size=vocab_size)
    params = tiny_models.tiny_params(shape, seed=1)
    # Beside the tokenizer, which is there already.
    export_hf(params, shape, tmp_path / "weights")
    for file in (tmp_path / "weights").iterdir():
        file.rename(source / file.name)
    config = Config(
        model=Model(source=str(source)), mesh=Mesh(fsdp=8), data=Data(**{"tokenizer": "", **data})
    )
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(provenance(config, config, set())))
    trained = jax.device_put(
        tiny_models.tiny_params(shape, seed=2),
        model.param_shardings(shape, sharding.make_mesh(1, 8, 1)),
    )
    with Checkpoints(run / "cold_start", keep=1) as checkpoints:
        checkpoints.save_params(trained)
    return config, trained


def test_a_run_from_a_checkpoint_keeps_its_files(tmp_path: Path, capsys) -> None:
    config, trained = hf_run(tmp_path)
    source = tmp_path / "source"
    (source / "generation_config.json").write_text('{"eos_token_id": [258], "top_p": 0.9}')
    directory = export(config, tmp_path / "run", None)
    assert directory.name == "hf-cold_start-000000"
    printed = capsys.readouterr().out
    assert "cold_start" in printed and f"the files of {source}" in printed
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (directory / name).read_text() == (source / name).read_text()
    assert json.loads((directory / "config.json").read_text()) == {
        **json.loads((source / "config.json").read_text()),
        "dtype": "float32",
    }
    _, loaded = tiny_models.load(directory)
    jax.tree.map(np.testing.assert_array_equal, loaded, trained)


def test_further_stop_tokens_are_exported(tmp_path: Path) -> None:
    config, _ = hf_run(tmp_path)
    file = tmp_path / "source" / "generation_config.json"
    file.write_text('{"eos_token_id": 258, "top_p": 0.9}')
    sampling = dataclasses.replace(config.sampling, stop_tokens=("7",))
    config = dataclasses.replace(config, sampling=sampling)
    directory = export(config, tmp_path / "run", None)
    values = json.loads((directory / "generation_config.json").read_text())
    assert values["top_p"] == 0.9 and set(values["eos_token_id"]) > {258, 7}


def test_the_tokenizer_trained_with_is_the_one_exported(tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny_hf.make_tokenizer(other)
    (other / "tokenizer_config.json").write_text(
        (other / "tokenizer_config.json").read_text().replace("<|im_end|>", "<|endoftext|>")
    )
    config, _ = hf_run(tmp_path, tokenizer=str(other))
    directory = export(config, tmp_path / "run", None)
    name = "tokenizer_config.json"
    assert (directory / name).read_text() == (other / name).read_text()
    assert (directory / name).read_text() != (tmp_path / "source" / name).read_text()


def test_a_tokenizer_without_equal_is_named_and_not_replaced(tmp_path: Path, capsys) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["Compute (1+2)*3.", "The answer is 9."] * 20),
        model_prefix=str(tmp_path / "pieces"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    config, _ = hf_run(tmp_path, tokenizer=str(tmp_path / "pieces.model"))
    directory = export(config, tmp_path / "run", None)
    assert "NOT exported" in capsys.readouterr().out
    assert {file.name for file in directory.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }


def test_refusals(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_run(run, CONFIG, load_tokenizer("char").vocab_size)
    deeper = dataclasses.replace(CONFIG, model=dataclasses.replace(SMALL, num_layers=3))
    with pytest.raises(CipoError, match=r"config\.model\.num_layers: 2 there, 3 here"):
        export(deeper, run, None)
    other = dataclasses.replace(CONFIG, data=Data(tokenizer="char_code"))
    with pytest.raises(CipoError, match=r"config\.data\.tokenizer: 'char' there, 'char_code' here"):
        export(other, run, None)
    with pytest.raises(CipoError, match=r"--step: got '4', .*\[3, 5\]"):
        export(CONFIG, run, None, "4")
    with pytest.raises(CipoError, match="nowhere: is not a run directory"):
        export(CONFIG, tmp_path / "nowhere", None)
    with pytest.raises(CipoError, match="run is in use"):
        export(CONFIG, run, run)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text((run / "config.json").read_text())
    with pytest.raises(CipoError, match="holds no finished checkpoint"):
        export(CONFIG, tmp_path / "empty", None)
    # What changes nothing about the parameters may differ, and the run is left as it was.
    before = sorted(p for p in run.rglob("*"))
    free = dataclasses.replace(SMALL, remat="none", compute_dtype="bfloat16")
    export(dataclasses.replace(CONFIG, model=free, num_steps=9), run, tmp_path / "out")
    assert sorted(p for p in run.rglob("*")) == before


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cipo_jax.main import run

    save_run(tmp_path / "run", CONFIG, load_tokenizer("char").vocab_size)
    file = tmp_path / "config.py"
    file.write_text(
        "from cipo_jax.config import default_config\n"
        "def get_config():\n"
        "    c = default_config()\n"
        f"    c.model.update({dataclasses.asdict(SMALL)!r})\n"
        "    c.mesh.update({'data': 4, 'fsdp': 2})\n"
        "    return c\n"
    )
    command = ["cipo_jax", f"--config={file}", "--mode=export", f"--workdir={tmp_path / 'run'}"]
    run([*command, f"--output={tmp_path / 'out'}", "--step=3"])
    assert "checkpoints, step 3" in capsys.readouterr().out
    assert (tmp_path / "out/model.safetensors").is_file()
    with pytest.raises(CipoError, match="--step: got '7'"):
        run([*command, f"--output={tmp_path / 'other'}", "--step=7"])
    assert not (tmp_path / "other").exists()
