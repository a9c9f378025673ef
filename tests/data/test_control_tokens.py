"""A text is cut until no control token comes of it, and the text stays the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipo_jax.data.control_tokens import encode_without_control
from cipo_jax.data.plain_tokenizers import ByteTokenizer
from cipo_jax.types import CipoError

CONTROL = {"<end>": 1000, "</a>": 1001}


def encode(text: str) -> list[int]:
    """Codes of the characters; a control token where its name stands, and for "ab" as well."""
    ids, rest = [], text
    while rest:
        name = next((n for n in (*CONTROL, "ab") if rest.startswith(n)), rest[0])
        ids.append(1001 if name == "ab" else CONTROL.get(name, ord(name[0])))
        rest = rest[len(name) :]
    return ids


@given(st.lists(st.sampled_from(["<end>", "</a>", "<", "a", "b", ">", "end", "</"])).map("".join))
def test_no_text_gives_a_control_token(text):
    ids = encode_without_control(encode, text, CONTROL)
    assert "".join(map(chr, ids)) == text


def test_ordinary_text_is_encoded_as_it_is():
    assert encode_without_control(encode, "<en d>", CONTROL) == encode("<en d>")


def test_a_character_that_is_only_a_control_token_is_refused():
    with pytest.raises(CipoError, match="writes 'x' only as a control token"):
        encode_without_control(lambda text: [1000] * len(text), "x", CONTROL)


def test_half_a_character_is_refused():
    with pytest.raises(CipoError, match=r"text 'How .ud83d many': '.ud83d' is half of a character"):
        encode_without_control(encode, "How \ud83d many", CONTROL)
    with pytest.raises(CipoError, match="half of a character"):
        ByteTokenizer().encode("\ud83d")
