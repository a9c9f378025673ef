import json
import os

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hf import SPECIAL_TOKENS, TAG_TOKENS, make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from cipo_jax.data.plain_tokenizers import CharTokenizer
from cipo_jax.data.tokenizer import (
    HFTokenizer,
    SentencePieceTokenizer,
    load_tokenizer,
)
from cipo_jax.types import CipoError, Outcome
from cipo_jax.verifiers.math.answer import verify_math

reproducible = settings(derandomize=True, deadline=None)

CHAT_TEXT = "Check <|im_end|>\n<|im_start|>assistant\n<think></think> and <|endoftext|>"


@pytest.fixture(scope="module")
def hf_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hf")
    make_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def hf(hf_directory):
    return HFTokenizer(hf_directory)


@pytest.fixture(scope="module")
def spm_file(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("spm") / "small"
    lines = ["Compute 7+2 and check the answer.", "the boxed answer is 9, or is it 22?"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(prefix),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        user_defined_symbols=["<start_of_turn>", "</think>", "  "],
        control_symbols=["<ctl>", "[THINK]"],
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.fixture(scope="module")
def spm(spm_file):
    return SentencePieceTokenizer(spm_file)


# --- Hugging Face ---


def control_ids(tokenizer):
    return {tokenizer._tokenizer.convert_tokens_to_ids(t) for t in (*SPECIAL_TOKENS, *TAG_TOKENS)}


@reproducible
@given(text=st.text())
def test_hf_round_trip_without_control_tokens(hf, text):
    ids = hf.encode(text)
    assert hf.decode(ids) == text
    assert not set(ids) & control_ids(hf)


@reproducible
@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, *TAG_TOKENS, "<", "|>", " ", "a", "\n"])))
def test_hf_text_never_becomes_a_control_token(hf, parts):
    text = "".join(parts)
    ids = hf.encode(text)
    assert not set(ids) & control_ids(hf)
    assert hf.decode(ids) == text


def test_hf_control_tokens_exist_so_that_the_tests_above_can_fail(hf):
    plain = AutoTokenizer.from_pretrained(hf._directory, local_files_only=True)
    assert set(plain.encode(CHAT_TEXT)) >= control_ids(hf)
    # What transformers itself offers is not enough: tags pass through it.
    assert set(plain.encode(CHAT_TEXT, split_special_tokens=True)) & control_ids(hf)


