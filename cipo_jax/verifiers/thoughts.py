"""Thoughts: the part of a completion that comes before what it says.

This file decides by which tags a thought begins and ends, and what is left without it. What is
inside holds no answer and no program. A thought that is never closed goes on to the end of the
completion, whether it was cut at its limit or not.

A chat template may open the thought itself: the prompt ends in `<think>`, and the completion begins
inside. `opened_by` finds that tag. Verifiers are given the completion with it in front, so that
they see the whole thought and need to know nothing else.
"""

import re

_TAG = re.compile(
    r"<(?P<a>/?)(?i:think|thinking|thought|seed:think)>|\[(?P<b>/?)THINK\]"
    r"|<\|(?P<c>begin|end)_of_thought\|>|◁(?P<d>/?)think▷"
)
OPENING = "<think>"  # for a thought whose own tag is not known
_LAST_TAG_CHARS = 40


def opened_by(prompt_end: str) -> str:
    """The tag by which the end of a prompt opens a thought, or "" if it opens none."""
    end = prompt_end.rstrip()[-_LAST_TAG_CHARS:]
    tags = [tag for tag in _TAG.finditer(end) if tag.end() == len(end)]
    return tags[0][0] if tags and not _closes(tags[0]) else ""


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
