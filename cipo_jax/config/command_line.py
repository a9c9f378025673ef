"""The command line: which flags there are, and what a command means.

    --mode=M --config=FILE[:variant] [--config.section.key=value ...] [--workdir=DIR] [flags of M]

Decides what is read from where: the config from its file, from the run in --workdir where a mode
works on runs, and from the command line, which takes precedence. What modes there are is decided in
`main.py`, what values may be in `keys.py` and `checks.py`.
"""

import contextlib
import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from cipo_jax.config.file import check_file, check_study, describe_failure, written_keys
from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.ranges import did_you_mean
from cipo_jax.config.resolve import provenance, read_resolved, resolve
from cipo_jax.types import CipoError

# Flags of single modes: how each is defined, its default, what it is for.
_FLAGS: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "input": (flags.DEFINE_string, None, "File of answers to grade."),
    "output": (flags.DEFINE_string, None, "What to write."),
    "step": (flags.DEFINE_string, "latest", "Checkpoint to take: a step, best, or latest."),
    "prompt": (flags.DEFINE_multi_string, None, "Question to answer; may be given several times."),
    "samples": (flags.DEFINE_integer, 1, "Completions of each prompt."),
    "only": (flags.DEFINE_string, "*", "Runs of a study to do, such as lists/grpo*-0."),
    "report_only": (flags.DEFINE_bool, False, "Run nothing; report the finished runs."),
    "jobs": (flags.DEFINE_integer, 1, "Runs of a study at a time, on CPU."),
    "coordinator": (flags.DEFINE_string, None, "address:port of process 0, or auto."),
    "num_processes": (flags.DEFINE_integer, None, "Processes in all."),
    "process_id": (flags.DEFINE_integer, None, "Which process this is, from 0."),
    "connect_timeout": (flags.DEFINE_integer, 300, "Seconds to wait for the other processes."),
    "topology": (flags.DEFINE_string, None, "Devices to plan for, such as h100:8 or v5e:4x4."),
    "mean_tokens": (flags.DEFINE_float, None, "Tokens of a completion, on average."),
    "device_memory": (flags.DEFINE_float, None, "GiB that a device has."),
}
_COMMON = ("mode", "config", "workdir", "traceback")
_PATHS = ("input", "output")  # those that name a file or a directory
_MANY = ("prompt",)  # those that may be given several times
_NUMBERS = {flags.DEFINE_integer: "a whole number", flags.DEFINE_float: "a number"}


@dataclasses.dataclass(frozen=True)
class Mode:
    """One thing the program does.

    Attributes:
      about: a line for --help.
      flags: those it takes besides --config, --workdir and --traceback.
      needs_devices: it uses JAX's devices.
      takes_run: --config may be left out where --workdir is a run's directory: it is the run's.
      takes_paths: it takes paths instead of a config.
      takes_study: its config file is that of a study, and no run of it.
      module: has `command(invocation)`; "": that of its name in commands/. Imported only when
        needed, so that a wrong flag is reported before JAX is imported.
    """

    name: str
    about: str
    flags: tuple[str, ...] = ()
    needs_devices: bool = False
    takes_run: bool = False
    takes_paths: bool = False
    takes_study: bool = False
    module: str = ""


@dataclasses.dataclass(frozen=True)
class Invocation:
    """A command line, read.

    Attributes:
      config: checked; the defaults where the mode takes paths instead.
      config_file: as given, without its variant; "" without one.
      workdir: --workdir, or one named after the config file.
      workdir_given: whether --workdir was given.
      flags: {flag: value} of those that the mode takes.
      paths: arguments that are no flags.
      config_arguments: --config and its overrides, for the command line of another process.
      provenance: () -> where each value came from, see `resolve.provenance`.
      load: arguments of another command -> its config.
    """

    mode: Mode
    config: Config
    config_file: str
    workdir: Path
    workdir_given: bool
    flags: dict[str, Any]
    paths: tuple[str, ...]
    config_arguments: tuple[str, ...]
    provenance: Callable[[], dict[str, dict[str, Any]]]
    load: Callable[[Sequence[str]], Config]

    def required(self, flag: str, why: str = "needs it") -> str:
        """The value of a flag that must be given.

        Raises:
          CipoError: it is not; the message ends in `why`.
        """
        given = self.workdir if flag == "workdir" and self.workdir_given else self.flags.get(flag)
        if given is None:
            raise CipoError(f"--{flag} is missing; --mode={self.mode.name} {why}")
        return str(given)


