"""The command: `python -m cipo_jax.main --config=configs/demo.py [--config.section.key=value ...]`.

`--mode=train` is the default. `--mode=verify --input=answers.jsonl` grades a file instead, with the
verifier section of the config (see verifiers/audit.py for the file's fields). `--mode=export
--workdir=runs/x [--output=directory] [--step=N]` writes a run's parameters as a Hugging Face
directory (see export.py). `--mode=data [--output=kept.jsonl]` shows what is in the training and
evaluation data and what is wrong with it (see inspect_data.py). On finished runs:

    --mode=evaluate --workdir=runs/x [--step=latest|best|N]   benchmarks, see evaluate_run.py
    --mode=compare runs/x runs/y ...                          see compare.py
    --mode=regrade --workdir=runs/x                           another verifier, see regrade.py
    --mode=generate --workdir=runs/x --prompt="1+1?"          [--samples=N], see generate.py
    --mode=parity --workdir=runs/x                            sampler against trainer, see parity.py

evaluate, regrade, generate and parity take the run's own config where --config is not given;
`--config.section.key` changes it. With a config file, evaluate and generate with
`--config.model.source=...` and parity need no run.

`--mode=study --config=configs/studies/main.py` runs methods x tasks x seeds, `--jobs` at a time,
continues where it was stopped, and writes a table and figures to --workdir (by default
`studies/<name>`); `--only='lists/*-0'` does a part of it, `--report_only` runs nothing. See
study.py.

`--mode=explain` prints every value of the config with its source, what follows from them, and what
differs from the paper's settings, see explain.py.
`--mode=preflight [--topology=v5e:4x4] [--device_memory=16]` says what training will need (memory
per device, disk, data, verifier) without training, see preflight.py.
`--mode=verify_resume --workdir=new/directory` checks that the config's runs continue exactly where
they were stopped, see verify_resume.py.

On several hosts, training is started as the same command on each, with `--coordinator=auto` where
the environment knows of them (TPU pod slices, GKE, Slurm, Open MPI), and otherwise with
`--coordinator=address:port --num_processes=N --process_id=I`; see hosts.py and launch/. Run
directory and checkpoints must be on a file system that all of them see, or the latter in a bucket
(`--config.checkpoint.directory=gs://...`); process 0 alone writes the former.

An own verifier is `--config.verifier=package.module:function` or `=path/to/file.py:function`, short
for `--config.verifier.kind`; docs/own_task.md says what such a function is.

The run directory is `--workdir`, by default `runs/<name of the config file>`; the same command
again continues the run there. Mistakes in flags, config or input end with one message and exit
status 2; `--traceback` shows where they were found. On SIGTERM a training run saves and exits with
status 75 (see preemption.py): whoever started it may start it again. `--help` shows this text.
"""

import dataclasses
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from cipo_jax.config.file import check_file, worded
from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.resolve import provenance, read_resolved, resolve
from cipo_jax.run.hosts.preemption import EXIT_CODE, Preempted
from cipo_jax.types import CipoError

