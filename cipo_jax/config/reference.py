"""The reference page of the config: `python -m cipo_jax.config.reference > docs/configuration.md`.

Every key with its type, default and comment, read from keys.py's source, so that the comment next
to a default is the only place where a key is described. A comment belongs to a key if it stands on
the key's line or on the lines right above it.
"""

import ast
import dataclasses
import inspect
import io
import sys
import tokenize

from cipo_jax.config import keys as config_module

_HEAD = """# Configuration

Made from `cipo_jax/config/keys.py` by
`python -m cipo_jax.config.reference > docs/configuration.md`; edit the comments there, not this
page.

A config file (`configs/*.py`) starts from these defaults; `--config.section.key=value` on the
command line sets one key; `--mode=explain` shows what a command ends up with and where each value
came from. Tuples are written `--config.eval.pass_at="(1,8)"`. "paper" marks values known from arXiv
2605.14539 or public summaries of it, "ours" our reading where those are silent.
"""


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of the config, as its source has it; `comment` is "" where there is none."""

    name: str
    type: str
    default: str
    comment: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A dataclass of keys.py; `name` is "" for the keys outside any section."""

    name: str
    about: str
    keys: tuple[Key, ...]


def sections() -> list[Section]:
    """The sections in the order of `Config`, the top-level keys first."""
    source = inspect.getsource(config_module)
    own_line, beside = _comments(source)
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    top = classes["Config"]
    named = [("", top)]
    for field in _fields(top):
        section = classes.get(ast.unparse(field.annotation))
        if section is not None:
            named.append((ast.unparse(field.target), section))
    return [
        Section(
            name=name,
            about=" ".join((ast.get_docstring(node) or "").split()),
            keys=tuple(
                Key(
                    name=".".join(part for part in (name, ast.unparse(f.target)) if part),
                    type=ast.unparse(f.annotation),
                    default=ast.unparse(f.value) if f.value else "",
                    comment=_comment(f, own_line, beside),
                )
                for f in _fields(node)
                if ast.unparse(f.annotation) not in classes
            ),
        )
        for name, node in named
    ]


def reference() -> str:
    """The page, as markdown."""
    parts = [_HEAD]
    for section in sections():
        parts.append(f"## {section.name or 'Top level'}\n")
        if section.about:
            parts.append(f"{section.about}\n")
        parts.append("| key | type | default | |\n| --- | --- | --- | --- |")
        parts += [
            f"| `{key.name}` | {key.type} | `{_cell(key.default)}` | {_cell(key.comment)} |"
            for key in section.keys
        ]
        parts.append("")
    return "\n".join(parts)


def _fields(node: ast.ClassDef) -> list[ast.AnnAssign]:
    return [child for child in node.body if isinstance(child, ast.AnnAssign)]


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """{line: comment} of those that have their line to themselves, and of those beside code."""
    own_line: dict[int, str] = {}
    beside: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line[: token.start[1]].strip() == ""
            (own_line if alone else beside)[token.start[0]] = token.string.lstrip("# ")
    return own_line, beside


def _comment(field: ast.AnnAssign, own_line: dict[int, str], beside: dict[int, str]) -> str:
    above: list[str] = []
    line = field.lineno - 1
    while line in own_line:
        above.insert(0, own_line[line])
        line -= 1
    lines = range(field.lineno, (field.end_lineno or field.lineno) + 1)
    return " ".join([*above, *(beside[n] for n in lines if n in beside)])


def _cell(text: str) -> str:
    """`text` for a cell of a markdown table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
