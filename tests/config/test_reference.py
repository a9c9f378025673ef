"""The reference page: every key is on it, with what the source says of it."""

import ast
import inspect
import io
import tokenize
from types import ModuleType

import pytest
from places import ROOT

from cipo_jax.config import keys, method
from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.reference import reference, sections

KEYS = {key.name: key for section in sections() for key in section.keys}


def test_every_key_has_a_comment() -> None:
    assert list(KEYS) == list(flatten(Config()))
    missing = [name for name, key in KEYS.items() if len(key.comment) < 4]
    assert not missing, f"keys.py says nothing of {missing}"


def test_comments_are_read_as_they_are_written() -> None:
    assert KEYS["mesh.data"].comment == "replicas"
    assert KEYS["mesh.data"].default == "1" and KEYS["mesh.data"].type == "int"
    source = KEYS["model.source"].comment
    assert source.startswith("Directory of a Hugging Face") and source.endswith("from seed.")
    assert KEYS["eval.pass_at"].type == "tuple[int, ...]"


def test_the_reference_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    command = "python -m cipo_jax.config.reference > docs/configuration.md"
    assert page == reference(), f"run: {command}"
    assert command in page


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("model.num_layers", "> 0"),
        ("model.head_dim", "> 0; an even number (for RoPE)"),
        ("model.compute_dtype", "one of 'float32', 'bfloat16'"),
        ("data.drop", "each one of 'overlap', 'duplicates', 'too_long'"),
        ("data.train", ""),
        ("optimizer.b1", "a decay rate in [0, 1)"),
    ],
)
def test_what_a_key_may_be_is_read_from_its_annotation(key: str, allowed: str) -> None:
    assert KEYS[key].allowed == allowed


@pytest.mark.parametrize("module", [keys, method], ids=lambda module: module.__name__)
def test_a_comment_is_beside_a_key_or_above_it_and_not_both(module: ModuleType) -> None:
    """Two would be joined in the page, where they don't make a sentence."""
    source = inspect.getsource(module)
    comments = {
        token.start[0]: token.line.lstrip().startswith("#")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            beside = sum(n in comments for n in lines)
            assert beside + comments.get(node.lineno - 1, False) <= 1, ast.unparse(node.target)
