"""The tokenizer in the metadata of a GGUF file, written as files that transformers loads.

Decides which of them are understood: byte-level BPE whose splitting rule is in `_SPLITS`. The
metadata name the rule and do not hold it. Reading the file is `policy/huggingface/gguf`'s.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cipo_jax.types import CipoError

# tokenizer.ggml.pre -> whether digits stand alone, besides GPT-2's splitting of words.
_SPLITS = {"gpt-2": False, "smollm": True}
_CONTROL, _USER_DEFINED = 3, 4  # in tokenizer.ggml.token_type
_NAMED = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}


def write_tokenizer(metadata: Mapping[str, Any], directory: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the chat template into `directory`.

    Raises:
      CipoError: a tokenizer of another kind, or missing metadata.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast  # heavy, and needed for nothing else here

    def read(key: str, wanted: tuple = ()) -> Any:
        value = metadata.get(f"tokenizer.ggml.{key}")
        if value is None or (wanted and value not in wanted):
            supported = f"; supported: {', '.join(map(repr, wanted))}" if wanted else ""
            raise CipoError(f"GGUF metadata: tokenizer.ggml.{key}: got {value!r}{supported}")
        return value

    read("model", ("gpt2",))
    digits = _SPLITS[read("pre", tuple(_SPLITS))]
    if metadata.get("tokenizer.ggml.add_bos_token"):
        raise CipoError("GGUF metadata: tokenizer.ggml.add_bos_token: got True, supported: False")
    tokens, types = read("tokens"), read("token_type")
    merges = [tuple(merge.split(" ")) for merge in read("merges")]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alone = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*alone, split])
    backend.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types, strict=True):
        if kind in (_CONTROL, _USER_DEFINED):
            added = AddedToken(token, special=kind == _CONTROL, normalized=False)
            (backend.add_special_tokens if kind == _CONTROL else backend.add_tokens)([added])
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for key, name in _NAMED.items()}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        **{name: tokens[i] for name, i in ids.items() if i is not None},
    )
    tokenizer.chat_template = metadata.get("tokenizer.chat_template")
    tokenizer.save_pretrained(directory)
