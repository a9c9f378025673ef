"""Prompts: what the policy is shown, token by token.

    base         [frame] template with {question} filled in [frame]
    correction   [frame] template up to {attempt} | the attempt, cut to its budget | rest [frame]

The frame is the chat template's turn around the user's text, or nothing. Question and attempt are
filled in by position, so braces in them mean nothing, and `Tokenizer.encode` writes whatever looks
like a control token in them as ordinary characters. Only the quoted attempt is ever cut, in the
middle. A problem that is too long is refused.

A correction prompt is made of question, attempt and template, and on request the verdict's line on
a failed test. The reference answer is never read here.
"""

from collections.abc import Sequence

import numpy as np

from cipo_jax.config.keys import Data
from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.types import Attempt, CipoError, Demonstration, Problem, Prompt
from cipo_jax.verifiers.thoughts import opened_by, without_thinking

CUT_MARK = "\n...\n"  # stands for what was left out of a long attempt

_LAST_TOKENS = 40  # of a prompt, in which a thought is opened
_QUESTION, _ATTEMPT = "{question}", "{attempt}"


class PromptWriter:
    """Writes prompts for one policy, in the words and within the budgets of the config.

    Args:
      tokenizer: of the policy.
      data: templates, whether they stand in a chat turn, and the budgets in tokens.
      show_failed_test: after a quoted program that failed comes the verifier's line on its first
        failing test (never the expected output). The prompt then tells that the attempt was wrong.
    """

    def __init__(self, tokenizer: Tokenizer, data: Data, show_failed_test: bool = False) -> None:
        self._tokenizer, self._data, self._show_failed_test = tokenizer, data, show_failed_test

    def base(self, problem: Problem) -> Prompt:
        """Asks for a solution.

        Raises:
          CipoError: the prompt would be longer than `data.max_prompt_tokens` (a question is never
            cut), the template lacks its field, or the tokenizer cannot write the text.
        """
        tokens, length = self._base_tokens(problem.question)
        limit = self._data.max_prompt_tokens
        if length > limit:
            raise CipoError(
                f"problem {problem.id!r}: its prompt takes {length} tokens, the budget is "
                f"data.max_prompt_tokens = {limit}; raise it or leave the problem out "
                "(questions are never cut)"
            )
        return Prompt(problem, np.array(tokens, np.int32), thought=self._thought(tokens))

    def correction(self, anchor: Attempt) -> Prompt:
        """Quotes an earlier attempt, right or wrong, and asks for a checked full solution.

        An attempt of more than `data.max_attempt_tokens`, cut mark and failed test included, keeps
        its head and its tail around `CUT_MARK`. The attempt's text is quoted, not its tokens, so
        that control tokens it sampled are left out; of a text with thoughts what is beside them,
        unless `data.quote_thoughts`. One that is nothing but a thought is quoted whole.

        Raises:
          CipoError: no room for head, mark and tail, the template lacks a field, or the tokenizer
            cannot write the text.
        """
        text = anchor.text
        if not self._data.quote_thoughts:
            text = said(anchor)
        if self._show_failed_test and anchor.problem.tests is not None and not anchor.correct:
            text = f"{text}\n[{anchor.verdict.detail}]"
        tokens, trimmed = self._correction_tokens(anchor.problem.question, text)
        thought = self._thought(tokens.tolist())
        return Prompt(anchor.problem, tokens, anchor, trimmed, thought)

    def demonstration(self, demo: Demonstration) -> tuple[np.ndarray, np.ndarray]:
        """([P] int32 prompt, [C] int32 completion with its end token) of a demonstration. With a
        previous attempt, the prompt is that of a correction of this attempt.

        Raises:
          CipoError: prompt or completion exceed their budgets (neither question nor solution is
            ever cut), or as in `base` and `correction`.
        """
        prompt = self.base(demo.problem).tokens
        if demo.previous_attempt is not None:
            prompt, _ = self._correction_tokens(demo.problem.question, demo.previous_attempt)
        completion = [*self._tokenizer.encode(demo.solution), self._tokenizer.eos_id]
        limit = self._data.max_completion_tokens
        if len(completion) > limit:
            raise CipoError(
                f"demonstration of problem {demo.problem.id!r}: its solution takes "
                f"{len(completion)} tokens, the budget is data.max_completion_tokens = {limit}; "
                "raise it or leave the demonstration out"
            )
        return prompt, np.array(completion, np.int32)

    def longest_correction(self) -> int:
        """The most tokens that a correction prompt can take, for any problem that `base` accepts;
        the static shapes are made from it.

        Raises:
          CipoError: as `correction`, whatever the problem.
        """
        d, encode = self._data, self._tokenizer.encode
        _check_attempt_budget(d.max_attempt_tokens, len(encode(CUT_MARK)))
        _check_fields(d.correction_template, _QUESTION, _ATTEMPT)
        # Refuses chat without a chat template. Its length is in the base prompt.
        self._tokenizer.frame(d.chat_template)
        parts = d.correction_template.split(_ATTEMPT)
        written = sum(len(encode(text)) for part in parts for text in part.split(_QUESTION))
        return d.max_prompt_tokens + written + d.max_attempt_tokens

    def lengths(self, problem: Problem) -> tuple[int, int]:
        """The tokens of the base prompt as `base` counts them, and of a correction prompt whose
        attempt takes its whole budget.

        Raises:
          CipoError: as `base` and `correction`, except for the length.
        """
        _, base = self._base_tokens(problem.question)
        empty, _ = self._correction_tokens(problem.question, "")
        return base, len(empty) + self._data.max_attempt_tokens

    def _thought(self, tokens: list[int]) -> str:
        return opened_by(self._tokenizer.show(tokens[-_LAST_TOKENS:]))

    def _base_tokens(self, question: str) -> tuple[list[int], int]:
        """The tokens of a base prompt, and how many of its budget they count for."""
        template = self._data.prompt_template
        _check_fields(template, _QUESTION)
        start, end = self._tokenizer.frame(self._data.chat_template)
        tokens = [*start, *_encode_around(self._tokenizer, template, question), *end]
        # The question alone must keep the budget too: `longest_correction` relies on it.
        alone = len(start) + len(self._tokenizer.encode(question)) + len(end)
        return tokens, max(len(tokens), alone)

    def _correction_tokens(self, question: str, attempt: str) -> tuple[np.ndarray, bool]:
        """The tokens of a correction prompt, and whether the attempt was cut."""
        tokenizer, template = self._tokenizer, self._data.correction_template
        _check_fields(template, _QUESTION, _ATTEMPT)
        before, after = (
            _encode_around(tokenizer, part, question)
            if _QUESTION in part
            else tokenizer.encode(part)
            for part in template.split(_ATTEMPT)
        )
        quoted, trimmed = _trim_middle(
            tokenizer.encode(attempt), tokenizer.encode(CUT_MARK), self._data.max_attempt_tokens
        )
        start, end = tokenizer.frame(self._data.chat_template)
        return np.array([*start, *before, *quoted, *after, *end], np.int32), trimmed


