"""Prompts: what the policy is shown, token by token.

    base         [frame] template with {question} filled in [frame]
    correction   [frame] template up to {attempt} | the attempt, cut to its budget | rest [frame]

The frame is the chat template's turn around the user's text, or nothing. Question and attempt are
filled in by position, so braces in them mean nothing, and `Tokenizer.encode` writes whatever looks
like a control token in them as ordinary characters. The templates of the config and the solutions
of demonstrations are trusted: in them `<think>` is the token of that name. Only the quoted attempt
is ever cut, in the middle. A problem that is too long is refused.

A correction prompt is made of question, attempt and template, and on request the verdict's line on
a failed test. The reference answer is never read here.
"""

import functools
from collections.abc import Sequence

import numpy as np

from cipo_jax.config.keys import Data
from cipo_jax.data.control_tokens import find_control
from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.types import Attempt, CipoError, Demonstration, Problem, Prompt
from cipo_jax.verifiers.openings import opening_of
from cipo_jax.verifiers.thoughts import without_thinking

CUT_MARK = "\n...\n"  # stands for what was left out of a long attempt

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
        return Prompt(
            problem, np.array(tokens, np.int32), opening=self._opening(self._data.prompt_template)
        )

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
        shows = self._show_failed_test and anchor.problem.tests is not None and not anchor.correct
        text = quoted_text(
            anchor.text,
            anchor.prompt.opening,
            self._data.quote_thoughts,
            anchor.verdict.detail if shows else None,
        )
        tokens, kept = self._correction_tokens(anchor.problem.question, text)
        opening = self._opening(self._data.correction_template)
        return Prompt(anchor.problem, tokens, anchor, kept, opening)

    def demonstration(self, demo: Demonstration) -> tuple[np.ndarray, np.ndarray]:
        """([P] int32 prompt, [C] int32 completion with the end of its turn) of a demonstration.
        With a previous attempt, the prompt is that of a correction of this attempt.

        Raises:
          CipoError: prompt or completion exceed their budgets (neither question nor solution is
            ever cut), the solution holds a token that ends completions, the turn's end is none, or
            as in `base` and `correction`.
        """
        prompt = self.base(demo.problem).tokens
        if demo.previous_attempt is not None:
            prompt, _ = self._correction_tokens(demo.problem.question, demo.previous_attempt)
        solution, end = self._tokenizer.encode_trusted(demo.solution), self._turn_end()
        if early := [i for i in solution if i in self._tokenizer.stop_ids]:
            raise CipoError(
                f"demonstration of problem {demo.problem.id!r}: its solution holds "
                f"{self._tokenizer.show(early[:1])!r}, which ends completions; leave it out, the "
                "end of the turn is added"
            )
        completion = [*solution, *end]
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
        d, tokenizer = self._data, self._tokenizer
        _check_attempt_budget(d.max_attempt_tokens, len(tokenizer.encode(CUT_MARK)))
        _check_fields(d.correction_template, _QUESTION, _ATTEMPT)
        # Refuses chat without a chat template. Its length is in the base prompt.
        tokenizer.frame(d.chat_template)
        template, _ = self._trimmed(d.correction_template, {})
        written = 0
        for part in template.split(_ATTEMPT):
            if _QUESTION in part:
                head, before, after, tail = _cut_at_control(tokenizer, *part.split(_QUESTION))
                written += len(head) + len(tail)
                written += len(tokenizer.encode(before)) + len(tokenizer.encode(after))
            else:
                written += len(tokenizer.encode_trusted(part))
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

    def warnings(self) -> list[str]:
        """What is allowed and seldom meant, for people to read."""
        try:
            end = self._tokenizer.turn_end(self._data.chat_template)
        except CipoError:  # a template for prompts alone
            return []
        return list(filter(None, [self._never_stops(end)]))

    def _turn_end(self) -> list[int]:
        end = self._tokenizer.turn_end(self._data.chat_template)
        if problem := self._never_stops(end):
            raise CipoError(problem)
        return end

    def _never_stops(self, turn_end: list[int]) -> str:
        """What is wrong with a turn's end at which sampling goes on; "" if it stops."""
        if turn_end[-1] in self._tokenizer.stop_ids:
            return ""
        name = self._tokenizer.show(turn_end[-1:])
        return (
            f"data.chat_template: the chat template ends the policy's turn with {name!r}, at "
            f"which sampling does not stop; set sampling.stop_tokens = ({name!r},)"
        )

    def _opening(self, template: str) -> str:
        """What the prompts of a template open at their end. It is in what follows question and
        attempt: these cannot open anything."""
        _, end = self._tokenizer.frame(self._data.chat_template)
        last = max(template.rfind(field) + len(field) for field in (_QUESTION, _ATTEMPT))
        return opening_of(template[last:] + self._tokenizer.show(end))

    def _base_tokens(self, question: str) -> tuple[list[int], int]:
        """The tokens of a base prompt, and how many of its budget they count for."""
        template = self._data.prompt_template
        _check_fields(template, _QUESTION)
        template, texts = self._trimmed(template, {_QUESTION: question})
        start, end = self._tokenizer.frame(self._data.chat_template)
        tokens = self._framed(_encode_around(self._tokenizer, template, texts[_QUESTION]))
        # The question alone must keep the budget too: `longest_correction` relies on it.
        longest = max(len(self._tokenizer.encode(text)) for text in (question, texts[_QUESTION]))
        return tokens, max(len(tokens), len(start) + longest + len(end))

    def _correction_tokens(
        self, question: str, attempt: str
    ) -> tuple[np.ndarray, tuple[int, int] | None]:
        """The tokens of a correction prompt, and if the attempt was cut, the characters of its head
        and of its tail."""
        tokenizer, template = self._tokenizer, self._data.correction_template
        _check_fields(template, _QUESTION, _ATTEMPT)
        template, texts = self._trimmed(template, {_QUESTION: question, _ATTEMPT: attempt})
        before, after = (
            _encode_around(tokenizer, part, texts[_QUESTION])
            if _QUESTION in part
            else tokenizer.encode_trusted(part)
            for part in template.split(_ATTEMPT)
        )
        mark = tokenizer.encode(CUT_MARK)
        head, tail = _trim_middle(
            tokenizer.encode(texts[_ATTEMPT]), len(mark), self._data.max_attempt_tokens
        )
        quoted = [*head, *mark, *tail] if tail else head
        tokens = np.array(self._framed([*before, *quoted, *after]), np.int32)
        return tokens, (len(tokenizer.show(head)), len(tokenizer.show(tail))) if tail else None

    def _framed(self, body: list[int]) -> list[int]:
        """The user's text in its frame. A template that writes the sequence's first token itself
        gets no second one."""
        start, end = self._tokenizer.frame(self._data.chat_template)
        twice = not self._data.chat_template and start and body[: len(start)] == start
        return [*body, *end] if twice else [*start, *body, *end]

    def _trimmed(self, template: str, texts: dict[str, str]) -> tuple[str, dict[str, str]]:
        """Template and texts without the whitespace that the chat template leaves out at the
        beginning and at the end of all."""
        left, right = self._trims
        template = template.lstrip() if left else template
        template = template.rstrip() if right else template
        for field, text in texts.items():
            text = text.lstrip() if left and template.startswith(field) else text
            text = text.rstrip() if right and template.endswith(field) else text
            texts = texts | {field: text}
        return template, texts

    @functools.cached_property
    def _trims(self) -> tuple[bool, bool]:
        return self._tokenizer.trims(self._data.chat_template)