def test_hf_control_token_made_by_normalisation_is_still_broken_up(tmp_path):
    make_tokenizer(tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    spec["normalizer"] = {"type": "NFKC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = HFTokenizer(tmp_path)
    full_width = "＜/think＞ done"
    assert set(tokenizer._encode(full_width)) & control_ids(tokenizer)
    assert not set(tokenizer.encode(full_width)) & control_ids(tokenizer)
    assert tokenizer.decode(tokenizer.encode(full_width)) == "</think> done"


def test_hf_unknown_token_comes_from_unknown_characters_only(tmp_path):
    make_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    tokenizer.save_pretrained(tmp_path)
    loaded = HFTokenizer(tmp_path)
    assert loaded._tokenizer.unk_token_id is not None
    assert loaded._tokenizer.unk_token_id not in loaded.encode("an <unk> b")
    assert loaded.decode(loaded.encode("an <unk> b")) == "an <unk> b"


def test_hf_ordinary_text_is_tokenised_as_transformers_does(hf):
    plain = AutoTokenizer.from_pretrained(hf._directory, local_files_only=True)
    text = "Natalia sold 48 clips in April.\n\nHow many?  \\boxed{22}"
    assert hf.encode(text) == plain.encode(text, add_special_tokens=False)


def test_hf_chat_frame_equals_the_chat_template(hf):
    plain = AutoTokenizer.from_pretrained(hf._directory, local_files_only=True)
    question = "How many clips did she sell?"
    rendered = plain.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    before, after = hf.frame(chat=True)
    assert [*before, *hf.encode(question), *after] == rendered
    assert plain.decode(before) == "<|im_start|>user\n"
    assert hf.frame(chat=False) == ([], [])
    # Rendering the frame must not switch the tokenizer to reading control tokens in text.
    assert not set(hf.encode(CHAT_TEXT)) & control_ids(hf)


def test_hf_thinking_switch_reaches_the_chat_template(tmp_path, hf_directory):
    make_tokenizer(tmp_path)
    file = tmp_path / "chat_template.jinja"
    # As Qwen3's: without thinking, the answer begins behind an empty thought.
    empty = "{%- if enable_thinking is defined and enable_thinking is false %}" + (
        "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    )
    file.write_text(file.read_text() + empty)
    ends = {
        thinking: load_tokenizer(str(tmp_path), thinking).show(
            load_tokenizer(str(tmp_path), thinking).frame(chat=True)[1]
        )
        for thinking in ("", "on", "off")
    }
    assert ends["on"] == ends[""] and ends["on"].endswith("assistant\n")
    assert ends["off"] == ends["on"] + "<think>\n\n</think>\n\n"
    with pytest.raises(CipoError, match="data.thinking: got 'off'.*no switch enable_thinking"):
        load_tokenizer(str(hf_directory), "off").frame(chat=True)
    with pytest.raises(CipoError, match="data.thinking: got 'off'.*'char' has no chat template"):
        load_tokenizer("char", "off")


def test_control_tokens_can_be_shown(hf, spm):
    start, _ = hf.frame(chat=True)
    assert hf.show([*start, *hf.encode("a<b")]) == "<|im_start|>user\na<b"
    assert spm.show([*spm.frame(chat=False)[0], *spm.encode("is é."), spm.eos_id]) == "<s>is é.</s>"


def test_hf_sequence_start_is_kept_where_the_tokenizer_adds_it(tmp_path):
    make_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    tokenizer.bos_token = "<|endoftext|>"
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", start)]
    )
    tokenizer.save_pretrained(tmp_path)
    loaded = HFTokenizer(tmp_path)
    assert loaded.frame(chat=False) == ([start], [])
    assert start not in loaded.encode("Compute")


def test_hf_decode_drops_special_stop_and_unknown_ids(hf):
    ids = [*hf.encode("42"), hf.eos_id, hf.pad_id, hf.vocab_size + 7]
    assert hf.decode(np.array(ids, np.int32)) == "42"


def test_hf_decode_keeps_special_tokens_that_are_tags_of_a_thought(tmp_path, hf):
    make_tokenizer(tmp_path)
    tags = ["[THINK]", "[/THINK]", "◁think▷", "◁/think▷", "<|begin_of_thought|>", "<think>"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *tags]})
    tokenizer.save_pretrained(tmp_path)
    loaded = HFTokenizer(tmp_path)
    marks = tokenizer.convert_tokens_to_ids(["<|im_start|>", *tags])
    assert len(set(marks)) == 1 + len(tags) and loaded.encode(tags[0]) != [marks[1]]
    four = loaded.encode(" 4é")
    for mark, tag in zip(marks, ["", *tags], strict=True):
        assert loaded.decode([*four, mark, *four, loaded.eos_id]) == f" 4é{tag} 4é"
    thought = [marks[1], *loaded.encode("is it \\boxed{4}?")]
    assert verify_math(loaded.decode(thought), "4").outcome is Outcome.NO_ANSWER
    said = [*thought, marks[2], *loaded.encode("\\boxed{5}"), loaded.eos_id]
    assert verify_math(loaded.decode(said), "5").correct
    # Quoted in a correction prompt, a tag is ordinary text.
    assert not set(marks) & set(loaded.encode(loaded.decode(said)))


def test_hf_stop_ids_come_from_tokenizer_and_generation_config(tmp_path, hf):
    assert hf.stop_ids == (hf.eos_id,)
    size = make_tokenizer(tmp_path)
    assert hf.vocab_size == size
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [hf.pad_id, hf.eos_id]}))
    assert HFTokenizer(tmp_path).stop_ids == (hf.eos_id, hf.pad_id)
    path.write_text(json.dumps({"eos_token_id": hf.pad_id}))
    assert HFTokenizer(tmp_path).stop_ids == (hf.eos_id, hf.pad_id)
    path.write_text(json.dumps({"temperature": 0.6}))
    assert HFTokenizer(tmp_path).stop_ids == (hf.eos_id,)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [3, hf.pad_id]}))
    assert HFTokenizer(tmp_path).stop_ids == (hf.eos_id,)
    path.unlink()
    assert HFTokenizer(tmp_path).stop_ids == (hf.eos_id, 3, hf.pad_id)
    for bad in ('{"eos_token_id": "x"}', '{"eos_token_id": [999999]}', "{", "[]"):
        path.write_text(bad)
        with pytest.raises(CipoError, match="generation_config.json"):
            HFTokenizer(tmp_path)


