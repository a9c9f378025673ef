"""Thoughts: the part of a completion that comes before what it says.

This file decides by which tags a thought begins and ends, and what is left without it. What is
inside holds no answer and no program. A thought that is never closed goes on to the end of the
completion, whether it was cut at its limit or not.

A chat template may open the thought itself: the prompt ends in `<think>`, and the completion begins
inside. `opened_by` finds that tag (see `openings.py`).
"""

import re

from cipo_jax.verifiers.math.boxes import find_boxes

_TAG = re.compile(
    r"<(?P<a>/?)(?i:think|thinking|thought|seed:think)>|\[(?P<b>/?)THINK\]"
    r"|<\|(?P<c>begin|end)_of_thought\|>|◁(?P<d>/?)think▷"
)
OPENING = "<think>"  # for a thought whose own tag is not known
_LAST_TAG_CHARS = 40
_ENDS_NO_SENTENCE = re.compile(
    r"(?:[=+(]|(?<=[a-zA-Z]),|\b(?i:an|the|and|or|but|if|because|since|which|that|whether|with|without|by|of|to|"
    r"from|into|than|we|let|my|our|its|is|are|was|when|while|wait|hmm|so|also|now|maybe|perhaps))"
    r"\s*$"
)
_LAST_CHARS = 100
_WORD = re.compile(r"[A-Za-z']+")
_SENTENCE_END = re.compile(r"[.!?]\s|\n")
_MANY_WORDS = 5


def opened_by(prompt_end: str) -> str:
    """The tag by which the end of a prompt opens a thought, or "" if it opens none."""
    end = prompt_end.rstrip()[-_LAST_TAG_CHARS:]
    tags = [tag for tag in _TAG.finditer(end) if tag.end() == len(end)]
    return tags[0][0] if tags and not _closes(tags[0]) else ""


def has_tags(text: str) -> bool:
    """Does a thought begin or end in `text`?"""
    return _TAG.search(text) is not None


def breaks_off(text: str) -> bool:
    """Does `text` end in the middle of a sentence, as one does that was cut inside a thought?

    For completions of which nothing else is known. It does if its last word or sign is one on which
    no sentence ends (`the`, `by`, `wait`, `=`, a comma after a word), or if after its last box it
    goes on, and its last sentence there has five words or more and no full stop or other sign.
    """
    if _ENDS_NO_SENTENCE.search(text[-_LAST_CHARS:]):
        return True
    boxes, _ = find_boxes(text)
    after = text[max(end for *_, end in boxes) + 1 :] if boxes else ""
    last = _SENTENCE_END.split(after)[-1]
    return len(_WORD.findall(last)) >= _MANY_WORDS and last.rstrip()[-1:].isalnum()


def is_tag(text: str) -> bool:
    """Is all of `text` one tag?"""
    return _TAG.fullmatch(text) is not None


def without_thinking(text: str) -> str:
    """`text` without its thoughts. One that is closed but not opened began before the text."""
    kept, start, is_open = [], 0, False
    for tag in _TAG.finditer(text):
        if not _closes(tag):
            if not is_open:
                kept.append(text[start : tag.start()])
            is_open = True
        else:
            if not is_open:  # opened in the prompt: all that came before was thought
                kept.clear()
            is_open = False
            start = tag.end()
    return "".join(kept) if is_open else "".join(kept) + text[start:]


def _closes(tag: re.Match[str]) -> bool:
    return bool(tag["a"] or tag["b"] or tag["c"] == "end" or tag["d"])
