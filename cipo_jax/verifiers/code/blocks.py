"""Which of a completion's code blocks are its program.

This file decides what a code block is and which blocks are put together. It looks at the text of
the blocks line by line and never parses it: programs are parsed in the sandbox only. How the
program is run is decided in `program.py`.

The rule:

  1. Only blocks marked as Python count; if there are none, blocks without a mark. Blocks that are
     empty or hold nothing but comments do not count.
  2. The main block is the last one that defines, at the left margin, what the tests call. For a
     program that reads standard input it is the last one that reads it. If no block does, it is the
     last one (of a function's body: the last with a `return` or `yield`).
  3. A block before or after it is added if it defines something that the chosen blocks use and do
     not have: a helper function, a class, an import, a constant. Of several definitions of a
     function the last one counts, as when the blocks are run one after the other.
  4. If the main block of a program that reads standard input only defines things, the next block
     that uses one of them and does something is added: it starts the program.

All else is left out: usage examples, asserts of the model's own, earlier drafts. The chosen blocks
are joined in the order in which they stand.
"""

import dataclasses
import re
import textwrap
from collections.abc import Collection

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*$", re.M)
_PYTHON = ("python", "python3", "py", "py3")
_QUOTES = ('"""', "'''")
# Comments and strings, which hold no names; the longest form first.
_TEXT = re.compile(
    r"#[^\n]*"
    r"|\"\"\"(?:[^\\]|\\.)*?(?:\"\"\"|\Z)|'''(?:[^\\]|\\.)*?(?:'''|\Z)"
    r"|\"(?:[^\"\\\n]|\\.)*(?:\"|$)|'(?:[^'\\\n]|\\.)*(?:'|$)",
    re.S | re.M,
)
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*")
_DEFINITION = re.compile(r"^(?:async[ \t]+def|def|class)[ \t]+(\w+)", re.M)
_IMPORT = re.compile(r"^(?:from[ \t]+[\w.]+[ \t]+)?import[ \t]+(\([^)]*\)|[^\n;]*)", re.M)
_ASSIGNMENT = re.compile(r"^(\w+(?:[ \t]*,[ \t]*\w+)*)[ \t]*(?::[^=\n]+)?=(?!=)", re.M)
# Where a name gets its value inside a block, whatever the depth.
_BINDING = re.compile(
    r"\bfor\b[^\n]*?\bin\b|\blambda\b[^:\n]*:|\bas[ \t]+\w+|\w+[ \t]*:="
    r"|^[ \t]*[\w \t,.*\[\]]+(?::[^=\n]+)?=(?!=)|\bimport\b[ \t]*(?:\([^)]*\)|[^\n]*)",
    re.M,
)
_HEADER = re.compile(r"\bdef[ \t]+\w+[ \t]*\([^)]*\)")
_PARAMETER = re.compile(r"[(,]\s*\**(\w+)\s*(?=[:,=)])")
_READING = re.compile(r"\b(?:input[ \t]*\(|stdin\b|fileinput\b|open[ \t]*\([ \t]*0\b)|/dev/stdin")
_WRITING = re.compile(r"\b(?:print|write|writelines)[ \t]*\(")
_RETURNING = re.compile(r"\b(?:return|yield)\b")
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

    @property
    def defined(self) -> set[str]:
        """Functions and classes at the left margin."""
        return set(_DEFINITION.findall(self.code))

    @property
    def given(self) -> set[str]:
        """What other blocks can take from it: as `defined`, with imports and assignments."""
        given = self.defined
        for names in _IMPORT.findall(self.code):
            given |= {item.split()[-1].split(".")[0] for item in _items(names)}
        for names in _ASSIGNMENT.findall(self.code):
            given |= set(_items(names))
        return given

    @property
    def used(self) -> set[str]:
        """Names in it, but those of attributes."""
        return set(_NAME.findall(self.code))

    @property
    def bound(self) -> set[str]:
        """Names that get a value somewhere in it."""
        bound = {name for part in _BINDING.findall(self.code) for name in _NAME.findall(part)}
        for header in _HEADER.findall(self.code):
            bound |= set(_PARAMETER.findall(header))
        return bound

    def only_defines(self) -> bool:
        """Does it do nothing when it is run, but define, import and assign?"""
        margin = re.findall(r"^\S[^\n]*", self.code, re.M)
        return all(_SILENT.match(line) or _ASSIGNMENT.match(line) for line in margin)


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
    fenced = _fenced(text)
    if not fenced:
        return text.strip("\n") if text.strip() else None
    marked = [_block(body) for language, body in fenced if language in _PYTHON]
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
    chosen: set[int] = set()
    needed = set(wanted)
    if reads_input or not _has_main(blocks, wanted, False):
        main = _main_by_signs(blocks, reads_input)
        chosen, needed = {main}, _missing(blocks[main])
        starter = _starter(blocks, main) if reads_input else None
        if starter is not None:
            chosen.add(starter)
            needed |= _missing(blocks[starter])
    seen: set[str] = set()
    while needed - seen:
        name = sorted(needed - seen)[0]
        seen.add(name)
        number = _last_giver(blocks, name, chosen)
        if number is not None and number not in chosen:
            chosen.add(number)
            needed |= _missing(blocks[number])
    return chosen


