"""The engine's programs compile for TPUs that are not here, with the cache updated in place."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "sizes", "head_dim"),
    [
        ("v5e:2x4", "1,1,8", 128),
        ("v5e:2x4", "1,1,8", 64),  # padded
        ("v5e:4x4", "4,1,4", 128),
        ("v4:2x2x2", "2,1,4", 128),
    ],
)
def test_programs_compile_and_do_not_copy_the_cache(
    topology: str, sizes: str, head_dim: int
) -> None:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("compiling for TPU needs libtpu: pip install libtpu")
    environment = {**os.environ, "TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    environment["JAX_COMPILATION_CACHE_DIR"] = ""  # a CPU cannot load what it finds there
    program = Path(__file__).with_name("compile_for_tpu.py")
    done = subprocess.run(
        [sys.executable, program, topology, sizes, str(head_dim)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "lockfile" in done.stderr:
        pytest.skip("another process is compiling for TPU")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for name in ("decode", "prefill"):
        program_report = report[name]
        # Donated: the cache that comes out is the one that went in.
        assert program_report["alias_bytes"] >= report["pool_bytes"], name
        assert program_report["pool_copies"] == [], name
        assert program_report["kernels"] == 1, name  # ragged paged attention, once for all layers
        assert program_report["temp_bytes"] < 2**28, name
    # Of a step's probabilities, only the sums of blocks leave a device.
    assert 0 < report["decode"]["largest_gathered"] <= 64 * 256