def quoted_text(text: str, opening: str, thoughts: bool, failed_test: str | None) -> str:
    """What a correction prompt quotes of an attempt, before that is cut to its budget.

    Args:
      text: of the attempt.
      opening: what its own prompt opened.
      thoughts: whether its thoughts are quoted as well.
      failed_test: the verifier's line on its first failing test; None: not shown.
    """
    words = text if thoughts else _without_thoughts(text, opening)
    return words if failed_test is None else f"{words}\n[{failed_test}]"


def said(attempt: Attempt) -> str:
    """What an attempt says beside its thoughts, with the code block that its prompt opened; its
    text, if that is nothing."""
    return _without_thoughts(attempt.text, attempt.prompt.opening)


def _without_thoughts(text: str, opening: str) -> str:
    whole = opening + text
    rest = without_thinking(whole)
    return whole if rest == whole else rest.strip() or text


def _trim_middle(
    tokens: Sequence[int], mark_tokens: int, max_tokens: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Head and tail of `tokens`, which with a mark between them fit; all and nothing, if they fit
    without."""
    _check_attempt_budget(max_tokens, mark_tokens)
    if len(tokens) <= max_tokens:
        return tokens, ()
    tail = (max_tokens - mark_tokens) // 2
    return tokens[: max_tokens - mark_tokens - tail], tokens[-tail:]


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
    head, before, after, tail = _cut_at_control(tokenizer, *template.split(_QUESTION))
    together = tokenizer.encode(before + question + after)
    apart = [i for text in (before, question, after) for i in tokenizer.encode(text)]
    return [*head, *min(together, apart, key=len), *tail]


def _cut_at_control(
    tokenizer: Tokenizer, before: str, after: str
) -> tuple[list[int], str, str, list[int]]:
    """Trusted texts before and after an untrusted one: the tokens up to the last control token
    before it, the ordinary texts next to it, and the tokens from the first control token on."""
    ends = [name.end() for name in find_control(before, tokenizer.control)]
    starts = [name.start() for name in find_control(after, tokenizer.control)]
    end, start = max(ends, default=0), min(starts, default=len(after))
    head, tail = tokenizer.encode_trusted(before[:end]), tokenizer.encode_trusted(after[start:])
    return head, before[end:], after[:start], tail


def _check_fields(template: str, *fields: str) -> None:
    for field in fields:
        if template.count(field) != 1:
            raise CipoError(
                f"prompt template: got {template!r}, wanted a text that holds {field} once"
            )
