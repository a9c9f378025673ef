"""Tests run on the CPU with eight virtual devices, so that every mesh shape can be tried."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
FLAGS = (
    " --xla_force_host_platform_device_count=8"
    # Most of the suite's time is compilation; these cut it to less than half. The last of them: a
    # program in parts, compiled at once, takes longer in sum, and other cores have other tests.
    " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
)
# A process of the session inherits them. Twice the same, they would name other compiled programs.
if FLAGS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + FLAGS
# A thread of torch in each process: several would spin while they wait for a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Nothing may be fetched while testing.
os.environ["HF_HUB_OFFLINE"] = "1"

sys.path.insert(0, str(Path(__file__).parent))

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Of the compiled programs that are kept.
COMPILED_BYTES = 1 << 30


def pytest_configure(config: pytest.Config) -> None:
    """A program is compiled once, for all tests, processes and sessions.

    JAX's key of a program has the versions of XLA, its flags, and the instructions of the machine's
    processors. `--cache-clear` begins anew; `-p no:cacheprovider` keeps nothing after the session.
    """
    if hasattr(config, "workerinput"):
        return  # inherited
    if hasattr(config, "cache"):
        directory = config.cache.mkdir("compiled")
        keep_recent(directory, COMPILED_BYTES)
    else:
        directory = Path(tempfile.mkdtemp(prefix="cipo-jax-tests-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)


def keep_recent(directory: Path, limit: int) -> None:
    """Removes the files that were read longest ago, down to `limit` bytes. JAX's own limit would
    look at all files whenever it adds one."""
    entries = [(file, file.stat()) for file in directory.iterdir()]
    entries.sort(key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime), reverse=True)
    total = 0
    for file, status in entries:
        total += status.st_size
        if total > limit:
            file.unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What all the tests import is looked through for garbage once, and not whenever a module or a
    test makes many objects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, and does not keep one process busy alone in the end: the
    sandboxes' tests, which mostly wait, then files of whole runs."""
    top = Path(__file__).parent
    first = [top / "verifiers" / "sandbox", top]
    items.sort(key=lambda i: first.index(i.path.parent) if i.path.parent in first else len(first))


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One process more than cores: some tests wait, for a limit of time or for another process."""
    return (yield) + 1


# The same examples on every run; a shared machine's speed is no property of the code.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
