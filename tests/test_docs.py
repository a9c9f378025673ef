"""What the documentation names exists: files, links, keys and flags; and its commands parse.

Read are the pages for users. Of cloud commands only our own scripts are tried, with --dry_run.
"""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

from cipo_jax.config.command_line import parse
from cipo_jax.config.keys import Config, flatten
from cipo_jax.main import MODES

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text() for page in PAGES}
KEYS = flatten(Config())
SECTIONS = {key.partition(".")[0] for key in KEYS if "." in key}
# What a command cannot do without, where the page leaves it out.
CONFIG = "--config=configs/demo.py"
MODULE = ["-m", "cipo_jax.main"]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

_FENCED = re.compile(r"(?ms)^```\w*\n(.*?)^```$")
_INDENTED = re.compile(r"(?m)^ {4,}(\S.*)$")
_INLINE = re.compile(r"`([^`]+)`")


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks."""
    rest = _INDENTED.sub("", _FENCED.sub("", TEXTS[page]))
    return [" ".join(code.split()) for code in _INLINE.findall(rest)]


def lines_of_code(page: Path) -> list[str]:
    """The lines of code blocks, continued ones joined, and inline code."""
    blocks = _FENCED.findall(TEXTS[page])
    rest = _FENCED.sub("", TEXTS[page])
    lines = "\n".join([*blocks, *_INDENTED.findall(rest)])
    return [*re.sub(r" *\\\n *", " ", lines).splitlines(), *inline_code(page)]


def made_by_the_reader(page: Path) -> set[str]:
    """Files that the page says to make."""
    return set(re.findall(r"File `([^`]+)`", TEXTS[page]))


def words(line: str) -> list[str]:
    """The line as a shell reads it; [what may be left out] is taken, and notes behind several
    spaces are not."""
    line = re.split(r"\s{3,}", line.strip())[0]
    try:
        return shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", line), comments=True)
    except ValueError:  # prose between backticks
        return []


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of everything that runs this program or one of its scripts."""
    for page in PAGES:
        for line in lines_of_code(page):
            found = words(line)
            if found and (
                "cipo_jax.main" in found or found[0].startswith(("--mode=", "launch/", "make"))
            ):
                yield str(page.relative_to(ROOT)), found


COMMANDS = [*commands()]


def is_of_main(word: str) -> bool:
    """Where the arguments of the program begin."""
    return word == "cipo_jax.main" or word.startswith(("--mode=", "--config="))


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", TEXTS[page])):
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
    for name in inline_code(page):
        if not re.fullmatch(r"[\w./-]+\.(py|sh|md|yaml|ipynb|txt|toml|cff)", name):
            continue
        if name in made_by_the_reader(page) or name.startswith(made_up):
            continue
        known = any((place / name).exists() for place in places)
        parts = (ROOT / "cipo_jax", ROOT / "configs")
        in_package = "/" not in name and any(file for p in parts for file in p.rglob(name))
        of_a_run = name in ("parameters.txt", "table.md")
        assert known or in_package or of_a_run, f"{page.name}: {name}"


@every_page
def test_keys_that_are_named_exist(page: Path) -> None:
    """`section.key`, with or without a value, and --config.section.key anywhere."""
    for code in inline_code(page):
        found = re.match(r"(?:--config\.|config\.)?((\w+)\.(\w+))(?:=.*)?$", code)
        if found and found[2] in SECTIONS and not re.search(r"\.(py|md|json|jsonl)\b", code):
            assert found[1] in KEYS, f"{page.name}: {code}"
    for key in re.findall(r"--config\.([\w.]+)", TEXTS[page]):
        assert key in KEYS or key in ("verifier", "section.key"), f"{page.name}: {key}"


def test_commands_are_found() -> None:
    """So that the tests below have something to say."""
    per_kind = {"cipo_jax.main": 25, "launch/": 10, "--mode=": 8, "make": 5}
    for kind, least in per_kind.items():
        count = sum(any(word.startswith(kind) for word in found) for _, found in COMMANDS)
        assert count >= least, (kind, count)


@pytest.mark.parametrize(
    ("page", "command"),
    [(p, c) for p, c in COMMANDS if c[0] != "make" and any(map(is_of_main, c))],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else value,
)
def test_commands_parse(page: str, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if "cipo_jax.main" in command:
        start = command.index("cipo_jax.main") + 1
    else:  # a launch script passes on what begins with --config=
        start = next(i for i, word in enumerate(command) if is_of_main(word))
    arguments = [a for a in command[start:] if a not in ("...", "[...]")]
    given = [a.partition("=")[2] for a in arguments if a.startswith("--config=")]
    if not given or given[0] == "..." or given[0] in made_by_the_reader(ROOT / page):
        arguments = [CONFIG, *(a for a in arguments if not a.startswith("--config="))]
    parse(["cipo_jax", *arguments], MODES)


@pytest.mark.parametrize(
    ("page", "command"),
    [(p, c) for p, c in COMMANDS if c[0].startswith("launch/") and len(c) > 1],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else value,
)
def test_launches_print_what_they_would_do(page: str, command: list[str]) -> None:
    script, *arguments = command
    if script.endswith("until_done.sh"):
        return  # it takes any command
    arguments = [a for a in arguments if a != "--dry_run"]
    result = subprocess.run(
        [ROOT / script, "--dry_run", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, f"{page}: {result.stderr}"
    assert result.stdout


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text()))
    for page, command in COMMANDS:
        if command[0] == "make":
            assert set(command[1:2]) <= targets, f"{page}: {command}"


def test_scripts_print_what_the_pages_pass_on() -> None:
    """The last arguments of a documented launch arrive at the program."""
    launches = [c for _, c in COMMANDS if c[0] == "launch/local.sh" and len(c) > 1]
    for script, *arguments in launches:
        printed = subprocess.run(
            [ROOT / script, "--dry_run", *arguments], capture_output=True, text=True
        ).stdout
        assert shlex.split(printed)[-len(arguments) :] == arguments


def test_modes_and_pages_are_listed() -> None:
    """Every page of docs/ is in its index, and every mode on some page."""
    index = TEXTS[ROOT / "docs" / "README.md"]
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name
    everything = "\n".join(TEXTS.values())
    names = {mode.name for mode in MODES} - {"train"}
    assert not [name for name in names if f"--mode={name}" not in everything]
