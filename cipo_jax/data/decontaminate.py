"""Which training problems repeat an evaluation problem, or one another.

Two measures, on questions alone. Exact: the same text except for case, white space, Unicode form
and `$`, but "1 2" is not "12". N-gram: n words in a row in common, a word being letters and digits.
The second also finds copies inside other text, and with a small n phrases that many problems share.
The caller decides what is done about a match.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

_WORD = re.compile(r"\w+")
_LAYOUT = re.compile(r"(?P<between_digits>(?<=\d)[\s$]+(?=\d))|[\s$]+")


@dataclasses.dataclass(frozen=True)
class Match:
    """A training question that an evaluation set has too."""

    position: int  # of the training question
    evaluation: str  # place of the evaluation question
    words: str = ""  # the words in common; "" for an exact match


def find_overlap(
    questions: Iterable[str], evaluation: Iterable[tuple[str, str]], n: int
) -> list[Match]:
    """The first match of each question that has one.

    Args:
      questions: of the training problems.
      evaluation: (place, question) of the evaluation problems.
      n: words in a row that make an overlap; 0 looks for exact matches alone.
    """
    exact: dict[str, str] = {}
    grams: dict[tuple[str, ...], str] = {}
    for place, text in evaluation:
        exact.setdefault(normalise(text), place)
        for gram in _ngrams(text, n):
            grams.setdefault(gram, place)
    matches = []
    for position, text in enumerate(questions):
        if (place_of_copy := exact.get(normalise(text))) is not None:
            matches.append(Match(position, place_of_copy))
            continue
        common = next((gram for gram in _ngrams(text, n) if gram in grams), None)
        if common is not None:
            matches.append(Match(position, grams[common], " ".join(common)))
    return matches


def find_duplicates(questions: Sequence[str]) -> list[tuple[int, int]]:
    """(position, position of the first equal question) of each exact repetition."""
    first: dict[str, int] = {}
    pairs = [(i, first.setdefault(normalise(text), i)) for i, text in enumerate(questions)]
    return [(position, earlier) for position, earlier in pairs if earlier != position]


def normalise(text: str) -> str:
    """The text as exact matches compare it: without case, white space, Unicode form and `$`, but
    with a space where these keep two numbers apart."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _LAYOUT.sub(lambda run: " " if run["between_digits"] else "", folded)


def _ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    if n:
        words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
        yield from (tuple(words[start : start + n]) for start in range(len(words) - n + 1))
