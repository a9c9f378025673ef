"""Stop tokens by name and by id, and stop strings that are or hold special tokens."""

import pytest
from tiny_hf import make_tokenizer

from cipo_jax.data.plain_tokenizers import CharTokenizer
from cipo_jax.data.stop_tokens import with_stop_tokens
from cipo_jax.data.tokenizer import HFTokenizer
from cipo_jax.types import CipoError


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> HFTokenizer:
    directory = tmp_path_factory.mktemp("hf")
    make_tokenizer(directory)
    return HFTokenizer(directory)


def test_tokens_are_named_or_numbered(hf: HFTokenizer) -> None:
    start, tag = hf.control["<|im_start|>"], hf.control["</think>"]
    got = with_stop_tokens(hf, ("<|im_start|>", "17", "</think>", str(hf.eos_id)), ())
    assert got.stop_ids == (hf.eos_id, start, 17, tag)
    assert hf.stop_ids == (hf.eos_id,)  # not changed
    assert got.encode("<|im_start|>") == hf.encode("<|im_start|>")
    assert with_stop_tokens(CharTokenizer(), ("9",), ()).stop_ids == (1, 9)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("<|im_strt|>", "did you mean '<|im_start|>'"),
        ("Compute", "the name of a special"),
        ("99999", "an id from 0 to "),
        ("-1", "an id from 0 to "),
        ("²", "an id from 0 to "),
    ],
)
def test_unknown_tokens_are_refused(hf: HFTokenizer, name: str, hint: str) -> None:
    with pytest.raises(CipoError) as refused:
        with_stop_tokens(hf, (name,), ())
    message = str(refused.value)
    assert message.startswith(f"config.sampling.stop_tokens: got {name!r}") and hint in message


def test_a_stop_string_that_is_a_special_token_stops_at_it(hf: HFTokenizer) -> None:
    assert hf.decode([hf.control["<|im_start|>"]]) == ""
    got = with_stop_tokens(hf, (), ("<|im_start|>", "</think>", "<|im", "\n\n"))
    # A tag has a text, in which the stop string is found.
    assert hf.decode([hf.control["</think>"]]) == "</think>"
    assert got.stop_ids == (hf.eos_id, hf.control["<|im_start|>"])


def test_a_stop_string_that_holds_a_special_token_is_refused(hf: HFTokenizer) -> None:
    wanted = (
        r"stop_strings: got '\\n<\|im_start\|>user', .* '<\|im_start\|>'.* sampling.stop_tokens"
    )
    with pytest.raises(CipoError, match=wanted):
        with_stop_tokens(hf, (), ("\n<|im_start|>user",))