def _main_by_signs(blocks: list[Block], reads_input: bool) -> int:
    """The main block where no name tells which it is."""
    signs = (_READING, _WRITING) if reads_input else (_RETURNING,)
    if reads_input or not any(block.defined for block in blocks):
        for sign in signs:
            found = [number for number, block in enumerate(blocks) if sign.search(block.code)]
            if found:
                return found[-1]
    return len(blocks) - 1


def _starter(blocks: list[Block], main: int) -> int | None:
    """The block that starts what the main block only defines; None if that starts itself."""
    if not blocks[main].only_defines():
        return None
    for number in range(main + 1, len(blocks)):
        if blocks[number].used & blocks[main].given and not blocks[number].only_defines():
            return number
    return None


def _last_giver(blocks: list[Block], name: str, chosen: set[int]) -> int | None:
    """The block that defines `name`; what is only assigned or imported is taken where it is
    missing."""
    defining = [n for n, block in enumerate(blocks) if name in block.defined]
    if defining:
        return defining[-1]
    giving = [n for n, block in enumerate(blocks) if name in block.given]
    return None if not giving or set(giving) & chosen else giving[-1]


def _missing(block: Block) -> set[str]:
    """What the block takes from elsewhere; its own functions too, as a later block may have
    better ones."""
    return (block.used - block.bound) | (block.used & block.defined)


def _items(names: str) -> list[str]:
    return [item.strip() for item in names.strip("()").split(",") if item.strip()]


def _block(text: str) -> Block:
    return Block(text, _TEXT.sub(lambda found: '""' if found[0][0] != "#" else "", text))


def _fenced(text: str) -> list[tuple[str, str]]:
    """(language, content) of each block. A fence inside a triple-quoted string is none, if the
    string ends before another fence or the end."""
    blocks: list[tuple[str, str]] = []
    opened: tuple[str, str] | None = None
    start = 0  # of what is open: the block, or the text between two blocks
    fences = list(_FENCE.finditer(text))
    for number, fence in enumerate(fences):
        marks, language = fence[1], fence[2].lower()
        ends = [*(later.start() for later in fences[number + 1 :]), len(text)]
        if _is_in_string(text[start : fence.start()]) and any(
            not _is_in_string(text[start:end]) for end in ends
        ):
            continue
        if opened is None:
            opened, start = (marks, language), fence.end()
        elif not language and marks.startswith(opened[0]):
            blocks.append((opened[1], _dedented(text[start : fence.start()])))
            opened, start = None, fence.end()
    if opened is not None:
        blocks.append((opened[1], _dedented(text[start:])))
    return blocks


def _is_in_string(text: str) -> bool:
    return any(text.count(quote) % 2 for quote in _QUOTES)


def _dedented(text: str) -> str:
    return textwrap.dedent(text).strip("\n")
