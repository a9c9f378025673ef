"""What the pages for users name exists: files, links, keys and modes."""

import re
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
        of_a_run = name in ("parameters.txt", "table.md", "comparison.md")
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


def test_modes_and_pages_are_listed() -> None:
    """Every page of docs/ is in its index, and every mode on some page."""
    index = TEXTS[ROOT / "docs" / "README.md"]
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name
    everything = "\n".join(TEXTS.values())
    names = {mode.name for mode in MODES} - {"train"}
    assert not [name for name in names if f"--mode={name}" not in everything]
