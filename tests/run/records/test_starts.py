"""How a run was started, kept in its directory."""

from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from cipo_jax import __version__
from cipo_jax.config.keys import Log
from cipo_jax.run.records.record import check_records
from cipo_jax.run.records.starts import (
    STARTS_FILE,
    add_start,
    read_starts,
    this_start,
    written_command,
)
from cipo_jax.types import CipoError


def test_each_start_is_a_line(tmp_path: Path) -> None:
    assert read_starts(tmp_path) == []
    start = this_start(Mesh(np.array(jax.devices()[:2]), ("data",)), 151_328)
    add_start(tmp_path, start)
    add_start(tmp_path, start | {"parameters": 7})
    first, second = read_starts(tmp_path)
    assert first == start and second["parameters"] == 7
    assert first["devices"] == "2 x cpu" and first["versions"]["cipo_jax"] == __version__


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (
            ["/a b/cipo_jax/main.py", "--config=c.py", "--workdir=x y"],
            "python -m cipo_jax.main --config=c.py '--workdir=x y'",
        ),
        (["/usr/bin/cipo-jax", "--config=c.py"], "cipo-jax --config=c.py"),
        (["own.py"], "own.py"),
    ],
)
def test_the_command_is_one_that_can_be_typed(argv: list[str], command: str) -> None:
    assert written_command(argv) == command


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / STARTS_FILE).write_text('{"time": "2026-01-31 18:05"}\n')
    with pytest.raises(CipoError, match=r"starts.jsonl, line 1: .*'command'.*remove the line"):
        check_records(tmp_path, Log(tensorboard=False))
