"""Prompts: what the policy is shown, token by token.

    base         [frame] template with {question} filled in [frame]
    correction   [frame] template up to {attempt} | the attempt, cut to its budget | rest [frame]

The frame is the chat template's turn around the user's text, or nothing. Question and attempt are
filled in by position, so braces in them mean nothing, and `Tokenizer.encode` writes whatever looks
like a control token in them as ordinary characters. Only the quoted attempt is ever cut, in the
middle: the template always arrives whole, and a problem that is too long is refused.

A correction prompt is made of question, attempt and template alone. Neither the verdict nor the
reference answer is read here.
"""

from collections.abc import Sequence

import numpy as np

from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.types import Attempt, CipoError, Demonstration, Problem, Prompt

CUT_MARK = "\n...\n"  # stands for what was left out of a long attempt

_QUESTION, _ATTEMPT = "{question}", "{attempt}"


def base_prompt(
    problem: Problem, tokenizer: Tokenizer, template: str, chat: bool, max_tokens: int
) -> Prompt:
    """Asks for a solution.

    Args:
      problem: what is asked.
      tokenizer: of the policy.
      template: text that holds `{question}` once.
      chat: wrap it in the tokenizer's chat template.
      max_tokens: upper bound of the prompt, frame included.

    Raises:
      CipoError: the prompt would be longer than `max_tokens` (a question is never cut), the
        template lacks its field, or the tokenizer cannot write the text.
    """
    tokens, length = _base_tokens(problem.question, tokenizer, template, chat)
    if length > max_tokens:
        raise CipoError(
            f"problem {problem.id!r}: its prompt takes {length} tokens, the budget is "
            f"data.max_prompt_tokens = {max_tokens}; raise it or leave the problem out "
            "(questions are never cut)"
        )
    return Prompt(problem=problem, tokens=np.array(tokens, np.int32))


def correction_prompt(
    anchor: Attempt,
    tokenizer: Tokenizer,
    template: str,
    chat: bool,
    max_attempt_tokens: int,
    show_failed_test: bool = False,
) -> Prompt:
    """Quotes an earlier attempt, right or wrong, and asks for a checked full solution.

    With `show_failed_test`, a program that failed is followed by the kind and number of its first
    failing test, as the verifier put it (never the expected output). The prompt then tells that the
    attempt was wrong.

    An attempt of more than `max_attempt_tokens` keeps its head and its tail around `CUT_MARK`.

    Args:
      anchor: the attempt to quote; its text is used, not its tokens, so that the stop token and
        any other control token it sampled are left out.
      tokenizer: of the policy.
      template: text that holds `{question}` and `{attempt}` once each.
      chat: wrap it in the tokenizer's chat template.
      max_attempt_tokens: upper bound of the quoted attempt, cut mark and failed test included.

    Raises:
      CipoError: no room for head, mark and tail in `max_attempt_tokens`, the template lacks a
        field, or the tokenizer cannot write the text.
    """
    text = anchor.text
    if show_failed_test and anchor.problem.tests is not None and not anchor.correct:
        text = f"{text}\n[{anchor.verdict.detail}]"
    tokens, trimmed = _correction_tokens(
        anchor.problem.question, text, tokenizer, template, chat, max_attempt_tokens
    )
    return Prompt(problem=anchor.problem, tokens=tokens, anchor=anchor, trimmed=trimmed)


def correction_prompt_budget(
    tokenizer: Tokenizer,
    template: str,
    chat: bool,
    max_prompt_tokens: int,
    max_attempt_tokens: int,
) -> int:
    """The most tokens a correction prompt can take; the static shapes are made from it.

    It holds for every problem that `base_prompt` accepts with the same `chat` and
    `max_tokens = max_prompt_tokens`.

    Raises:
      CipoError: as `correction_prompt`, whatever the problem.
    """
    _check_attempt_budget(max_attempt_tokens, len(tokenizer.encode(CUT_MARK)))
    _check_fields(template, _QUESTION, _ATTEMPT)
    literals = [text for part in template.split(_ATTEMPT) for text in part.split(_QUESTION)]
    tokenizer.frame(chat)  # refuses chat without a chat template; its length is in the base prompt
    written = sum(len(tokenizer.encode(text)) for text in literals)
    return max_prompt_tokens + written + max_attempt_tokens