def said(attempt: Attempt) -> str:
    """What an attempt says beside its thoughts; its text, if that is nothing or it has none."""
    whole = attempt.prompt.thought + attempt.text
    rest = without_thinking(whole)
    return attempt.text if rest == whole else rest.strip() or attempt.text


def _trim_middle(
    tokens: Sequence[int], mark: Sequence[int], max_tokens: int
) -> tuple[Sequence[int], bool]:
    """`tokens`, or its head, `mark` and its tail in `max_tokens`, and whether it was cut."""
    _check_attempt_budget(max_tokens, len(mark))
    if len(tokens) <= max_tokens:
        return tokens, False
    tail = (max_tokens - len(mark)) // 2
    head = max_tokens - len(mark) - tail
    return [*tokens[:head], *mark, *tokens[-tail:]], True


def _check_attempt_budget(max_attempt_tokens: int, mark_tokens: int) -> None:
    smallest = mark_tokens + 2
    if max_attempt_tokens < smallest:
        raise CipoError(
            f"data.max_attempt_tokens: got {max_attempt_tokens}, wanted at least {smallest}: "
            f"one token of head and of tail around a cut mark of {mark_tokens} tokens"
        )


def _encode_around(tokenizer: Tokenizer, template: str, question: str) -> list[int]:
    """The template with its question, never more tokens than its three texts encoded apart.

    Encoding them together is nearly always shorter; the comparison makes this a bound.
    """
    before, after = template.split(_QUESTION)
    together = tokenizer.encode(before + question + after)
    apart = [i for text in (before, question, after) for i in tokenizer.encode(text)]
    return together if len(together) <= len(apart) else apart


def _check_fields(template: str, *fields: str) -> None:
    for field in fields:
        if template.count(field) != 1:
            raise CipoError(
                f"prompt template: got {template!r}, wanted a text that holds {field} once"
            )
