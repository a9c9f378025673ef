"""What the pages for users name exists: files, links, keys and modes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from printed_commands import PAGES, inline_code, without_blocks

from cipo_jax.config.keys import Config, flatten
from cipo_jax.main import MODES

TEXTS = {page: page.read_text() for page in PAGES}
KEYS = flatten(Config())
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def made_by_the_reader(page: Path) -> set[str]:
    """Files that the page says to make."""
    return set(re.findall(r"File `([^`]+)`", TEXTS[page]))


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(TEXTS[page])):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", file.read_text())
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page.name}: {target}"


@every_page
def test_files_that_are_named_exist(page: Path) -> None:
    """Names such as `rl/anchors.py`, from the root, the package, or beside the page."""
    made_up = ("path/to/", "mine", "NAME", "<")
    places = (ROOT, ROOT / "cipo_jax", page.parent, ROOT / "tests")
    for name in inline_code(TEXTS[page]):
        if not re.fullmatch(r"[\w./-]+\.(py|sh|md|yaml|ipynb|txt|toml|cff)", name):
            continue
        if name in made_by_the_reader(page) or name.startswith(made_up):
            continue
        known = any((place / name).exists() for place in places)
        parts = (ROOT / "cipo_jax", ROOT / "configs")
        in_package = "/" not in name and any(file for p in parts for file in p.rglob(name))
        of_a_run = name in ("parameters.txt", "table.md", "wandb_id.txt", "comparison.md")
        assert known or in_package or of_a_run, f"{page.name}: {name}"


@every_page
def test_keys_that_are_named_exist(page: Path) -> None:
    """`section.key`, with or without a value, and --config.section.key anywhere."""
    for code in inline_code(TEXTS[page]):
        found = re.match(r"(?:--config\.|config\.)?((\w+)\.(\w+))(?:=.*)?$", code)
        if found and found[2] in SECTIONS and not re.search(r"\.(py|md|json|jsonl)\b", code):
            assert found[1] in KEYS, f"{page.name}: {code}"
    for key in re.findall(r"--config\.([\w.]+)", TEXTS[page]):
        assert key in KEYS or key in ("verifier", "section.key"), f"{page.name}: {key}"


@pytest.mark.parametrize("name", ["laptop.md", "one_h100.md", "v5e_16.md"])
def test_figures_of_a_machine_are_those_that_were_found(name: str) -> None:
    """Each stands where its conditions do as well."""
    sources = (ROOT / "README.md", ROOT / "docs" / "scaling.md", ROOT / "benchmarks" / "RESULTS.md")
    known = "\n".join(source.read_text() for source in sources)
    figure = re.compile(r"(?<![\w.=-])\d+(?:,\d{3})*(?:\.\d+)?(?![\w.,]*\d)")
    text = without_blocks(TEXTS[ROOT / "docs" / name])
    figures = {n for n in figure.findall(text) if "." in n or "," in n}
    assert len(figures) > 1
    missing = {n for n in figures if n not in figure.findall(known)}
    assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize("name", ["laptop.md", "one_h100.md", "v5e_16.md", "own_task.md"])
def test_a_reader_gets_what_a_reader_needs(name: str) -> None:
    """The command first; then what to check, and how to take the report away."""
    text = TEXTS[ROOT / "docs" / name]
    if name == "own_task.md":
        _, _, text = text.partition("## With a pretrained model")
    assert re.match(r"(#.*)?\n+```\n\S", text), "it does not begin with a command"
    assert "first ten minutes" in text and "report.html" in text
    assert (
        "not tried" in text.lower() or "not run" in text or "only linux was tried" in text.lower()
    )


def test_the_pages_make_a_site(tmp_path: Path) -> None:
    """Links and headings between pages; nothing comes from a network."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    built = subprocess.run([*command, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = [page.read_text() for page in tmp_path.glob("*.html")]
    assert len(pages) > len(list((ROOT / "docs").glob("*.md")))  # and 404.html
    assert not [p for p in pages if re.search(r"<(link|script|img)[^>]*(src|href)=.https?:", p)]


def test_modes_and_pages_are_listed() -> None:
    """Every page of docs/ is in its index, and every mode on some page."""
    index = TEXTS[ROOT / "docs" / "README.md"]
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name
    everything = "\n".join(TEXTS.values())
    names = {mode.name for mode in MODES} - {"train"}
    assert not [name for name in names if f"--mode={name}" not in everything]
