"""The page of what own code may call: its names exist, take what it says, and its examples run."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from invented_run import make_run
from places import ROOT
from printed_commands import inline_code

PAGE = (ROOT / "docs" / "api.md").read_text()
NAMED = sorted({code for code in inline_code(PAGE) if code.startswith("cipo_jax.")})
EXAMPLES = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE)


def found(dotted: str) -> Any:
    """The object of a dotted name: a module's, or a class's of it."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            place: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            place = getattr(place, part)
        return place
    raise AssertionError(dotted)


@pytest.mark.parametrize("code", NAMED)
def test_a_name_is_there_and_takes_what_is_said(code: str) -> None:
    name, called, arguments = code.rstrip(")").partition("(")
    named = found(name)
    assert inspect.getdoc(named), f"{name} has no docstring"
    if called:
        parameters = list(inspect.signature(named).parameters)
        parameters = parameters[1:] if parameters[0:1] == ["self"] else parameters
        asked = [argument.strip() for argument in arguments.split(",") if argument.strip()]
        assert [p for p in parameters if p in asked] == asked, f"{name}{inspect.signature(named)}"
        needed = [
            p.name
            for p in inspect.signature(named).parameters.values()
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"
        ]
        assert set(needed) <= set(asked), f"{name} needs {needed}"


def test_names_are_found() -> None:
    assert len(NAMED) > 20 and len(EXAMPLES) == 2
    with pytest.raises(AttributeError):
        found("cipo_jax.types.Problems")


def test_what_a_verifier_can_find_is_listed() -> None:
    outcomes = found("cipo_jax.types.Outcome").__members__
    assert all(f"`{name}`" in PAGE for name in outcomes)


@pytest.mark.parametrize("example", EXAMPLES, ids=["judge", "read"])
def test_examples_run(
    example: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_run(tmp_path / "runs" / "demo", steps=2)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/api.md", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert "correct 2\n" in printed or "wrong attempts corrected; one of them: Checked." in printed
