"""The command: `python -m cipo_jax.main --config=configs/demo.py [--config.section.key=value ...]`.

`--mode=train` is the default. `--mode=verify --input=answers.jsonl` grades a file instead, with the
verifier section of the config (see verifiers/audit.py for the file's fields).

The run directory is `--workdir`, by default `runs/<name of the config file>`; the same command
again continues the run there. Mistakes in flags, config or input end with one message and exit
status 2; `--traceback` shows where they were found.
"""

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from cipo_jax.config import Config, flatten, provenance, resolve
from cipo_jax.types import CipoError


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line `argv` (default: the process's); ends the process on user errors."""
    argv = list(sys.argv if argv is None else argv)
    try:
        run(argv)
    except CipoError as e:
        if "--traceback" in argv:
            raise
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)


def run(argv: Sequence[str]) -> None:
    """As `main`, but user errors are raised as `CipoError`."""
    flag_values, raw = _parse(argv)
    config = resolve(raw)
    if flag_values["mode"].value == "verify":
        grade(config, flag_values["input"].value)
        return
    path = flag_values["config"].config_filename
    overridden = set(config_flags.get_override_values(flag_values["config"]))
    _, raw_file = _parse([argv[0], f"--config={path}"])
    values = provenance(config, _lenient(raw_file, config), overridden)
    # configs/demo.py:grpo is the file's variant "grpo".
    file, _, variant = path.partition(":")
    name = "-".join(part for part in (Path(file).stem, variant) if part)
    workdir = Path(flag_values["workdir"].value or f"runs/{name}")

    # Imported late, so that a wrong flag need not wait for JAX.
    from cipo_jax.train import train

    train(config, workdir, values)


def grade(config: Config, input_file: str | None) -> None:
    """Grades a jsonl file of answers and prints the verdicts' counts."""
    from cipo_jax.verifiers.audit import audit

    if input_file is None:
        raise CipoError("--input is missing; --mode=verify grades the jsonl file it names")
    v = config.verifier
    audit(
        Path(input_file),
        v.kind,
        v.workers,
        v.timeout_seconds,
        allow_unsandboxed_code=v.allow_unsandboxed_code,
    )


def _parse(argv: Sequence[str]) -> tuple[Any, ConfigDict]:
    """The flags and the raw config: the file's, with the command line's overrides.

    Raises:
      CipoError: anything wrong with the flags or inside the config file.
    """
    _check_overrides(argv)
    values: Any = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Run directory; default runs/<config>.", values)
    flags.DEFINE_enum("mode", "train", ["train", "verify"], "What to do.", values)
    flags.DEFINE_string("input", None, "File to grade, with --mode=verify.", values)
    flags.DEFINE_bool("traceback", False, "Show the traceback of user errors.", values)
    try:
        holder = config_flags.DEFINE_config_file(
            "config", None, "Config file, such as configs/demo.py.", values, sys_argv=list(argv)
        )
        rest = values(list(argv))
        raw = holder.value
        if raw is not None and not isinstance(raw, ConfigDict):
            raise CipoError(
                f"--config={values['config'].config_filename}: is not a config file; wanted a "
                "Python file whose get_config() returns an ml_collections.ConfigDict"
            )
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as e:
        if isinstance(e, CipoError):
            raise
        # ml_collections raises these from the config file's body and from overrides alike.
        raise CipoError(f"command line or config file: {e}") from e
    if rest[1:]:
        raise CipoError(f"unexpected arguments {rest[1:]}; set keys by --config.section.key=value")
    if raw is None:
        raise CipoError("--config is missing; try --config=configs/demo.py")
    return values, raw


def _check_overrides(argv: Sequence[str]) -> None:
    """Refuses `--config.x.y` for keys that do not exist, naming the nearest one."""
    known = flatten(Config())
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if not argument.startswith("-") or not name.startswith("config."):
            continue
        key = name.removeprefix("config.")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean config.{close[0]}?" if close else ""
            raise CipoError(f"config.{key}: unknown key{hint}")


def _lenient(raw: ConfigDict, config: Config) -> Config:
    """The config of a file alone. Where the file is only valid together with the command line,
    `config` stands for it: provenance is the only use."""
    try:
        return resolve(raw)
    except CipoError:
        return config


if __name__ == "__main__":
    main()
