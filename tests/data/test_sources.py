"""What may be written as a source of problems."""

from pathlib import Path

import pytest

from cipo_jax.data.sources import Source, check_sources, parse_sources, read_rows
from cipo_jax.types import CipoError


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("arithmetic", [("arithmetic", None)]),
        ("gs://bucket/a.jsonl", [("gs://bucket/a.jsonl", None)]),
        ("hf:o/n:train[:10]", [("hf:o/n:train[:10]", None)]),
        ("a.jsonl=0.7,b.jsonl=0.3", [("a.jsonl", 0.7), ("b.jsonl", 0.3)]),
        (" a=b.jsonl = 2 , arithmetic=.5 ", [("a=b.jsonl", 2.0), ("arithmetic", 0.5)]),
        ("a.jsonl,b.jsonl", [("a.jsonl", None), ("b.jsonl", None)]),
    ],
)
def test_sources_and_weights(text: str, sources: list[tuple[str, float | None]]) -> None:
    assert parse_sources(text, "data.train") == tuple(Source(*s) for s in sources)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted sources separated by commas"),
        ("a.jsonl,", "wanted sources separated by commas"),
        ("a.jsonl,a.jsonl", "a source twice"),
        ("a.jsonl=0,b.jsonl=1", "weights > 0"),
        ("a.jsonl,b.jsonl=1", "a weight for every source, or none"),
        ("arithmetic,b.jsonl", "wanted weights, as in arithmetic=0.5,b.jsonl=0.5"),
    ],
)
def test_wrong_lists_are_refused(text: str, message: str) -> None:
    with pytest.raises(CipoError, match=f"config.data.train: got '.*{message}"):
        parse_sources(text, "data.train")


def test_sources_are_checked_without_being_read(tmp_path: Path) -> None:
    there = tmp_path / "there.jsonl"
    there.write_text("not json")
    check_sources(
        f"{there}=0.4,arithmetic=0.2,hf:o/n:test=0.2,tfds:a:b=0.1,tfds:gs://a/1.0.0:b=0.1,gs://a/b.jsonl=0.1",
        "a",
    )
    for name, message in (
        (f"{there},{tmp_path}/gone.jsonl", "gone.jsonl: there is no such file"),
        ("https://a.org/b.jsonl", "files of https:// are not read; wanted a local file.*gs://"),
        (f"{there},hf:nothing", "'hf:nothing': wanted hf:owner/name:split"),
    ):
        with pytest.raises(CipoError, match=f"config.data.eval: .*{message}"):
            check_sources(name, "data.eval")


def test_a_misspelt_name_is_told_from_a_missing_file() -> None:
    with pytest.raises(CipoError, match="aritmetic: there is no such file.*'arithmetic'"):
        read_rows("aritmetic")
