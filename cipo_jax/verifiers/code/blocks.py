"""Which of a completion's code blocks are its program.

This file decides what a code block is and which blocks are put together. It looks at the text of
the blocks line by line and never parses it: programs are parsed in the sandbox only. How the
program is run is decided in `program.py`.

The rule:

  1. Only blocks marked as Python count; if there are none, blocks without a mark. Blocks that are
     empty or hold nothing but comments do not count. Code before the first fence is a block of
     Python that the prompt has begun.
  2. The main block is the last one that defines, at the left margin, what the tests call. For a
     program that reads standard input it is the last one that reads it. If no block does, it is the
     last one (of a function's body: the last with a `return` or `yield`).
  3. A block before or after it is added if it defines something that the chosen blocks use and do
     not have: a helper function, a class, an import, a constant. Of several definitions of a
     function the last one counts, as when the blocks are run one after the other.
  4. If the main block of a program that reads standard input only defines things, the next block
     that uses one of them and does something is added: it starts the program. A block that puts a
     text in the place of standard input (`sys.stdin = io.StringIO(...)`) is an example.

All else is left out: usage examples, asserts of the model's own, earlier drafts. The chosen blocks
are joined in the order in which they stand.

Completions are long and a model may write anything, so all of this takes time in proportion to the
length of the text.
"""

import dataclasses
import re
import textwrap
from collections.abc import Collection
from functools import cached_property

