"""Which training problems repeat an evaluation problem, or one another.

Two measures, over questions alone. Exact: the same text but for case, white space, Unicode form
and `$`. N-gram: a run of n words in common, words being runs of letters and digits. The first finds
copies of any length; the second finds copies inside other wording, and with a small n also phrases
that many problems share. What is done about a match is for the caller to decide.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

_WORD = re.compile(r"\w+")
_LAYOUT = re.compile(r"[\s$]+")


@dataclasses.dataclass(frozen=True)
class Match:
    """A training question that an evaluation set has too.

    Attributes:
      position: of the training question.
      evaluation: place of the evaluation question.
      words: the common run of words; "" for an exact match.
    """

    position: int
    evaluation: str
    words: str = ""


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
    pairs = []
    for position, text in enumerate(questions):
        earlier = first.setdefault(normalise(text), position)
        if earlier != position:
            pairs.append((position, earlier))
    return pairs


def normalise(text: str) -> str:
    """The text as exact matches compare it: case, white space, Unicode form and `$` aside."""
    return _LAYOUT.sub("", unicodedata.normalize("NFKC", text).casefold())


def _ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    if n == 0:
        return
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    for start in range(len(words) - n + 1):
        yield tuple(words[start : start + n])
