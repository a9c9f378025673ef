import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipo_jax.config.keys import Config
from cipo_jax.data.plain_tokenizers import ByteTokenizer, CharTokenizer
from cipo_jax.data.tasks import arithmetic
from cipo_jax.data.tasks.generated import GeneratedProblems
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.types import CipoError

reproducible = settings(derandomize=True, deadline=None)


# --- char ---


def test_char_writes_the_embedded_task_and_the_default_templates():
    tokenizer = CharTokenizer()
    templates = Config().data.prompt_template + Config().data.correction_template
    for field in ("{question}", "{attempt}"):
        templates = templates.replace(field, "")
    texts = [templates]
    for problem in GeneratedProblems(arithmetic.TASK, 0, "train").batch(0, 50):
        texts += [problem.question, arithmetic.solution(problem)]
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not {tokenizer.pad_id, tokenizer.eos_id} & set(ids)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.vocab_size <= 64


def test_char_spells_numbers_digit_by_digit():
    tokenizer = CharTokenizer()
    assert len(tokenizer.encode("97")) == 2
    assert len(tokenizer.encode("\\boxed{")) == 1


@reproducible
@given(st.lists(st.integers(0, CharTokenizer().vocab_size - 1)))
def test_char_can_quote_whatever_the_model_emits(ids):
    tokenizer = CharTokenizer()
    text = tokenizer.decode(np.array(ids, np.int32))
    again = tokenizer.encode(text)
    assert tokenizer.decode(again) == text
    assert len(again) <= len(ids)


def test_char_names_the_character_it_cannot_write():
    with pytest.raises(CipoError, match="'é' of 'Compute é.*data.tokenizer"):
        CharTokenizer().encode("Compute é")
    with pytest.raises(CipoError, match=r"'\\\\'"):
        CharTokenizer().encode("\\frac")


# --- bytes ---


@reproducible
@given(st.text())
def test_bytes_write_any_text(text):
    tokenizer = load_tokenizer("bytes")
    assert isinstance(tokenizer, ByteTokenizer)
    ids = tokenizer.encode(text)
    assert tokenizer.decode([tokenizer.pad_id, *ids, tokenizer.eos_id, 999]) == text
    assert all(2 <= i < tokenizer.vocab_size for i in ids)


def test_bytes_that_are_no_text_and_chats():
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(np.array([0xC3 + 2, 65 + 2])) == "\ufffdA"
    assert tokenizer.frame(chat=False) == ([], [])
    with pytest.raises(CipoError, match="chat_template"):
        tokenizer.frame(chat=True)
