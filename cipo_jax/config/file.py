"""Config files: what they start from and build on, and the message for one that cannot be used.

ml_collections would answer a mistake in such a file with a traceback, or with nothing until the
config is used. Not decided here: what the values may be (keys.py, checks.py).
"""

import dataclasses
import difflib
import re
import runpy
import traceback
import types
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.ranges import did_you_mean
from cipo_jax.types import CipoError

_CONFIGS = Path("configs")  # of a checkout, which commands are started in
_WANTED = "wanted a Python file with a function get_config(), such as configs/demo.py"


class _Written(ConfigDict):
    """A `ConfigDict` that remembers which of its keys were set after it was made, and says in our
    words what cannot be set."""

    def __setitem__(self, key: str, value: Any) -> None:
        try:
            super().__setitem__(key, value)
        except KeyError as error:
            known = did_you_mean(key, list(self)) or f"; known: {', '.join(self)}"
            raise CipoError(f"{key}: unknown key{known}") from error
        except TypeError as error:
            wanted = type(self[key]).__name__
            raise CipoError(f"{key}: got {value!r}, wanted {wanted}") from error
        self.__dict__.setdefault("_written", set()).add(key)

    def __setstate__(self, state: dict[str, Any]) -> None:  # of a copy, which sets them all
        super().__setstate__(state)
        self.__dict__["_written"] = set(state["_written"])


def default_config() -> ConfigDict:
    """The defaults as a locked `ConfigDict`, for config files to change."""
    values = dataclasses.asdict(Config())
    sections = {name: _Written(v) for name, v in values.items() if isinstance(v, dict)}
    config = _Written(values | sections)
    for made in (config, *sections.values()):
        made.__dict__["_written"] = set()
    return config.lock()


def written_keys(raw: ConfigDict) -> set[str]:
    """The dotted names of the keys that a config file has set, whatever their values: all of them
    where it does not start from `default_config`."""
    written = set()
    for key, value in raw.items():
        if isinstance(value, ConfigDict):
            written |= {f"{key}.{name}" for name in written_keys(value)}
        elif not isinstance(raw, _Written) or key in raw.__dict__.get("_written", ()):
            written.add(key)
    return written


def load_file(name: str, beside: str) -> types.SimpleNamespace:
    """What another config file defines, for a file that builds on it.

    Args:
      name: file name, relative to the directory of `beside`.
      beside: the calling config file's `__file__`.
    """
    path = Path(beside).resolve().parent / name
    return types.SimpleNamespace(**runpy.run_path(str(path)))


def check_file(config: str) -> None:
    """Refuses a --config that is not a Python file.

    Args:
      config: "path/to/file.py" or "path/to/file.py:variant"; "" is accepted.

    Raises:
      CipoError: there is no such file, with the nearest name in its directory, or it is something
        else.
    """
    name = config.partition(":")[0]
    if not name:
        return
    path = Path(name)
    if not path.exists():
        # In its own directory rather than in the usual one, but a better match there comes first.
        there = {f.name: f for folder in (_CONFIGS, path.parent) for f in folder.glob("*.py")}
        whole = path.name if path.suffix else f"{path.name}.py"
        close = difflib.get_close_matches(whole, there, n=1)
        if close:
            hint = f"did you mean {there[close[0]]}?"
        elif there:
            hint = f"there are {', '.join(map(str, sorted(there.values())))}"
        else:
            places = dict.fromkeys(str(place.resolve()) for place in (path.parent, _CONFIGS))
            hint = (
                f"no config file is in {' or '.join(places)}; start in a checkout of the project, "
                "or write one (docs/own_task.md has an example)"
            )
        raise CipoError(f"--config={name}: there is no such file; {hint}")
    if path.suffix != ".py" or not path.is_file():
        raise CipoError(f"--config={name}: {_WANTED}")


def check_study(config: str, wanted: bool) -> None:
    """Refuses a study's file where one run is wanted, and one of its runs where the study is.

    Args:
      config: as in `check_file`, of a file that exists.

    Raises:
      CipoError: it is the other of the two.
    """
    name, _, run = config.partition(":")
    is_study = bool(name) and re.search(r"(?m)^STUDY\b", Path(name).read_text(errors="replace"))
    if is_study and wanted and run:
        raise CipoError(
            f"--config={config}: --mode=study takes the whole study; leave out ':{run}', and "
            "choose runs by --only=TASK/METHOD-SEED"
        )
    if is_study and not wanted and not run:
        raise CipoError(
            f"--config={config}: is a study of several runs; wanted --mode=study, or one of them, "
            f"--config={name}:TASK/METHOD"
        )


def describe_failure(error: Exception, config: str) -> str:
    """The message for an error that parsing the flags has raised, which runs the config file.

    It names the line of an error inside the config file, or the key of an ill-typed override;
    anything else is the flags' own message.

    Args:
      config: the value of --config, as in `check_file`.
    """
    name, _, variant = config.partition(":")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SyntaxError) and str(cause.filename).endswith(".py"):
            return f"--config={name}: {cause}"
        if isinstance(cause, CipoError) and cause.__context__ is None:
            return f"--config={config}: {cause}"
        if isinstance(cause, TypeError) and variant and "get_config() takes 0" in str(cause):
            return f"--config={config}: {name} has no variants; leave out ':{variant}'"
        if isinstance(cause, TypeError) and str(cause).startswith("get_config() "):
            return f"--config={config}: {cause}; wanted get_config(), or get_config(variant='')"
        if isinstance(cause, AttributeError) and "has no attribute 'get_config'" in str(cause):
            return f"--config={name}: {_WANTED}"
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(cause.__traceback__)
            if name and Path(frame.filename).resolve() == Path(name).resolve()
        ]
        if lines:
            text = cause.args[0] if isinstance(cause, KeyError) and cause.args else cause
            kind = "" if isinstance(cause, CipoError) else f"{type(cause).__name__}: "
            return f"--config={config}: line {lines[-1]}: {kind}{text}"
        cause = cause.__context__
    override = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error))
    default = flatten(Config()).get(override[1]) if override else None
    if override and default is not None:
        return (
            f"config.{override[1]}: got {override[2]!r}, wanted {type(default).__name__}; the "
            f"default is {default!r}"
        )
    return f"command line: {error}"
