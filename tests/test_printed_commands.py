"""The commands that the project prints work as they are printed; where they need what the reader
has, a stand-in has its place: runs, files of problems, and a tiny model for every hub id.

Of cloud commands only our own scripts are tried, with --dry_run.
"""

import argparse
import functools
import importlib.util
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest
from places import ROOT, TESTS
from printed_commands import Printed, printed_commands, write_files
from tiny_hub import hub_of, save_chat_model

from cipo_jax import main
from cipo_jax.commands.explain import derived
from cipo_jax.config.command_line import Invocation, parse
from cipo_jax.config.resolve import provenance

COMMANDS = printed_commands()
# What stands for "...", which the reader fills in.
FILLED_IN = {"--config=...": "--config=configs/demo.py", "...": "", "--prompt=...": "--prompt=1+1?"}


def of_main(printed: Printed) -> list[str]:
    """The arguments of a command of this program, or those that a launch script passes on to it."""
    words = printed.words
    names = [word for word in words if word in ("cipo_jax.main", "cipo_jax", "cipo-jax")]
    if names:
        given = words[words.index(names[-1]) + 1 :]
    else:
        flags = (i for i, word in enumerate(words) if word.startswith(("--mode=", "--config=")))
        given = words[next(flags, len(words)) :]
    filled = [FILLED_IN.get(word, word) for word in given if "section.key" not in word]
    # What Python's escape for a newline inside a docstring leaves of a continued line.
    return [word for word in filled if word.strip()]


def is_name_alone(arguments: Sequence[str]) -> bool:
    """Text names a mode, and prints no command."""
    return len(arguments) == 1 and arguments[0].startswith("--mode=")


OF_MAIN = [
    (printed, arguments)
    for printed in COMMANDS
    if (arguments := of_main(printed)) and not is_name_alone(arguments)
]
OF_BENCHMARKS = [c for c in COMMANDS if any(w.startswith("benchmarks/") for w in c.words)]
OF_SCRIPTS = [c for c in COMMANDS if c.words[0].startswith("launch/")]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with as many positions as the real one."""
    directory = tmp_path_factory.mktemp("hub") / "model"
    save_chat_model(directory, max_positions=40_960)
    return directory


@pytest.fixture
def reader(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the reader types: a checkout, with the files, runs and hub that the commands name."""
    for name in ("configs", "benchmarks", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    write_files(ROOT / "docs" / "own_task.md", tmp_path)
    shutil.copytree(TESTS / "fixtures" / "suites", "data")
    rows = [{"question": f"{i} pens in each of 3 boxes?", "answer": str(3 * i)} for i in range(12)]
    train = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("data/train.jsonl", "data/train_code.jsonl", "train.jsonl"):
        Path(name).write_text(train)
    Path("data/math500.jsonl").write_text(train.replace("pens", "cups"))
    Path("data/eval_code.jsonl").write_text(train.replace("pens", "cups"))
    Path("answers.jsonl").write_text('{"answer": "3", "response": "so \\\\boxed{3}"}\n')
    shutil.copytree(stand_in, "directory/of/a/model")
    for name, config in (("demo", "demo"), ("x", "demo"), ("math", "math"), ("code", "code")):
        make_run(Path("runs") / name, f"configs/{config}.py")
    make_run(Path("mirror/run"), "mirror/config.py")

    with hub_of(stand_in):
        yield


def make_run(directory: Path, config_file: str) -> None:
    config = read([f"--config={config_file}"]).config
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(provenance(config, config, set())))


def read(arguments: Sequence[str]) -> Invocation:
    return parse(["cipo_jax", *arguments], main.MODES)


def test_commands_are_found() -> None:
    """So that the tests below have something to say."""
    assert len(OF_MAIN) > 70 and len(OF_BENCHMARKS) > 20 and len(OF_SCRIPTS) > 12
    printing = {printed.file for printed in COMMANDS}
    assert {"README.md", "Makefile", "configs/small.py", "launch/slurm.sh"} <= printing
    assert {"cipo_jax/main.py", "docs/faq.md", "CONTRIBUTING.md"} <= printing


