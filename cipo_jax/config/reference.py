"""The reference page of the config: `python -m cipo_jax.config.reference > docs/configuration.md`.

Every key with its type, allowed values and default, read from the dataclasses, and its comment,
read from their source: beside the key, or on the lines right above it.
"""

import ast
import dataclasses
import inspect
import io
import sys
import textwrap
import tokenize
import typing
from typing import Any

from cipo_jax.config.keys import Config
from cipo_jax.config.ranges import item_of, plain_type, rules

_HEAD = """# Configuration

Made from `cipo_jax/config/keys.py` and `cipo_jax/config/method.py` by
`python -m cipo_jax.config.reference > docs/configuration.md`; edit the comments there, not this
page.

A config file (`configs/*.py`) starts from these defaults; `--config.section.key=value` on the
command line sets one key; `--mode=explain` shows what a command ends up with and where each value
came from. Tuples are written `--config.eval.pass_at="(1,8)"`. "paper" marks values known from arXiv
2605.14539 or public summaries of it, "ours" our reading where those are silent.
"""


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of the config."""

    name: str
    type: str
    allowed: str  # which values of the type it may have; "": all
    default: str
    comment: str  # as in the source, on one line; "": none


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the config; `name` is "" for the keys outside any section."""

    name: str
    about: str
    keys: tuple[Key, ...]


def sections() -> list[Section]:
    """The sections in the order of `Config`, the top-level keys first."""
    nested = [f for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.default)]
    return [_section("", Config), *(_section(f.name, type(f.default)) for f in nested)]


def reference() -> str:
    """The page, as markdown."""
    parts = [_HEAD]
    for section in sections():
        parts.append(f"## {section.name or 'Top level'}\n")
        if section.name:
            parts.append(f"{section.about}\n")
        parts.append("| key | type | allowed | default | |\n| --- | --- | --- | --- | --- |")
        parts += [
            f"| `{key.name}` | {key.type} | {_cell(key.allowed)} | `{_cell(key.default)}` "
            f"| {_cell(key.comment)} |"
            for key in section.keys
        ]
        parts.append("")
    return "\n".join(parts)


def _section(name: str, cls: type) -> Section:
    comments, keys = _comments(cls), []
    annotations = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if not dataclasses.is_dataclass(field.default):
            key, annotation = field.name, annotations[field.name]
            full, default = f"{name}.{key}" if name else key, repr(field.default)
            described = _type_name(annotation), _allowed(annotation)
            keys.append(Key(full, *described, default, comments.get(key, "")))
    return Section(name, " ".join((cls.__doc__ or "").split()), tuple(keys))


def _type_name(annotation: Any) -> str:
    plain = plain_type(annotation)
    return f"tuple[{_type_name(item_of(annotation))}, ...]" if plain is tuple else plain.__name__


def _allowed(annotation: Any) -> str:
    """What the annotation allows, in the words of the messages."""
    wanted = [rule.wanted.removeprefix("a value ") for rule in rules(annotation)]
    if plain_type(annotation) is tuple:
        wanted += [f"each {rule.wanted}" for rule in rules(item_of(annotation))]
    return "; ".join(wanted)


def _comments(cls: type) -> dict[str, str]:
    """{key: comment} of a section."""
    source = textwrap.dedent(inspect.getsource(cls))
    (node,) = ast.parse(source).body
    own_line: dict[int, str] = {}
    beside: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line[: token.start[1]].strip() == ""
            (own_line if alone else beside)[token.start[0]] = token.string.lstrip("# ")
    found = {}
    for field in typing.cast(ast.ClassDef, node).body:
        if isinstance(field, ast.AnnAssign):
            first, last = field.lineno, field.end_lineno or field.lineno
            parts = [beside[n] for n in range(first, last + 1) if n in beside]
            while first - 1 in own_line:
                first -= 1
                parts.insert(0, own_line[first])
            found[ast.unparse(field.target)] = " ".join(parts)
    return found


def _cell(text: str) -> str:
    """`text` for a cell of a markdown table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