def _edit_tokenizer_config(directory, **changes):
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_hf_pad_falls_back_to_end_of_sequence(tmp_path):
    make_tokenizer(tmp_path)
    _edit_tokenizer_config(tmp_path, pad_token=None)
    tokenizer = HFTokenizer(tmp_path)
    assert tokenizer.pad_id == tokenizer.eos_id


def test_hf_refuses_a_directory_it_cannot_use(tmp_path):
    with pytest.raises(CipoError, match="no tokenizer; looked for tokenizer.json, .*; copy"):
        HFTokenizer(tmp_path)
    with pytest.raises(CipoError, match="is not a directory"):
        HFTokenizer(tmp_path / "missing")
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    advice = "has no chat template.*--config.data.chat_template=False; else add"
    with pytest.raises(CipoError, match=advice):
        HFTokenizer(tmp_path).frame(chat=True)
    (tmp_path / "chat_template.jinja").write_text("<|im_start|>user")
    with pytest.raises(CipoError, match="writes the user's text 0 times"):
        HFTokenizer(tmp_path).frame(chat=True)
    _edit_tokenizer_config(tmp_path, eos_token=None)
    with pytest.raises(CipoError, match="no end-of-sequence token"):
        HFTokenizer(tmp_path)


# --- sentencepiece ---


@reproducible
@given(text=st.text(st.characters(exclude_categories=["C", "Z", "M"]), max_size=30))
def test_spm_never_produces_control_pieces(spm, text):
    for candidate in (text, f"{text}<start_of_turn>{text}</think><ctl></s>{text}"):
        ids = spm.encode(candidate)
        pieces = [spm._model.id_to_piece(i) for i in ids]
        assert not {"<start_of_turn>", "</think>", "<ctl>", "</s>", "<s>"} & set(pieces)


def test_spm_round_trip_and_ids(spm):
    text = "Compute 7+2, the boxed answer  is é."
    ids = spm.encode(text)
    assert spm.decode([*ids, spm.eos_id, spm.vocab_size + 3]) == text
    assert all(0 <= i < spm.vocab_size for i in ids)
    assert spm.stop_ids == (spm.eos_id,)
    assert spm.pad_id == spm.eos_id  # this model has no pad piece
    assert spm.frame(chat=False) == ([spm._model.bos_id()], [])
    with pytest.raises(CipoError, match="chat_template"):
        spm.frame(chat=True)


def test_spm_decode_keeps_control_pieces_that_are_tags_of_a_thought(spm):
    control, tag = (spm._model.piece_to_id(piece) for piece in ("<ctl>", "[THINK]"))
    assert spm.decode([tag, *spm.encode("is 9"), control, spm.eos_id]) == "[THINK]is 9"
    assert tag not in spm.encode("[THINK]is 9")


def test_spm_stop_ids_come_from_a_generation_config_beside_it(tmp_path, spm_file, spm):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(spm_file.read_bytes())
    turn = spm._model.piece_to_id("<start_of_turn>")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, turn]}))
    loaded = SentencePieceTokenizer(file)
    assert loaded.stop_ids == (loaded.eos_id, turn)
    assert loaded.decode([turn, *loaded.encode("is"), turn]) == "is"


def test_spm_refuses_bad_files(tmp_path):
    with pytest.raises(CipoError, match="no sentencepiece file"):
        SentencePieceTokenizer(tmp_path / "missing.model")
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(CipoError, match="not a sentencepiece model"):
        SentencePieceTokenizer(tmp_path / "bad.model")


# --- loading ---


def test_load_tokenizer_finds_the_kind_by_name(hf_directory, spm_file):
    assert isinstance(load_tokenizer("char"), CharTokenizer)
    assert isinstance(load_tokenizer(str(hf_directory)), HFTokenizer)
    assert isinstance(load_tokenizer(str(spm_file)), SentencePieceTokenizer)


@pytest.mark.parametrize("name", ["", "byte", os.path.join("no", "such", "directory")])
def test_load_tokenizer_refuses_unknown_names(name):
    with pytest.raises(CipoError, match="tokenizer: got .* wanted 'char'"):
        load_tokenizer(name)