def test_modes_that_are_named_exist() -> None:
    names = {mode.name for mode in main.MODES}
    named = {c.words[0].partition("=")[2] for c in COMMANDS if is_name_alone(c.words)}
    assert len(named) > 8 and named <= names


def test_arguments_are_accepted(reader: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags, config file and overrides; and what follows from a config can be derived."""
    # As a user's machine has it, not the suite's eight.
    monkeypatch.setattr(jax, "devices", functools.partial(lambda one, *_: one, jax.devices()[:1]))
    seen: list[Any] = []
    for printed, arguments in OF_MAIN:
        try:
            invocation = read(arguments)
            config = invocation.config
            if config in seen or invocation.mode.name == "study" or invocation.mode.takes_paths:
                continue
            seen.append(config)
            last, about = derived(config)[-1]
            assert last == "an update", f"{last}: {about}"
        except Exception as error:
            raise AssertionError(f"{printed.file} prints: {shlex.join(arguments)}") from error
    assert len(seen) > 20


class Accepted(Exception):
    """Ends a benchmark when it has read its arguments."""


@pytest.mark.parametrize("printed", OF_BENCHMARKS, ids=str)
def test_benchmarks_accept_their_arguments(
    printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = next(i for i, word in enumerate(printed.words) if word.startswith("benchmarks/"))
    script, arguments = ROOT / printed.words[at], [*printed.words[at + 1 :]]
    assert script.is_file()
    if script.parent.name == "peers":
        return  # it takes json from the benchmark that starts it
    parse_args = argparse.ArgumentParser.parse_args

    def parse_only(parser: argparse.ArgumentParser, argv: Any = None, *_: Any) -> None:
        parse_args(parser, argv)
        raise Accepted

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(Accepted):
        runpy.run_path(str(script), run_name="__main__")


def test_modules_that_are_run_exist() -> None:
    modules = {c.words[c.words.index("-m") + 1] for c in COMMANDS if "-m" in c.words}
    assert len(modules) > 2
    for module in modules:
        module = f"{module}.__main__" if module == "cipo_jax" else module
        spec = importlib.util.find_spec(module)
        assert spec and spec.origin and '__name__ == "__main__"' in Path(spec.origin).read_text()


@pytest.mark.parametrize("printed", OF_SCRIPTS, ids=str)
def test_launches_print_what_they_would_do(printed: Printed) -> None:
    script, *arguments = printed.words
    if script.endswith("until_done.sh"):
        return  # it takes any command
    arguments = [a for a in arguments if a != "--dry_run"]
    result = subprocess.run(
        [ROOT / script, "--dry_run", *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, f"{printed.file}: {result.stderr}"
    if script.endswith("local.sh"):
        assert shlex.split(result.stdout)[-len(arguments) :] == arguments
    assert result.stdout


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text()))
    asked = {target for c in COMMANDS if c.words[0] == "make" for target in c.words[1:2]}
    assert len(asked) > 5 and asked <= targets


SMALL = (
    "--config.data.max_prompt_tokens=200",
    "--config.data.max_attempt_tokens=40",
    "--config.data.max_completion_tokens=24",
    "--config.eval.samples=1",
    "--config.eval.pass_at=(1,)",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begins", "added", "says"),
    [
        (["--mode=explain", "--config=configs/math.py"], [], "40,960"),
        (["--mode=data", "--config=configs/math.py"], [], "12"),
        (["--mode=verify", "--config=configs/math.py"], [], "correct           1"),
        (["--mode=fetch"], [], "written to checkpoints"),
        (["--mode=evaluate", "--config=configs/math.py", "--workdir=runs/check"], [], "100.00%"),
        (
            ["--mode=evaluate", "--config=configs/math.py", "--workdir=runs/qwen3-4b"],
            [*SMALL, "--config.eval.data_dir=data", "--config.eval.majority=False"],
            "math500",
        ),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_they_run(
    begins: list[str],
    added: list[str],
    says: str,
    reader: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each command that begins so, where the hub is the stand-in; of sizes for a test, if a model
    samples."""
    found = {tuple(a): None for _, a in OF_MAIN if a[: len(begins)] == begins}
    assert found
    for arguments in found:
        main.run(["cipo_jax", *arguments, *added])
        assert says in capfd.readouterr().out