def parse(argv: Sequence[str], modes: Sequence[Mode]) -> Invocation:
    """Reads a command line.

    Args:
      argv: the program's name first.

    Raises:
      CipoError: anything wrong with the flags or inside the config file.
    """
    argv = [_in_full(argument) for argument in argv]
    _check_overrides(argv)
    _check_repeated(argv)
    argv = _last_tuples(argv)
    first = _define(modes)
    flags.DEFINE_string("config", None, "Config file, such as configs/demo.py.", first)
    try:
        first(argv, known_only=True)
    except flags.Error as error:
        raise CipoError(_about_flag(error, modes)) from error
    mode = next(m for m in modes if m.name == first["mode"].value)
    config_file, workdir = first["config"].value or "", _in_home(first["workdir"].value)
    for name in ("config", "workdir", *_PATHS):
        if first[name].value == "":
            raise CipoError(
                f"--{name}: got nothing, wanted a path; is a variable of the shell unset?"
            )
    if mode.takes_paths and (given := _config_arguments(argv, config_file)):
        raise CipoError(
            f"{given[0]}: --mode={mode.name} takes run directories, and no config; leave it out"
        )
    check_file(config_file)
    check_study(config_file, mode.takes_study)
    if "://" in (workdir or ""):
        raise CipoError(
            f"--workdir={workdir}: got a bucket, wanted a directory; checkpoints go to a bucket by "
            "--config.checkpoint.directory=gs://..."
        )
    raw, overridden, rest = _read_config(
        argv, modes, config_file, None if config_file else _config_of_run(mode, workdir)
    )
    for name in _FLAGS:
        if first[name].present and name not in mode.flags:
            users = ", ".join(f"--mode={m.name}" for m in modes if name in m.flags)
            raise CipoError(f"--{name}: --mode={mode.name} does not take it; it is for {users}")
    if rest and not mode.takes_paths:
        names = [m.name for m in modes]
        flag = "mode" if rest[0] in names else "config" if rest[0].endswith(".py") else ""
        meant = f"; did you mean --{flag}={rest[0]}?" if flag else ""
        raise CipoError(
            f"unexpected arguments {rest}; set keys by --config.section.key=value{meant}"
        )
    if raw is None and not mode.takes_paths:
        if mode.takes_run and workdir:
            raise CipoError(
                f"--workdir={workdir}: holds no run (no config.json), and --config is not given; "
                "wanted a run directory such as runs/demo, or a config file"
            )
        example = "studies/quick.py" if mode.takes_study else "demo.py"
        raise CipoError(f"--config is missing; in a checkout, try --config=configs/{example}")
    config = Config() if raw is None else resolve(raw)

    def where_from() -> dict[str, dict[str, Any]]:
        file_alone = [argv[0], f"--config={config_file}"]
        alone, _, _ = _read_config(file_alone, modes, config_file, None)
        from_file, written = config, set[str]()
        with contextlib.suppress(CipoError):  # a file may be valid only with the command line
            if alone is not None:
                from_file, written = resolve(alone), written_keys(alone)
        return provenance(config, from_file, overridden, written)

    return Invocation(
        mode=mode,
        config=config,
        config_file=config_file.partition(":")[0],
        workdir=Path(workdir) if workdir else _default_workdir(config_file),
        workdir_given=bool(workdir),
        flags={
            name: _in_home(first[name].value) if name in _PATHS else first[name].value
            for name in mode.flags
        },
        paths=tuple(_in_home(path) or "" for path in rest),
        config_arguments=tuple(_config_arguments(argv, config_file)),
        provenance=where_from,
        load=lambda arguments: parse([argv[0], *arguments], modes).config,
    )


def help_text(modes: Sequence[Mode]) -> str:
    """Modes and flags, for --help."""
    width = max(len(mode.name) for mode in modes)
    lines = ["Modes:"]
    lines += [f"  {mode.name:{width}}  {mode.about}" for mode in modes]
    lines += ["", "Flags:"]
    for name, (_, default, about) in _FLAGS.items():
        users = ", ".join(mode.name for mode in modes if name in mode.flags)
        value = "" if default in (None, False) else f" (default {default})"
        lines.append(f"  --{name:{width}} {about}{value} For: {users}.")
    return "\n".join(lines)


def _define(modes: Sequence[Mode]) -> Any:
    """All flags but --config."""
    values: Any = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", [mode.name for mode in modes], "What to do.", values)
    flags.DEFINE_string("workdir", None, "Run directory; default runs/<config>.", values)
    flags.DEFINE_bool("traceback", False, "Show the traceback of user errors.", values)
    for name, (define, default, about) in _FLAGS.items():
        define(name, default, about, flag_values=values)
    return values


def _read_config(
    argv: Sequence[str], modes: Sequence[Mode], config_file: str, of_run: ConfigDict | None
) -> tuple[ConfigDict | None, set[str], list[str]]:
    """(the raw config with its overrides, the keys overridden, the arguments that are no flags).

    Args:
      of_run: the config of a run, to be used in place of a file.
    """
    values = _define(modes)
    try:
        if of_run is not None:
            holder = config_flags.DEFINE_config_dict(
                "config", of_run, flag_values=values, sys_argv=list(argv)
            )
        else:
            holder = config_flags.DEFINE_config_file(
                "config", None, "Config file.", values, sys_argv=list(argv)
            )
        rest = values(list(argv))[1:]
        raw: Any = holder.value
    except CipoError:
        raise
    except Exception as error:  # of the flags, or whatever the config file's body raises
        raise CipoError(describe_failure(error, config_file)) from error
    if raw is not None and not isinstance(raw, ConfigDict):
        raise CipoError(
            f"--config={config_file}: is not a config file; wanted a Python file whose "
            "get_config() returns an ml_collections.ConfigDict"
        )
    overridden = set() if raw is None else config_flags.get_override_values(values["config"])
    return raw, set(overridden), rest