def demonstration_tokens(
    demo: Demonstration,
    tokenizer: Tokenizer,
    *,
    prompt_template: str,
    correction_template: str,
    chat: bool,
    max_prompt_tokens: int,
    max_attempt_tokens: int,
    max_completion_tokens: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What a demonstration teaches: ([P] int32 prompt, [C] int32 completion with its end token).

    A demonstration with a previous attempt gets exactly the prompt that a correction of that
    attempt would get.

    Raises:
      CipoError: prompt or completion exceed their budgets (neither question nor solution is ever
        cut), or as in `base_prompt` and `correction_prompt`.
    """
    prompt = base_prompt(demo.problem, tokenizer, prompt_template, chat, max_prompt_tokens).tokens
    if demo.previous_attempt is not None:
        prompt, _ = _correction_tokens(
            demo.problem.question,
            demo.previous_attempt,
            tokenizer,
            correction_template,
            chat,
            max_attempt_tokens,
        )
    completion = [*tokenizer.encode(demo.solution), tokenizer.eos_id]
    if len(completion) > max_completion_tokens:
        raise CipoError(
            f"demonstration of problem {demo.problem.id!r}: its solution takes {len(completion)} "
            f"tokens, the budget is data.max_completion_tokens = {max_completion_tokens}; "
            "raise it or leave the demonstration out"
        )
    return prompt, np.array(completion, np.int32)


def prompt_lengths(
    problem: Problem,
    tokenizer: Tokenizer,
    prompt_template: str,
    correction_template: str,
    chat: bool,
    max_attempt_tokens: int,
) -> tuple[int, int]:
    """The tokens of the base prompt as `base_prompt` counts them, and of a correction prompt whose
    attempt takes its whole budget.

    Raises:
      CipoError: as `base_prompt` and `correction_prompt`, but for the length.
    """
    question = problem.question
    _, base = _base_tokens(question, tokenizer, prompt_template, chat)
    empty, _ = _correction_tokens(
        question, "", tokenizer, correction_template, chat, max_attempt_tokens
    )
    return base, len(empty) + max_attempt_tokens


def _base_tokens(
    question: str, tokenizer: Tokenizer, template: str, chat: bool
) -> tuple[list[int], int]:
    """The tokens of a base prompt, and how many of its budget they count for."""
    _check_fields(template, _QUESTION)
    start, end = tokenizer.frame(chat)
    tokens = [*start, *_encode_around(tokenizer, template, question), *end]
    # The question alone is held to the budget too: `correction_prompt_budget` builds on it.
    alone = len(start) + len(tokenizer.encode(question)) + len(end)
    return tokens, max(len(tokens), alone)


def _correction_tokens(
    question: str,
    attempt: str,
    tokenizer: Tokenizer,
    template: str,
    chat: bool,
    max_attempt_tokens: int,
) -> tuple[np.ndarray, bool]:
    """The tokens of a correction prompt, and whether the attempt was cut."""
    _check_fields(template, _QUESTION, _ATTEMPT)
    before, after = (
        _encode_around(tokenizer, part, question) if _QUESTION in part else tokenizer.encode(part)
        for part in template.split(_ATTEMPT)
    )
    quoted, trimmed = _trim_middle(
        tokenizer.encode(attempt), tokenizer.encode(CUT_MARK), max_attempt_tokens
    )
    start, end = tokenizer.frame(chat)
    return np.array([*start, *before, *quoted, *after, *end], np.int32), trimmed


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

    Together is how the tokenizer would write it, and nearly always shorter; the comparison turns
    "nearly" into a bound.
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