_MODES = [
    "train",
    "verify",
    "export",
    "evaluate",
    "compare",
    "regrade",
    "data",
    "generate",
    "parity",
    "verify_resume",
    "preflight",
    "explain",
    "study",
]
_ON_DEVICES = ("train", "export", "evaluate", "generate", "parity", "preflight", "explain")
_ON_RUNS = ("evaluate", "regrade", "generate", "parity")  # --config may be left out


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line `argv` (default: the process's); ends the process on user errors."""
    argv = list(sys.argv if argv is None else argv)
    if {"--help", "-help", "-h"} & set(argv):
        print(__doc__)
        return
    try:
        run(argv)
    except CipoError as e:
        if "--traceback" in argv:
            raise
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the newest checkpoint", file=sys.stderr)
        sys.exit(130)
    except RuntimeError as e:
        if "out of memory" not in str(e).lower() or "--traceback" in argv:
            raise
        print(f"error: {_out_of_memory(e)}", file=sys.stderr)
        sys.exit(2)
    except Preempted:
        print("asked to end; the same command continues the run", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except BrokenPipeError:
        # Whoever read the output has gone, as in `... | head`; Python would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def run(argv: Sequence[str]) -> None:
    """As `main`, but user errors are raised as `CipoError`."""
    argv = [_in_full(argument) for argument in argv]
    flag_values, raw, rest = _parse(argv)
    if flag_values["mode"].value == "compare":
        from cipo_jax.commands.compare import compare

        compare([Path(p) for p in rest], Path(flag_values["workdir"].value or "runs/comparison"))
        return
    config = resolve(raw)
    if flag_values["mode"].value == "verify":
        from cipo_jax.commands.verify import verify

        verify(config.verifier, flag_values["input"].value)
        return
    if flag_values["mode"].value == "regrade":
        from cipo_jax.commands.regrade import regrade

        regrade(Path(_required(flag_values, "workdir")), config.verifier)
        return
    if flag_values["mode"].value == "data":
        from cipo_jax.commands.data import inspect_data

        inspect_data(config, flag_values["output"].value)
        return
    if flag_values["mode"].value in _ON_DEVICES:
        from cipo_jax.policy.sharding import make_cpu_devices

        make_cpu_devices(config.mesh.cpu_devices)
    if flag_values["mode"].value == "evaluate":
        from cipo_jax.commands.evaluate import evaluate_run

        evaluate_run(config, _workdir(flag_values), flag_values["step"].value or "latest")
        return
    if flag_values["mode"].value == "generate":
        from cipo_jax.commands.generate import generate

        generate(
            config,
            _workdir(flag_values),
            flag_values["prompt"].value or [],
            flag_values["samples"].value,
            flag_values["step"].value or "latest",
        )
        return
    if flag_values["mode"].value == "parity":
        from cipo_jax.commands.parity import parity

        workdir = _workdir(flag_values)
        named = flag_values["workdir"].value or (workdir / "config.json").is_file()
        parity(config, workdir if named else None, flag_values["step"].value or "latest")
        return
    if flag_values["mode"].value == "preflight":
        from cipo_jax.commands.preflight import preflight

        preflight(config, flag_values["topology"].value, flag_values["device_memory"].value)
        return
    if flag_values["mode"].value == "verify_resume":
        from cipo_jax.commands.verify_resume import verify_resume

        verify_resume(
            _without(argv[1:], "mode", "workdir"), Path(_required(flag_values, "workdir"))
        )
        return
    if flag_values["mode"].value == "study":
        from cipo_jax.commands.study.run import run_study

        file = Path(flag_values["config"].config_filename.partition(":")[0])
        run_study(
            file,
            Path(flag_values["workdir"].value or Path("studies") / file.stem),
            [a for a in argv[1:] if a.lstrip("-").startswith("config.")],
            lambda arguments: resolve(_parse([argv[0], *arguments])[1]),
            flag_values["only"].value,
            flag_values["report_only"].value,
            flag_values["jobs"].value,
        )
        return
    path = flag_values["config"].config_filename
    overridden = set(config_flags.get_override_values(flag_values["config"]))
    _, raw_file, _ = _parse([argv[0], f"--config={path}"])
    values = provenance(config, _lenient(raw_file, config), overridden)
    workdir = _workdir(flag_values)

    # Imported late, so that a wrong flag need not wait for JAX.
    if flag_values["mode"].value == "explain":
        from cipo_jax.commands.explain import explain

        explain(config, values)
        return
    if flag_values["mode"].value == "export":
        from cipo_jax.commands.export import export

        output = flag_values["output"].value
        step = flag_values["step"].value
        if step is not None and not step.isdecimal():
            raise CipoError(f"--step: got {step!r}, wanted a number of steps with --mode=export")
        export(config, workdir, Path(output) if output else None, int(step) if step else None)
        return
    if flag_values["coordinator"].value is not None:
        from cipo_jax.run.hosts.processes import connect

        connect(
            flag_values["coordinator"].value,
            flag_values["num_processes"].value,
            flag_values["process_id"].value,
            flag_values["connect_timeout"].value,
        )
    from cipo_jax.train import train

    train(config, workdir, values)


def _out_of_memory(error: RuntimeError) -> str:
    """What to do when XLA finds no room for an array or a program."""
    line = str(error).splitlines()[0][:200].rstrip(".")
    return (
        f"out of device memory ({line}). --mode=preflight with the same arguments says what the "
        "update and what sampling need. For the update, lower config.batch.microbatch_rows or "
        "config.batch.row_tokens, or shard over more devices (config.mesh.fsdp); for sampling, "
        "lower config.sampling.cache_tokens or config.sampling.slots"
    )


def _in_full(argument: str) -> str:
    """`--config.verifier=x` as `--config.verifier.kind=x`: the section goes by its first key."""
    name, equals, value = argument.partition("=")
    is_short = name.startswith("-") and name.lstrip("-") == "config.verifier"
    return f"{name}.kind{equals}{value}" if is_short else argument


def _without(arguments: Sequence[str], *names: str) -> list[str]:
    """The arguments without some flags, which are written --name=value."""
    return [a for a in arguments if a.lstrip("-").partition("=")[0] not in names]


def _workdir(flag_values: Any) -> Path:
    """The run directory: --workdir, or one named after the config file."""
    if flag_values["workdir"].value:
        return Path(flag_values["workdir"].value)
    # configs/demo.py:grpo is the file's variant "grpo".
    file, _, variant = flag_values["config"].config_filename.partition(":")
    return Path("runs") / "-".join(part for part in (Path(file).stem, variant) if part)


def _required(flag_values: Any, name: str) -> str:
    value = flag_values[name].value
    if value is None:
        raise CipoError(f"--{name} is missing; --mode={flag_values['mode'].value} needs it")
    return value


def _given(argv: Sequence[str]) -> dict[str, str]:
    """{name: value} of the arguments written --name=value."""
    return dict(a.lstrip("-").partition("=")[::2] for a in argv[1:] if a.startswith("-"))


def _run_config(argv: Sequence[str]) -> ConfigDict | None:
    """The config of the run in --workdir, for the modes that work on a run without --config."""
    given = _given(argv)
    file = Path(given.get("workdir", "")) / "config.json"
    if "config" in given or given.get("mode") not in _ON_RUNS:
        return None
    return ConfigDict(dataclasses.asdict(resolve(read_resolved(file)))) if file.is_file() else None


def _parse(argv: Sequence[str]) -> tuple[Any, ConfigDict, list[str]]:
    """The flags, the raw config (the file's, with the command line's overrides), and the
    arguments without a dash, which --mode=compare takes.

    Raises:
      CipoError: anything wrong with the flags or inside the config file.
    """
    _check_overrides(argv)
    config_file = _given(argv).get("config", "")
    check_file(config_file)
    values: Any = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Run directory; default runs/<config>.", values)
    flags.DEFINE_enum("mode", "train", _MODES, "What to do.", values)
    flags.DEFINE_string("input", None, "File to grade, with --mode=verify.", values)
    flags.DEFINE_string("output", None, "What to write, with export and data.", values)
    flags.DEFINE_string("step", None, "Checkpoint of a run to take; default the newest.", values)
    flags.DEFINE_multi_string("prompt", None, "Question to answer, with generate.", values)
    flags.DEFINE_integer("samples", 1, "Completions a prompt, generate.", flag_values=values)
    flags.DEFINE_string("only", "*", "Runs of a study, as lists/grpo*-0.", values)
    flags.DEFINE_bool("report_only", False, "Only report a study.", values)
    flags.DEFINE_integer("jobs", 1, "Runs of a study at a time, on CPU.", flag_values=values)
    flags.DEFINE_string("coordinator", None, "address:port of process 0, or auto.", values)
    flags.DEFINE_integer("num_processes", None, "Processes in all.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "Which this is, from 0.", flag_values=values)
    flags.DEFINE_integer("connect_timeout", 300, "Seconds to wait.", flag_values=values)
    flags.DEFINE_string("topology", None, "TPU to plan for, with preflight.", values)
    flags.DEFINE_float("device_memory", None, "GiB a device has.", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show the traceback of user errors.", values)
    of_run = _run_config(argv)
    try:
        holder: Any
        if of_run is not None:
            holder = config_flags.DEFINE_config_dict(
                "config", of_run, flag_values=values, sys_argv=list(argv)
            )
        else:
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
    except CipoError:
        raise
    except Exception as e:  # of the flags, or whatever the config file's body raises
        raise CipoError(worded(e, config_file)) from e
    comparing = values["mode"].value == "compare"
    if rest[1:] and not comparing:
        raise CipoError(f"unexpected arguments {rest[1:]}; set keys by --config.section.key=value")
    if raw is None and not comparing:
        if values["mode"].value in _ON_RUNS and values["workdir"].value:
            raise CipoError(
                f"--workdir={values['workdir'].value}: holds no run (no config.json), and --config "
                "is not given; wanted a run directory such as runs/demo, or a config file"
            )
        raise CipoError("--config is missing; try --config=configs/demo.py")
    return values, raw, rest[1:]


def _check_overrides(argv: Sequence[str]) -> None:
    """Refuses `--config.x.y` for keys that do not exist, naming the nearest one."""
    known = flatten(Config())
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if not argument.startswith("-") or not name.startswith("config."):
            continue
        key = name.removeprefix("config.")
        inside = next((k for k in known if k.startswith(f"{key}.")), None)
        if inside is not None:
            raise CipoError(f"config.{key}: is a section; set its keys, as --config.{inside}=...")
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
