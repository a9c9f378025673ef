"""Chat templates that trim, raise, write the date, or write a text twice."""

from pathlib import Path

import pytest
from tiny_hf import CHAT_TEMPLATE, make_tokenizer

from cipo_jax.data.tokenizer import HFTokenizer
from cipo_jax.types import CipoError


def with_template(directory: Path, template: str) -> HFTokenizer:
    make_tokenizer(directory)
    (directory / "chat_template.jinja").write_text(template)
    return HFTokenizer(directory)


CONTENT = "{{ message.content }}"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (CONTENT, (False, False)),
        ("{{ message.content | trim }}", (True, True)),
        ("{{ message.content.rstrip() }}", (False, True)),
    ],
)
def test_templates_that_trim(content: str, wanted: tuple[bool, bool], tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, CHAT_TEMPLATE.replace(CONTENT, content))
    assert tokenizer.trims(chat=True) == wanted
    assert tokenizer.trims(chat=False) == (False, False)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('Only system prompts!') }}", "Only system prompts!"),
        ("{{ messages[0].parts[0].text }}", "UndefinedError"),
        ("{{ messages[0].content | tojson(}}", "TemplateSyntaxError"),
    ],
)
def test_templates_that_fail(template: str, why: str, tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, template)
    for fails in (tokenizer.frame, tokenizer.trims, tokenizer.turn_end):
        with pytest.raises(CipoError, match=f"data.chat_template: .*{tmp_path}.*{why}.*to False"):
            fails(True)


def test_a_template_for_user_turns_alone_gives_prompts(tmp_path: Path) -> None:
    template = CHAT_TEMPLATE + (
        "{% if messages[-1].role != 'user' %}{{ raise_exception('no!') }}{% endif %}"
    )
    tokenizer = with_template(tmp_path, template)
    assert tokenizer.show(tokenizer.frame(True)[0]) == "<|im_start|>user\n"
    with pytest.raises(CipoError, match="for the assistant's turn"):
        tokenizer.turn_end(True)


def test_prompts_do_not_depend_on_the_day(tmp_path: Path) -> None:
    dates = "{{ strftime_now('%d %b %Y') }} "
    dates += """{% if strftime_now is defined %}{{ strftime_now( "%Y's %m" ) }}{% endif %}"""
    tokenizer = with_template(tmp_path, dates + CHAT_TEMPLATE)
    assert tokenizer.show(tokenizer.frame(True)[0]).startswith("26 Jul 2024 2024's 07")


@pytest.mark.parametrize(
    ("after", "wanted"),
    [
        ("<|im_end|>\n", "<|im_end|>"),
        ("\n<|endoftext|><|im_end|>", "\n<|endoftext|>"),
        ("\n", "<|im_end|>"),  # without a control token, the end of sequence
    ],
)
def test_end_of_the_policys_turn(after: str, wanted: str, tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, CHAT_TEMPLATE.replace("<|im_end|>\n", after))
    assert tokenizer.show(tokenizer.turn_end(True)) == wanted
    assert tokenizer.turn_end(False) == [tokenizer.eos_id]
