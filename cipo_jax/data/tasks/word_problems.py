"""The embedded word problems: short stories about numbers, generated without limit.

    question   Fatima buys 3 boxes of shells. There are 8 shells in each box. The next day she gets
               another 5 shells. How many shells does Fatima have now?
    solution   In the boxes: 3 * 8 = 24
               With the new ones: 24 + 5 = 29
               The answer is \\boxed{29}.

They are made for pretrained models, and are the only task in natural language. Difficulty is the
number of operations, 1 to 6. From 3 on the numbers grow with it, which are whole and at most those
of `LARGEST`, and half of the problems hold a number that is not needed. Divisions are exact. With
one operation there are about 2,700 problems, with two tens of thousands.

This file decides how a problem is drawn, what its solution and a typical wrong solution look like;
what is told is decided in `stories_of_things.py` and `stories_of_activities.py`, which problems are
drawn in `generated.py`.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from cipo_jax.data.tasks.arithmetic import slip
from cipo_jax.data.tasks.equations import equations
from cipo_jax.data.tasks.generated import Task
from cipo_jax.data.tasks.stories_of_activities import CONTEST, SHOPPING, TRIP
from cipo_jax.data.tasks.stories_of_things import COLLECTION, WORKSHOP
from cipo_jax.data.tasks.story_parts import PEOPLE, Part, Story
from cipo_jax.types import CipoError, Problem

STORIES = {s.name: s for s in (COLLECTION, SHOPPING, TRIP, CONTEST, WORKSHOP)}
# The largest number in a problem and its solution, by the number of operations. Small models choose
# the right operation before they can subtract: SmolLM2-135M subtracts up to 30 right in one case of
# ten, up to 20 in four.
LARGEST = {1: 20, 2: 20, 3: 100, 4: 200, 5: 400, 6: 800}
MOST_OPERATIONS = max(LARGEST)
_IDLE_FROM = 3  # operations from which on a problem may hold a number that is not needed
_SIGNS = "+-*/"
_FIELD = re.compile(r"\{(\w+)\}")

# The tokenizer's pieces for this task.
CHARACTERS = "ABDEFGHIJKLMNOPQRSTUVWXYZ,?:/"


@dataclasses.dataclass(frozen=True)
class Told:
    """A part with its numbers."""

    part: Part
    numbers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Operand:
    """A number of the text, or, with `line` >= 0, the result of that line."""

    number: int = 0
    line: int = -1

    def value(self, results: Sequence[int]) -> int:
        return self.number if self.line < 0 else results[self.line]


@dataclasses.dataclass(frozen=True)
class Line:
    """One operation of a solution."""

    label: str
    left: Operand
    sign: str
    right: Operand


def make_problem(rng: np.random.Generator, min_operations: int, max_operations: int) -> Problem:
    """Draws a problem: the number of operations uniform, then a story, its parts and numbers.

    The id names the story, its parts and their numbers. Names, things and wordings follow from the
    id alone: the same numbers in the same story never occur with other words, and thus not in two
    splits. `meta` has the number of operations and the story.

    Raises:
      CipoError: more operations than stories have.
    """
    if max_operations > MOST_OPERATIONS:
        raise CipoError(
            f"config.data.max_operations: got {max_operations}, wanted at most {MOST_OPERATIONS} "
            "with word problems"
        )
    operations = int(rng.integers(min_operations, max_operations + 1))
    names = list(STORIES)
    while True:
        story = STORIES[names[rng.integers(len(names))]]
        told = _draw(story, operations, rng)
        if told:
            break
    parts = [" ".join([t.part.name, *map(str, t.numbers)]) for t in told]
    problem_id = f"{story.name}: {', '.join(parts)}"
    sentences, lines = _tell(problem_id, story, told)
    answer = str(_results(lines)[-1])
    meta = {"operations": operations, "story": story.name}
    return Problem(problem_id, " ".join(sentences), answer=answer, meta=meta)


def solution(problem: Problem) -> str:
    """The worked solution: one labelled line per operation, then the boxed answer."""
    _, lines = _tell(problem.id, *_parse(problem))
    return _write(lines, _results(lines))


def corrupt(problem: Problem, rng: np.random.Generator) -> str:
    """A wrong solution of the kind a small model writes, with one of these errors, from which
    everything after it follows:

      slip (more than half): one result is off by 1, 2 or 10, or has a wrong digit;
      operation: one line adds instead of multiplying, and so on;
      number: one line takes another number of the text, also one that is not needed;
      dropped line: one operation is left out.

    The boxed value always differs from the right one. Values stay whole numbers from 0 to 9,999.
    """
    story, told = _parse(problem)
    _, lines = _tell(problem.id, story, told)
    numbers = sorted({n for t in told for n in t.numbers})
    # A slip in the last line is always possible, so the loop ends.
    while True:
        wrong, slips = _corruption(lines, numbers, rng)
        try:
            results = _results(wrong, slips)
        except ArithmeticError:
            continue
        if str(results[-1]) != problem.answer and all(0 <= r <= 9999 for r in results):
            return _write(wrong, results)


def true_lines(problem: Problem, text: str) -> list[bool]:
    """Whether each equation in the text is true: models write other lines as well."""
    del problem
    return equations(text)


def _draw(story: Story, operations: int, rng: np.random.Generator) -> list[Told]:
    """A story with that many operations; [] if what was drawn does not come out so."""
    opening = _one(story.openings, rng)
    question = _one(story.questions, rng)
    left = operations - len(opening.lines) - len(question.lines)
    events = []
    for i in rng.permutation(len(story.events)):
        event = story.events[i]
        if len(event.lines) <= left:
            left -= len(event.lines)
            events.append(event)
    fewest, most = question.events
    if left or not fewest <= len(events) <= most:
        return []
    largest = LARGEST[operations]
    told: list[Told] = []
    amount = first = 0
    for part in (opening, *events, question):
        choices = [[n for n in numbers(amount) if n <= largest] for numbers in part.numbers]
        if not all(map(len, choices)):
            return []
        told.append(Told(part, tuple(int(c[int(rng.integers(len(c)))]) for c in choices)))
        lines = _lines(part, told[-1].numbers, Operand(amount), Operand(first), 0)
        results = _results(lines)
        if not all(0 < r <= largest for r in results):
            return []
        amount = results[-1] if results else told[-1].numbers[0] if part is opening else amount
        first = first or amount
    if operations >= _IDLE_FROM and rng.random() < 0.5:
        idle = _one(story.idle, rng)
        choice = [n for n in idle.numbers[0](0) if n <= largest]
        number = choice[int(rng.integers(len(choice)))]
        told.insert(int(rng.integers(1, len(told))), Told(idle, (number,)))
    return told


def _one(parts: Sequence[Part], rng: np.random.Generator) -> Part:
    return parts[int(rng.integers(len(parts)))]


def _parse(problem: Problem) -> tuple[Story, list[Told]]:
    """The story of a problem that `make_problem` made."""
    try:
        name, _, rest = problem.id.partition(": ")
        story = STORIES[name]
        told = []
        for text in rest.split(", "):
            part_name, *numbers = text.split(" ")
            part = story.part(part_name)
            told.append(Told(part, tuple(map(int, numbers))))
            if len(numbers) != len(part.numbers):
                raise ValueError
    except (KeyError, ValueError):
        raise ValueError(f"{problem.id!r} is not a word problem") from None
    return story, told


def _tell(problem_id: str, story: Story, told: Sequence[Told]) -> tuple[list[str], list[Line]]:
    """The sentences, and the lines of the worked solution."""
    seed = hashlib.sha256(problem_id.encode()).digest()[:8]
    rng = np.random.default_rng(int.from_bytes(seed))
    setting = story.settings[rng.integers(len(story.settings))]
    people = [PEOPLE[i] for i in rng.permutation(len(PEOPLE))]
    (name, she, her), friends = people[0], [person[0] for person in people[1:]]
    words = {**setting, "name": name, "she": she, "her": her, "first": name, "now": name}
    sentences: list[str] = []
    lines: list[Line] = []
    amount = first = Operand()
    unclear = False
    for position, t in enumerate(told):
        idle, is_event = t.part in story.idle, t.part in story.events
        words["friend"] = friends[position]
        if is_event:
            words["before"], words["now"] = words["now"], friends[position]
        words |= {letter: str(n) for letter, n in zip("ab", t.numbers, strict=False)}
        # After an idle sentence, or one with a friend, a pronoun could mean somebody else.
        shown = {"she": name, "her": name} if unclear else {}
        text = t.part.texts[rng.integers(len(t.part.texts))]
        sentences.append(_fill(text, words | shown))
        unclear = idle or "{friend}" in text
        if idle:
            continue
        new = _lines(t.part, t.numbers, amount, first, len(lines))
        lines += [dataclasses.replace(line, label=_fill(line.label, words)) for line in new]
        if new:
            amount = Operand(line=len(lines) - 1)
        elif t.part in story.openings:
            amount = Operand(t.numbers[0])
        if t.part in story.openings:
            first = amount
    return sentences, lines


def _fill(text: str, words: Mapping[str, str]) -> str:
    """The text with its fields filled in, and a capital letter at its beginning."""

    def word(match: re.Match) -> str:
        field = match[1]
        return words["she"].capitalize() if field == "She" else words[field]

    filled = _FIELD.sub(word, text)
    return filled[0].upper() + filled[1:]


def _lines(
    part: Part, numbers: Sequence[int], amount: Operand, first: Operand, start: int
) -> list[Line]:
    """The lines of a part whose first one is line `start` of the solution."""
    operands = {"v": amount, "f": first}
    operands |= {letter: Operand(n) for letter, n in zip("ab", numbers, strict=False)}
    lines = []
    for i, (label, formula) in enumerate(part.lines):
        left, sign, right = formula.split()
        lines.append(Line(label, operands[left], sign, operands[right]))
        operands["u"] = Operand(line=start + i)
    return lines


def _results(lines: Sequence[Line], slips: Mapping[int, int] | None = None) -> list[int]:
    """The result of each line; `slips[i]` is added to that of line i.

    Raises:
      ArithmeticError: a division that is not exact.
    """
    results: list[int] = []
    for i, line in enumerate(lines):
        left, right = line.left.value(results), line.right.value(results)
        results.append(_apply(left, line.sign, right) + (slips or {}).get(i, 0))
    return results


def _apply(left: int, sign: str, right: int) -> int:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    quotient, rest = divmod(left, right)
    if rest:
        raise ArithmeticError(f"{left} / {right} is not whole")
    return quotient


def _write(lines: Sequence[Line], results: Sequence[int]) -> str:
    texts = []
    for line, result in zip(lines, results, strict=True):
        left, right = line.left.value(results), line.right.value(results)
        texts.append(f"{line.label}: {left} {line.sign} {right} = {result}")
    return "\n".join([*texts, f"The answer is \\boxed{{{results[-1]}}}."])


def _corruption(
    lines: Sequence[Line], numbers: Sequence[int], rng: np.random.Generator
) -> tuple[list[Line], dict[int, int]]:
    """Lines with a random error, and slips; they may still come out right, or not be possible."""
    kind = rng.choice(["slip", "operation", "number", "dropped"], p=[0.5, 0.2, 0.15, 0.15])
    wrong = list(lines)
    i = int(rng.integers(len(lines)))
    line = lines[i]
    if kind == "operation":
        sign = str(rng.choice([s for s in _SIGNS if s != line.sign]))
        wrong[i] = dataclasses.replace(line, sign=sign)
    elif kind == "number":
        other = Operand(int(rng.choice(numbers)))
        if line.right.line < 0:
            wrong[i] = dataclasses.replace(line, right=other)
        else:
            wrong[i] = dataclasses.replace(line, left=other)
    elif kind == "dropped" and len(lines) > 1:
        return _without(lines, i), {}
    else:
        return wrong, {i: slip(_results(lines)[i], rng)}
    return wrong, {}


def _without(lines: Sequence[Line], dropped: int) -> list[Line]:
    """The lines without one of them; what used its result uses its left operand."""

    def moved(operand: Operand) -> Operand:
        if operand.line == dropped:
            return lines[dropped].left
        return Operand(line=operand.line - 1) if operand.line > dropped else operand

    return [
        dataclasses.replace(line, left=moved(line.left), right=moved(line.right))
        for i, line in enumerate(lines)
        if i != dropped
    ]


TASK = Task(
    "word problems",
    make_problem,
    solution,
    corrupt,
    30,
    "char_words",
    CHARACTERS,
    true_lines=true_lines,
)
