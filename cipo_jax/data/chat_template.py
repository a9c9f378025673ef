"""What a Hugging Face chat template writes around a text.

The template is rendered around a mark and cut there. Decided here: how it is called and what it may
do to the text. Tokens are made of it in `tokenizer.py`.
"""

import datetime
import re
from pathlib import Path
from typing import Any

from cipo_jax.types import CipoError

# Stand for the texts of a user and of the policy.
_USER, _POLICY = "CIPO-USER-TEXT", "CIPO-POLICY-TEXT"
# For templates that write today's date: the prompts of a run must not depend on the day. It is what
# Llama 3's template writes where it knows no other.
_DATE = datetime.date(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class ChatTemplate:
    """The chat template of a tokenizer of transformers.

    Args:
      directory: of the tokenizer; messages name it.
      thinking: "on" or "off" sets the template's `enable_thinking`; "" leaves it.

    Raises:
      CipoError: there is none, or it has no such switch.
    """

    def __init__(self, tokenizer: Any, directory: Path, thinking: str = "") -> None:
        self._tokenizer, self._directory = tokenizer, directory
        if not tokenizer.chat_template:
            raise CipoError(
                f"config.data.chat_template: got True, but the tokenizer in {directory} has no "
                "chat template. If its model was not trained on chats, ask it in the words of "
                "config.data.prompt_template alone, by --config.data.chat_template=False; else add "
                "its chat_template.jinja to the directory"
            )
        self._switch = {"enable_thinking": thinking == "on"} if thinking else {}
        if thinking and "enable_thinking" not in str(tokenizer.chat_template):
            raise CipoError(
                f"data.thinking: got {thinking!r}, wanted '': the chat template in "
                f"{directory} has no switch enable_thinking"
            )

    def around_user(self) -> tuple[str, str]:
        """What stands before and after the text of a single user turn, the opening of the policy's
        turn included.

        Raises:
          CipoError: the template cannot be rendered, or does not write the text once.
        """
        return self._around(_USER, [{"role": "user", "content": _USER}], True)

    def trims(self) -> tuple[bool, bool]:
        """Whether it leaves out whitespace at the beginning and at the end of the user's text.

        Raises:
          CipoError: as `around_user`.
        """
        before, after = self.around_user()
        spaced = [{"role": "user", "content": f" \n{_USER}\n "}]
        spaced_before, spaced_after = self._around(_USER, spaced, True)
        return spaced_before == before, spaced_after == after

    def after_policy(self) -> str:
        """What stands after the policy's text.

        Raises:
          CipoError: as `around_user`.
        """
        turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _POLICY}]
        return self._around(_POLICY, turns, False)[1]

    def _around(self, mark: str, turns: list[dict[str, str]], opens: bool) -> tuple[str, str]:
        try:
            template = _TODAY.sub(
                lambda call: repr(_DATE.strftime(call[2])), self._tokenizer.get_chat_template()
            )
            rendered = self._tokenizer.apply_chat_template(
                turns,
                chat_template=template,
                add_generation_prompt=opens,
                tokenize=False,
                **self._switch,
            )
        except Exception as error:  # whatever jinja or the template itself raises
            why = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
            raise CipoError(
                f"data.chat_template: the chat template in {self._directory} cannot be rendered "
                f"for the {turns[-1]['role']}'s turn ({why}); correct its chat_template.jinja, or "
                "set data.chat_template to False and write the turn into data.prompt_template and "
                "data.correction_template"
            ) from error
        if rendered.count(mark) != 1:
            raise CipoError(
                f"data.chat_template: the chat template in {self._directory} writes the "
                f"{turns[-1]['role']}'s text {rendered.count(mark)} times, wanted once"
            )
        before, after = rendered.split(mark)
        return before, after
