"""A run's parameters as a Hugging Face directory: the mode `export`.

    python -m cipo_jax.main --mode=export --workdir=runs/x [--output=directory] [--step=N]

Decides which tokenizer files go along. Which checkpoint is taken is decided in `run/parameters.py`;
tensors and config.json are `policy/huggingface/export`'s.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config
from cipo_jax.data.plain_tokenizers import CharTokenizer
from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.policy.huggingface.export import export_hf, require_unused
from cipo_jax.policy.huggingface.hub import model_directory
from cipo_jax.policy.sharding import make_mesh
from cipo_jax.run.parameters import find_parameters, restored_parameters
from cipo_jax.run.parts import make_model_config, open_tokenizer
from cipo_jax.run.records.files import explained
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError

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


def command(invocation: Invocation) -> None:
    """The mode."""
    output = Path(flag) if (flag := invocation.flags["output"]) else None
    config = invocation.config
    with Heartbeat(config.log.heartbeat_seconds) as heartbeat:
        export(config, invocation.workdir, output, invocation.flags["step"], heartbeat)


def export(
    config: Config,
    workdir: Path,
    output: Path | None,
    step: str = "latest",
    heartbeat: Heartbeat | None = None,
) -> Path:
    """Writes the parameters of the run in `workdir` so that transformers loads them.

    Only parameters are read, not the optimiser's state: that takes the memory of the model alone.

    Args:
      output: must not exist yet, or be empty; None: `workdir`/hf-<phase>-<step>.
      step: as in `parameters.find_parameters`.
      heartbeat: says what the mode is doing; None: nothing does.

    Returns:
      The directory.

    Raises:
      CipoError: `workdir` holds no run, one of another model than `config`'s, or not that step;
        `output` is in use; or transformers has no architecture for the model.
    """
    place = find_parameters(config, workdir, step)
    if place is None:
        raise CipoError(
            f"--workdir={workdir}: is not a run directory (no config.json); the weights of "
            "config.model.source are a Hugging Face directory already"
        )
    heartbeat = heartbeat or Heartbeat()
    heartbeat.begin("export", f"reading {place}")
    tokenizer = open_tokenizer(config)
    model_config = make_model_config(config.model, config.data.tokenizer, tokenizer)
    output = output or workdir / f"hf-{place.name}"
    require_unused(output)
    print(f"{place} -> {output}", flush=True)
    # Not the config's mesh: the run may have had other devices.
    shards = math.gcd(model_config.d_model, jax.device_count())
    mesh = make_mesh(data=-1, fsdp=shards)
    params = restored_parameters(place, model_config, mesh)
    source = model_directory(config.model.source) if config.model.source else None
    if source is None:
        # The longest context that this model has seen, but for a template's own tokens.
        d = config.data
        longest = d.max_prompt_tokens + d.max_attempt_tokens + d.max_completion_tokens
        longest = config.batch.row_tokens or longest
        model_config = dataclasses.replace(model_config, max_positions=longest)
    add_files, about = _tokenizer_files(config, tokenizer, source)
    heartbeat.begin("export", f"writing {output}")
    with jax.set_mesh(mesh), explained(output):
        export_hf(params, model_config, output, source, add_files=add_files)
    print(f"{output}: parameters of {place}\ntokenizer: {about}", flush=True)
    return output


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
        file = "generation_config.json"
        values: dict[str, Any] = {"pad_token_id": tokenizer.pad_id}
        if source is not None and not name and (source / file).is_file():
            shutil.copyfile(source / file, target / file)
            values = json.loads((source / file).read_text(encoding="utf-8"))
        ids = values.get("eos_token_id")
        known = {tokenizer.eos_id, *(ids if isinstance(ids, list) else [ids])}
        if ids is None or not known.issuperset(tokenizer.stop_ids):
            values["eos_token_id"] = list(tokenizer.stop_ids)
            (target / file).write_text(json.dumps(values, indent=2) + "\n")

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
