"""A run's parameters as a Hugging Face directory: the mode `export`.

Decides which checkpoint is taken, that the config belongs to it, and which tokenizer files go
along. Tensors and config.json are `policy/hf_export`'s.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax

from cipo_jax.config.keys import Config
from cipo_jax.data.tokenizer import CharTokenizer, Tokenizer
from cipo_jax.policy import model, sharding
from cipo_jax.policy.huggingface.export import export_hf, require_unused
from cipo_jax.policy.huggingface.hub import model_directory
from cipo_jax.policy.model import ModelConfig, Params
from cipo_jax.run.parts import make_model_config, open_tokenizer
from cipo_jax.run.records.checkpoint import Checkpoints, checkpoint_root
from cipo_jax.run.records.directory import config_differences
from cipo_jax.types import CipoError

# Keys of the run that make no difference to what is exported.
_FREE = ("model.remat", "model.unroll", "model.compute_dtype")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def export(config: Config, workdir: Path, output: Path | None, step: int | None) -> Path:
    """Writes the parameters of the run in `workdir` so that transformers loads them.

    Only parameters are read, not the optimiser's state, so it takes the memory of the model alone.

    Args:
      output: must not exist yet, or be empty; None: `workdir`/hf-step<N>.
      step: which checkpoint; None: the newest, or that of the cold start if the run has no other.

    Returns:
      The directory.

    Raises:
      CipoError: `workdir` holds no run, one of another model than `config`'s, or not that step;
        `output` is in use; or transformers has no architecture for the model.
    """
    _require_same_model(config, workdir)
    tokenizer = open_tokenizer(config)
    model_config = make_model_config(config, tokenizer)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    checkpoint, step = _find(checkpoint_root(workdir, config.checkpoint.directory), step)
    output = output or workdir / f"hf-{checkpoint.name}-step{step}"
    require_unused(output)
    params = _read(checkpoint, step, model_config, mesh)
    source = None
    if config.model.source:
        source = model_directory(config.model.source)
    else:
        # Rows of training are the longest context that this model has been shown.
        model_config = dataclasses.replace(model_config, max_positions=config.batch.row_tokens)
    add_files, about = _tokenizer_files(config, tokenizer, source)
    with jax.set_mesh(mesh):
        export_hf(params, model_config, output, source, add_files=add_files)
    print(f"{output}: parameters after step {step} of {checkpoint}\ntokenizer: {about}", flush=True)
    return output


def _require_same_model(config: Config, workdir: Path) -> None:
    file = workdir / "config.json"
    if not file.is_file():
        raise CipoError(f"--workdir={workdir}: is not a run directory (no config.json)")
    differences = {
        key: values
        for prefix in ("model.", "data.tokenizer", "batch.row_tokens")
        for key, values in config_differences(file, config, only=prefix).items()
        if key not in _FREE
    }
    if differences:
        raise CipoError(
            f"--workdir={workdir} holds a run of another model than --config describes:\n"
            + "\n".join(
                f"  config.{key}: {theirs!r} there, {ours!r} here"
                for key, (theirs, ours) in differences.items()
            )
        )


def _find(root: Path, step: int | None) -> tuple[Path, int]:
    """The directory of checkpoints and the step in it."""
    for directory in (root / "checkpoints", root / "cold_start"):
        if not directory.is_dir():
            continue
        with Checkpoints(directory, keep=1, read_only=True) as saved:
            steps = saved.all_steps()
        if step in steps or (steps and step is None):
            return directory, steps[-1] if step is None else step
        if steps:
            raise CipoError(
                f"--step={step}: {directory} has the steps {', '.join(map(str, steps))}"
            )
    raise CipoError(f"{root}: holds no finished checkpoint")


def _read(directory: Path, step: int, config: ModelConfig, mesh: jax.sharding.Mesh) -> Params:
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        model.abstract_params(config),
        model.param_shardings(config, mesh),
    )
    with Checkpoints(directory, keep=1, read_only=True) as saved:
        return saved.restore_params(like, step)


# Tokenizers.


def _tokenizer_files(
    config: Config, tokenizer: Tokenizer, source: Path | None
) -> tuple[Callable[[Path], None], str]:
    """What writes the tokenizer's files and generation_config.json, and a line about it."""
    name = config.data.tokenizer
    directory = source if not name else Path(name)

    def add_files(target: Path) -> None:
        if isinstance(tokenizer, CharTokenizer):
            save_char_tokenizer(tokenizer, target)
        elif directory is not None and directory.is_dir():
            for file in _TOKENIZER_FILES:
                if (directory / file).is_file():
                    shutil.copyfile(directory / file, target / file)
        generation = "generation_config.json"
        if source is not None and not name and (source / generation).is_file():
            shutil.copyfile(source / generation, target / generation)
        else:
            values = {"eos_token_id": list(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id}
            (target / generation).write_text(json.dumps(values, indent=2) + "\n")

    if isinstance(tokenizer, CharTokenizer):
        return add_files, f"{name!r}, as a tokenizer of transformers"
    if directory is not None and directory.is_dir():
        return add_files, f"the files of {directory}"
    # transformers would build another tokenizer from the same pieces.
    return add_files, f"NOT exported: {name} has no equal in transformers; use it beside the model"


def save_char_tokenizer(tokenizer: CharTokenizer, directory: Path) -> None:
    """Writes an embedded tokenizer for `transformers.AutoTokenizer`: the same ids for the same
    texts, and like it an error for a character without an id."""
    # Heavy, and not needed for other runs.
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    texts = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]
    # Characters that no text of the task holds, so that none is read as a control token.
    names = {tokenizer.pad_id: "␀", tokenizer.eos_id: "␃"}
    vocabulary = {names.get(i, text): i for i, text in enumerate(texts)}
    assert len(vocabulary) == tokenizer.vocab_size and not set(names.values()) & set(texts)
    pieces = sorted(filter(None, texts), key=len, reverse=True)
    special = r"\.^$*+?()[]{}|-"
    escaped = ("".join("\\" + c if c in special else c for c in piece) for piece in pieces)
    backend = Backend(models.WordLevel(vocabulary))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(escaped)), behavior="isolated")
    backend.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=names[tokenizer.pad_id],
        eos_token=names[tokenizer.eos_id],
        clean_up_tokenization_spaces=False,
    ).save_pretrained(directory)