def _config_of_run(mode: Mode, workdir: str | None) -> ConfigDict | None:
    """The config of the run in --workdir, for modes that work on a run."""
    if not mode.takes_run or not workdir:
        return None
    file = Path(workdir) / "config.json"
    if not file.is_file():
        return None
    values = read_resolved(file)
    try:
        return ConfigDict(dataclasses.asdict(resolve(values)))
    except CipoError as error:
        raise CipoError(f"{file}: {error}") from error


def _check_overrides(argv: Sequence[str]) -> None:
    """Refuses `--config.x.y` for keys that do not exist, and a key that is given as a flag."""
    known = flatten(Config())
    for argument in argv[1:]:
        if not argument.startswith("-"):
            continue
        name = argument.lstrip("-").split("=")[0]
        if not name.startswith("config."):
            written = name.replace("-", "_")
            keys = [k for k in known if written in (k, k.rpartition(".")[2])]
            if name not in (*_COMMON, *_FLAGS) and keys:
                choice = " or ".join(f"--config.{k}=..." for k in keys)
                raise CipoError(f"--{name}: is a key of the config; set it by {choice}")
            continue
        key = name.removeprefix("config.")
        inside = next((k for k in known if k.startswith(f"{key}.")), None)
        if inside is not None:
            raise CipoError(f"config.{key}: is a section; set its keys, as --config.{inside}=...")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean config.{close[0]}?" if close else ""
            raise CipoError(f"config.{key}: unknown key{hint}")


def _check_repeated(argv: Sequence[str]) -> None:
    """Refuses a flag with two values: only the last would count. A key of the config may be given
    again."""
    given: dict[str, str] = {}
    for argument, after in zip(argv[1:], [*argv[2:], ""], strict=False):
        name, equals, value = argument.partition("=")
        flag = name.lstrip("-")
        if flag == name or flag in _MANY or flag not in (*_COMMON, *_FLAGS):
            continue
        value = value if equals else after
        first = given.setdefault(flag, value)
        if first != value:
            raise CipoError(f"--{flag}: got {first!r} and {value!r}, wanted one of them")


def _about_flag(error: flags.Error, modes: Sequence[Mode]) -> str:
    """The message for a flag that cannot be read."""
    found = re.match(r"flag --(\w+)=(.*?): ", str(error), re.DOTALL)
    name, value = found.groups() if found else ("", "")
    if name == "mode":
        names = [mode.name for mode in modes]
        wanted = f"one of {', '.join(names)}{did_you_mean(value, names)}"
    elif name in _FLAGS and _FLAGS[name][0] in _NUMBERS:
        wanted = f"{_NUMBERS[_FLAGS[name][0]]}: {_FLAGS[name][2]}".rstrip(".")
    else:
        return f"command line: {error}"
    return f"--{name}: got {value!r}, wanted {wanted}"


def _in_full(argument: str) -> str:
    """`--config.verifier=x` as `--config.verifier.kind=x`."""
    name, equals, value = argument.partition("=")
    is_short = name.startswith("-") and name.lstrip("-") == "config.verifier"
    return f"{name}.kind{equals}{value}" if is_short else argument


def _last_tuples(argv: Sequence[str]) -> list[str]:
    """Without all but the last of several values for one key that is a tuple: the flags would
    append them."""
    known = flatten(Config())
    kept: list[str] = []
    seen: set[str] = set()
    following = [*argv[1:], "-"]
    for argument, after in reversed(list(zip(argv, following, strict=True))):
        name, equals, _ = argument.partition("=")
        key = name.lstrip("-").removeprefix("config.")
        if name.startswith("-") and name.lstrip("-") != key and isinstance(known.get(key), tuple):
            if key in seen:
                if not equals and not after.startswith("-"):
                    kept.pop()  # its value, an argument of its own
                continue
            seen.add(key)
        kept.append(argument)
    return kept[::-1]


def _in_home(path: str | None) -> str | None:
    """`~` as the home directory: a shell leaves it as it is after an equals sign."""
    return os.path.expanduser(path) if path else path


def _config_arguments(argv: Sequence[str], config_file: str) -> list[str]:
    """--config and its overrides, each in one argument."""
    found = [f"--config={config_file}"] if config_file else []
    following = [*argv[2:], "-"]
    for argument, after in zip(argv[1:], following, strict=True):
        if argument.lstrip("-").startswith("config.") and argument.startswith("-"):
            separate = "=" not in argument and not after.startswith("-")
            found.append(f"{argument}={after}" if separate else argument)
    return found


def _default_workdir(config_file: str) -> Path:
    """runs/demo for configs/demo.py, runs/demo-grpo for its variant configs/demo.py:grpo."""
    file, _, variant = config_file.partition(":")
    return Path("runs") / "-".join(part for part in (Path(file).stem, variant) if part)
