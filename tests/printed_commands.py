"""The commands that the project prints: in pages, docstrings, comments of scripts, the Makefile."""

import ast
import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from places import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_MODULES = [
    file
    for folder in ("cipo_jax", "configs", "benchmarks", "tests/fixtures")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
_SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / "launch" / "Dockerfile"]
_MAKEFILE = ROOT / "Makefile"
_RESULTS = ROOT / "benchmarks" / "RESULTS.md"

_FENCED = re.compile(r"(?ms)^```\w*\n(.*?)^```$")
_INDENTED = re.compile(r"(?m)^ {4,}(\S.*)$")
_INLINE = re.compile(r"`([^`]+)`")
# A place for what the reader has: NAME, <key>, [more arguments]. What may be left out, [--flag=x],
# is none.
_BLANK = re.compile(r"(?:^|[=/@])[A-Z][A-Z_]*$|[<>\[\]]")


@dataclasses.dataclass(frozen=True)
class Printed:
    """A command.

    Attributes:
      file: that prints it, relative to the project.
      words: as a shell reads them.
    """

    file: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{Path(self.file).name}: {' '.join(self.words)}"[:90]


def inline_code(text: str) -> list[str]:
    """What stands between single backticks."""
    rest = _INDENTED.sub("", _FENCED.sub("", text))
    return [" ".join(code.split()) for code in _INLINE.findall(rest)]


def without_blocks(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCED.sub("", text)


def write_files(page: Path, directory: Path) -> None:
    """The files that a page tells its reader to make."""
    for name, content in re.findall(
        r"File `(.+?)`:\n\n```\w+\n(.*?)```", page.read_text(), re.DOTALL
    ):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(content)


def printed_commands() -> list[Printed]:
    """All of them that run this program, one of its modules, a benchmark, a script or a target."""
    return [*dict.fromkeys(_commands())]


def _commands() -> Iterator[Printed]:
    for file in [*PAGES, _RESULTS, *_MODULES, *_SCRIPTS, _MAKEFILE]:
        for line in _lines(file):
            words = _words(line)
            if words and _is_ours(words) and not any(map(_BLANK.search, words)):
                yield Printed(str(file.relative_to(ROOT)), tuple(words))


def _lines(file: Path) -> list[str]:
    """The lines of code in it, continued ones joined."""
    text = file.read_text()
    if file == _MAKEFILE:
        text = re.sub(r"\$\$\([^)]*\)", "1", text.replace("\\\n", " "))  # what a shell fills in
        values = dict(re.findall(r"(?m)^(\w+) := (.*)$", text))
        while any(f"$({name})" in text for name in values):
            text = re.sub(r"\$\((\w+)\)", lambda m: values.get(m[1], m[0]), text)
        return [line.partition("||")[0] for line in re.findall(r"(?m)^\t(.*)$", text)]
    if file.suffix == ".py":  # of the module; a backslash at the end of a line joins it there
        text = ast.get_docstring(ast.parse(text)) or ""
    elif file in _SCRIPTS:
        comments = (line[2:] for line in text.splitlines() if line.startswith("# "))
        text = "\n".join(comments)
    outside = without_blocks(text)
    block = _INDENTED if file not in _SCRIPTS else re.compile(r"(?m)^ {2,}(\S.*)$")
    lines = "\n".join([*_FENCED.findall(text), *block.findall(outside)])
    return [*re.sub(r" *\\\n *", " ", lines).splitlines(), *inline_code(text)]


def _words(line: str) -> list[str]:
    """The line as a shell reads it; [what may be left out] is taken, and notes behind several
    spaces are not."""
    line = re.split(r"\s{3,}(?![\s-])", line.strip())[0]
    try:
        return shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", line), comments=True)
    except ValueError:  # prose between backticks
        return []


def _is_ours(words: list[str]) -> bool:
    if words[0] == "make" or words[0].startswith("--mode="):
        return True
    if words[0].startswith("launch/"):
        return words[0].endswith(".sh") and len(words) > 1
    if re.fullmatch(r"benchmarks/\w+\.py", words[0]):  # as tables of results name them
        return len(words) > 1
    if "cipo-jax" in words[:-1]:  # with arguments, whatever starts it
        return True
    named = ("cipo_jax.", "benchmarks/")
    after = [word for word in words[1:] if word.startswith(named) or word == "cipo_jax"]
    return bool(after) and any(word.endswith("python") for word in words)