# Repetitions are possessive (`++`) wherever two of them could share what they match: else a long
# line would take the square of its length.
# A fence at the start of a line or of a list's item, or one at the end of a line that names Python.
_FENCE = re.compile(
    r"^[ \t]*+(?P<item>(?:(?:[-*+]|[0-9]{1,3}[.)])[ \t]++)*+)(?P<marks>`{3,}+|~{3,}+)"
    r"[ \t]*+(?P<language>[\w+#.-]*+)[^\n`]*+$"
    r"|(?<![`\n])(?P<late>`{3,}+)[ \t]*+(?P<python>(?i:python|py)[0-9.]*+)[ \t]*+$",
    re.M,
)
_PYTHON = re.compile(r"(?:python|py)[0-9.]*")
_MARKDOWN = ("markdown", "md")
_QUOTE = re.compile(r"\"\"\"|'''")
# Comments and strings, which hold no names; the longest form first.
_TEXT = re.compile(
    r"#[^\n]*"
    r"|\"\"\"(?:[^\\]|\\.)*?(?:\"\"\"|\Z)|'''(?:[^\\]|\\.)*?(?:'''|\Z)"
    r"|\"(?:[^\"\\\n]|\\.)*(?:\"|$)|'(?:[^'\\\n]|\\.)*(?:'|$)",
    re.S | re.M,
)
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*")
_DEFINITION = re.compile(r"^(?:async[ \t]++def|def|class)[ \t]++(\w++)", re.M)
_IMPORT = re.compile(r"^(?:from[ \t]++[\w.]++[ \t]++)?import[ \t]++(\([^()]*+\)|[^\n;]*+)", re.M)
_TARGETS = r"(\*?+\w++(?:[ \t]*+,[ \t]*+\*?+\w++)*+)[ \t]*+(?::[^=\n]++)?+=(?!=)"
_ASSIGNMENT = re.compile("^" + _TARGETS, re.M)
# Where a name gets its value inside a block, whatever the depth.
_BINDING = re.compile(
    r"\bas[ \t]++(\w++)|\b(\w++)[ \t]*+:=|^[ \t]*+(?:async[ \t]++def|def|class)[ \t]++(\w++)"
    rf"|^[ \t]*+{_TARGETS}|\bimport\b[ \t]*+(\([^()]*+\)|[^\n]*+)",
    re.M,
)
_LOOP, _IN, _LAMBDA = (re.compile(rf"\b{word}\b") for word in ("for", "in", "lambda"))
_HEADER = re.compile(r"\bdef[ \t]++\w++[ \t]*+\([^)]{0,2000}+\)")
_PARAMETER = re.compile(r"[(,]\s*+\**+(\w++)\s*+(?=[:,=)])")
_READING = re.compile(
    r"\b(?:input[ \t]*+\(|stdin\b|fileinput\b|open[ \t]*+\([ \t]*+0\b)|/dev/stdin"
)
_REPLACING = re.compile(r"\bstdin[ \t]*+=[ \t]*+(?:\w++\.)?StringIO\b")
_WRITING = re.compile(r"\b(?:print|write|writelines)[ \t]*+\(")
_RETURNING = re.compile(r"\b(?:return|yield)\b")
# A line at the left margin that is code, in a text that may also be prose.
CODE_LINE = re.compile(
    r"(?:import[ \t]+[\w.]+|from[ \t]+[\w.]+[ \t]+import\b|(?:async[ \t]+)?def[ \t]+\w+[ \t]*\()"
    r"|class[ \t]+\w+[ \t]*[(:]"
    r"|(?:if|elif|else|for|while|with|try|except|finally|match)\b.*:\s*(?:#|$)"
    r"|[@#)\]}]|(?:pass|assert|raise|del)\b"
    r"|\(?\*?[\w.]++(?:[ \t]*+,[ \t]*+\*?[\w.]++)*+,?\)?[ \t]*+(?:\[[^=]*+|:[^=]++)?"
    r"(?:[-+*/%&|^@]{1,2}|<<|>>)?=(?!=)"
    r"|[\w.]++\(.*[)\](\[{},][ \t]*(?:#.*)?$"
)
# The same of a function's body.
_BODY_LINE = re.compile(
    r"(?:return|yield|continue|break|global|nonlocal|await)\b|\"\""
    r"|(?:if|elif|for|while|with|match)\b.*(?:[(\[{,\\]|\band|\bor)[ \t]*$"
)
_SILENT = re.compile(r"(?:async|def|class|import|from|@|\)|\]|\}|else\b|elif\b|except\b|finally\b)")


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
      text: its content, without the indentation that all lines share.
      code: the same without comments and what strings hold.
    """

    text: str
    code: str

    @cached_property
    def defined(self) -> set[str]:
        """Functions and classes at the left margin."""
        return set(_DEFINITION.findall(self.code))

    @cached_property
    def given(self) -> set[str]:
        """What other blocks can take from it: as `defined`, with imports and assignments."""
        given = set(self.defined)
        for names in _IMPORT.findall(self.code):
            given |= {item.split()[-1].split(".")[0] for item in _items(names)}
        for names in _ASSIGNMENT.findall(self.code):
            given |= set(_items(names))
        return given

    @cached_property
    def missing(self) -> set[str]:
        """What it takes from elsewhere: names in it, but those of attributes and those that get a
        value somewhere in it. Its own functions too, as a later block may have better ones."""
        used = set(_NAME.findall(self.code))
        return (used - self._bound()) | (used & self.defined)

    @cached_property
    def is_example(self) -> bool:
        """Does it put a text in the place of standard input?"""
        return bool(_REPLACING.search(self.code))

    def _bound(self) -> set[str]:
        parts = ["".join(groups) for groups in _BINDING.findall(self.code)]
        for header in _HEADER.findall(self.code):
            parts += _PARAMETER.findall(header)
        for line in self.code.split("\n"):
            parts += [_IN.split(part, 1)[0] for part in _LOOP.split(line)[1:]]
            parts += [part.partition(":")[0] for part in _LAMBDA.split(line)[1:]]
        return {name for part in parts for name in _NAME.findall(part)}

    def only_defines(self) -> bool:
        """Does it do nothing when it is run, but define, import and assign?"""
        margin = re.findall(r"^\S[^\n]*", self.code, re.M)
        return all(_SILENT.match(line) or _ASSIGNMENT.match(line) for line in margin)


def opened_fence(prompt_end: str) -> str:
    """The fence of the code block that the end of a prompt opens, with its line break; "" for none.
    It names Python: one without a mark could as well close a block."""
    fence = _FENCE.search(prompt_end.rstrip().rpartition("\n")[2])
    return f"{fence[0]}\n" if fence and _PYTHON.fullmatch(_fence_parts(fence)[1]) else ""


def has_fence(text: str) -> bool:
    """Does a code block begin anywhere in it?"""
    return bool(_fenced(text))


def find_program(text: str, wanted: Collection[str] = (), reads_input: bool = False) -> str | None:
    """The program in a completion with code blocks, by the rule above; without any block, the
    whole text. A last block that is never closed runs to the end. None if there is no program.

    Args:
      wanted: names that the tests call.
      reads_input: the program gets its input on standard input.
    """
    text = text.replace("\r\n", "\n")
    fenced = _fenced(text)
    if not fenced:
        return text.strip("\n") if text.strip() else None
    marked = [_block(body) for language, body in fenced if _PYTHON.fullmatch(language)]
    plain = [_block(body) for language, body in fenced if not language]
    groups = [[b for b in blocks if b.code.strip()] for blocks in (marked, plain)]
    groups = [blocks for blocks in groups if blocks]
    if not groups:
        return None
    blocks = next((b for b in groups if _has_main(b, wanted, reads_input)), groups[0])
    chosen = _choose(blocks, wanted, reads_input)
    return "\n\n".join(blocks[number].text for number in sorted(chosen))


def _has_main(blocks: list[Block], wanted: Collection[str], reads_input: bool) -> bool:
    if reads_input:
        return any(_READING.search(block.code) for block in blocks)
    return any(block.given & set(wanted) for block in blocks)


def _choose(blocks: list[Block], wanted: Collection[str], reads_input: bool) -> set[int]:
    """The numbers of the blocks that make the program."""
    # Of what is only assigned or imported, all blocks: it is taken where it is missing.
    defining: dict[str, int] = {}
    giving: dict[str, list[int]] = {}
    for number, block in enumerate(blocks):
        defining |= dict.fromkeys(block.defined, number)
        for name in block.given:
            giving.setdefault(name, []).append(number)
    chosen: set[int] = set()
    needed = set(wanted)
    if reads_input or not _has_main(blocks, wanted, False):
        main = _main_by_signs(blocks, reads_input)
        chosen, needed = {main}, set(blocks[main].missing)
        starter = _starter(blocks, main) if reads_input else None
        if starter is not None:
            chosen.add(starter)
            needed |= blocks[starter].missing
    seen: set[str] = set()
    while names := sorted((needed & giving.keys()) - seen):
        seen.update(names)
        for name in names:
            giver = defining.get(name)
            if giver is None and not chosen & set(giving[name]):
                giver = giving[name][-1]
            if giver is not None and giver not in chosen:
                chosen.add(giver)
                needed |= blocks[giver].missing
    return chosen


def _main_by_signs(blocks: list[Block], reads_input: bool) -> int:
    """The main block where no name tells which it is."""
    signs = (_READING, _WRITING) if reads_input else (_RETURNING,)
    if reads_input or not any(block.defined for block in blocks):
        for sign in signs:
            found = [number for number, block in enumerate(blocks) if sign.search(block.code)]
            if found:
                return ([n for n in found if not blocks[n].is_example] or found)[-1]
    return len(blocks) - 1


def _starter(blocks: list[Block], main: int) -> int | None:
    """The block that starts what the main block only defines; None if that starts itself."""
    if not blocks[main].only_defines():
        return None
    for number in range(main + 1, len(blocks)):
        block = blocks[number]
        if block.missing & blocks[main].given and not (block.only_defines() or block.is_example):
            return number
    return None


def _items(names: str) -> list[str]:
    items = (item.strip(" \t\n*") for item in names.strip("()").split(","))
    return [item for item in items if item]


def _block(text: str) -> Block:
    return Block(text, _TEXT.sub(lambda found: '""' if found[0][0] != "#" else "", text))


def _fenced(text: str) -> list[tuple[str, str]]:
    """(language, content) of each block. A fence inside a triple-quoted string is none, if the
    string ends before another fence or the end. A block of Python that begins before the last one
    is closed ends that one: its fence could be no part of a program. Where all that comes before
    the first fence is code, the text began inside a block, and a fence without a mark closes it."""
    fences = list(_FENCE.finditer(text))
    states = _string_states(text, fences)
    last = {state: number for number, state in enumerate(states)}
    blocks: list[tuple[str, str]] = []
    opened: tuple[str, str] | None = None
    start, outside = 0, states[0]  # of what is open: the block, or the text between two blocks
    for number, fence in enumerate(fences, 1):
        marks, language = _fence_parts(fence)
        if states[number] != outside and last[outside] > number:
            continue
        is_python = bool(_PYTHON.fullmatch(language))
        if opened is None and not start and (is_python or not language):
            opened = (marks, "python") if _is_code(text[: fence.start()]) else None
        if opened is not None:
            if fence["late"] or (fence["item"] and not is_python):
                continue
            closes = marks.startswith(opened[0])
            begins = is_python and (closes or opened[1] in _MARKDOWN)
            if not begins and (language or not closes):
                continue
            blocks.append((opened[1], _dedented(text[start : fence.start()])))
            opened = (marks, language) if begins else None
        else:
            opened = (marks, language)
        start, outside = fence.end(), states[number]
    if opened is not None:
        blocks.append((opened[1], _dedented(text[start:])))
    return blocks


def _fence_parts(fence: re.Match[str]) -> tuple[str, str]:
    """Its marks and its language in small letters, "" for none."""
    return fence["marks"] or fence["late"], (fence["language"] or fence["python"] or "").lower()


def _is_code(text: str) -> bool:
    """Are all lines of `text` at its left margin code, of a program or of a function's body?"""
    lines = _block(_dedented(text)).code.split("\n")
    margin = [line for line in lines if line[:1].strip()]
    return bool(margin) and all(CODE_LINE.match(x) or _BODY_LINE.match(x) for x in margin)


def _string_states(text: str, fences: list[re.Match[str]]) -> list[tuple[bool, bool]]:
    """At the start, at each fence and at the end of the text: has there been an odd number of
    triple quotes of each kind? Where two places differ, one of them is in a string."""
    counts = {'"""': 0, "'''": 0}
    states, quotes = [(False, False)], _QUOTE.finditer(text)
    quote = next(quotes, None)
    for place in (*(fence.start() for fence in fences), len(text)):
        while quote is not None and quote.start() < place:
            counts[quote[0]] += 1
            quote = next(quotes, None)
        double, single = counts.values()
        states.append((bool(double % 2), bool(single % 2)))
    return states


def _dedented(text: str) -> str:
    return textwrap.dedent(text).strip("\n")
