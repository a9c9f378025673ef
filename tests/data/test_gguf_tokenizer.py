"""The tokenizer of a GGUF file encodes as the one that it was made of."""

from pathlib import Path

import pytest
from tiny_gguf import token_metadata
from tiny_hf import make_tokenizer

from cipo_jax.data.gguf_tokenizer import write_tokenizer
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.types import CipoError

TEXTS = ("How many clips? 48 + 7", "def f(x):\n    return x", "  12  ", "<|im_end|><think>", "é€")


@pytest.fixture
def metadata(tmp_path: Path) -> dict:
    make_tokenizer(tmp_path / "original")
    return token_metadata(tmp_path / "original")


def test_ids_and_chat_template_are_the_original_ones(metadata: dict, tmp_path: Path) -> None:
    write_tokenizer(metadata, tmp_path / "written")
    ours, original = (load_tokenizer(str(tmp_path / d)) for d in ("written", "original"))
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == original.encode(text) and ours.decode(ids) == text
    assert ours.frame(True) == original.frame(True) != ours.frame(False)
    names = ("vocab_size", "eos_id", "pad_id", "stop_ids")
    assert [getattr(ours, n) for n in names] == [getattr(original, n) for n in names]


def test_digits_stand_alone_where_the_metadata_say_so(metadata: dict, tmp_path: Path) -> None:
    metadata["tokenizer.ggml.tokens"].append("48")
    metadata["tokenizer.ggml.token_type"].append(1)
    metadata["tokenizer.ggml.merges"].append("4 8")
    for pre, count in (("gpt-2", 1), ("smollm", 2)):
        write_tokenizer(metadata | {"tokenizer.ggml.pre": pre}, tmp_path / pre)
        assert len(load_tokenizer(str(tmp_path / pre)).encode("48")) == count


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "llama", "model: got 'llama'; supported: 'gpt2'"),
        ("pre", "qwen2", "pre: got 'qwen2'; supported: 'gpt-2', 'smollm'"),
        ("add_bos_token", True, "add_bos_token: got True"),
        ("merges", None, "merges: got None"),
    ],
)
def test_another_kind_is_refused(
    key: str, value: object, message: str, metadata: dict, tmp_path: Path
) -> None:
    with pytest.raises(CipoError, match=rf"tokenizer\.ggml\.{message}"):
        write_tokenizer(metadata | {f"tokenizer.ggml.{key}": value}, tmp_path / "written")
    assert not (tmp_path / "written").exists()
