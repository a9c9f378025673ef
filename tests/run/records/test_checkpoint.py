"""What is kept, what is restored, and what happens when a checkpoint cannot be read or written."""

import logging
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from places import TESTS

from cipo_jax.config.keys import Config, Optimizer
from cipo_jax.policy.sharding import make_mesh
from cipo_jax.rl.train_step import TrainState
from cipo_jax.run.records import checkpoint
from cipo_jax.run.records.checkpoint import Checkpoints, origin
from cipo_jax.types import CipoError

VALUES = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)


def state(sizes: tuple[int, int, int] = (1, 8, 1), offset: float = 0.0) -> TrainState:
    sharding = NamedSharding(make_mesh(*sizes), P("fsdp", "tensor"))
    array = jax.device_put(VALUES + offset, sharding)
    return TrainState(step=jnp.zeros((), jnp.int32), params={"w": array}, opt_state=(array * 2,))


def abstract(like: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)


def damage(directory: Path, step: int) -> None:
    """As an interrupted copy leaves it."""
    for file in (directory / f"step_{step}" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    scores = {1: 0.1, 2: 0.9, 3: None, 4: float("nan"), 5: 0.3, 6: None}
    with Checkpoints(tmp_path, keep=2, keep_best=1) as saved:
        for step, score in scores.items():
            saved.save(step, state(), {"step": step}, score)
    with Checkpoints(tmp_path, keep=2, read_only=True) as saved:
        assert saved.all_steps() == [2, 5, 6]
    # Another process goes on with what it finds.
    with Checkpoints(tmp_path, keep=2, keep_best=1) as saved:
        saved.save(7, state(), {}, 0.95)
        saved.save(8, state(), {})
        saved.save(9, state(), {})
    with Checkpoints(tmp_path, keep=2, read_only=True) as saved:
        assert saved.all_steps() == [7, 8, 9]


def test_orbax_does_not_warn_of_what_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(1, state(), {})
    absl = logging.getLogger("absl")
    filters = list(absl.filters)

    def messages() -> list[str]:
        return [r.getMessage() for r in caplog.records if "read only" in r.getMessage()]

    with Checkpoints(tmp_path, keep=1, read_only=True) as saved:
        assert messages() == [] and absl.filters == filters
        # A warning of what is not as asked for stays.
        saved._manager.delete(1)
        assert messages() == [f"{tmp_path} is read only, delete will be skipped"]
    # What orbax says of itself, so that this test notices when it says something else.
    ocp.CheckpointManager(tmp_path, options=ocp.CheckpointManagerOptions(read_only=True)).close()
    assert messages()[-1] == f"Given directory is read only={tmp_path}"


@pytest.mark.parametrize("sizes", [(1, 4, 2), (2, 2, 2), (8, 1, 1)])
def test_restored_onto_another_mesh(tmp_path: Path, sizes: tuple[int, int, int]) -> None:
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(3, state(), {"rho": 0.25})
    like = abstract(state(sizes))
    with Checkpoints(tmp_path, keep=1) as saved:
        restored, host = saved.restore(like)
    assert int(restored.step) == 3 and host == {"rho": 0.25}
    assert restored.params["w"].sharding == like.params["w"].sharding
    np.testing.assert_array_equal(restored.params["w"], VALUES)
    np.testing.assert_array_equal(restored.opt_state[0], VALUES * 2)


def test_a_damaged_checkpoint_is_set_aside_and_the_older_one_used(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Checkpoints(tmp_path, keep=3) as saved:
        for step in (1, 2, 3):
            saved.save(step, state(offset=step), {"step": step})
    damage(tmp_path, 3)
    with Checkpoints(tmp_path, keep=3) as saved:
        restored, host = saved.restore(abstract(state()))
        assert host == {"step": 2}
        np.testing.assert_array_equal(restored.params["w"], VALUES + 2)
        assert "step 3 cannot be read" in capsys.readouterr().out
        saved.save(3, state(offset=3), {"step": 3})  # the run comes by it again
    assert (tmp_path / "unreadable-step_3").is_dir()
    with Checkpoints(tmp_path, keep=3) as saved:
        assert saved.all_steps() == [1, 2, 3]
        np.testing.assert_array_equal(saved.restore(abstract(state()))[0].params["w"], VALUES + 3)


def test_nothing_left_to_restore(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(1, state(), {})
    damage(tmp_path, 1)
    with (
        Checkpoints(tmp_path, keep=1) as saved,
        pytest.raises(CipoError, match="no finished checkpoint"),
    ):
        saved.restore(abstract(state()))
    assert (tmp_path / "unreadable-step_1").is_dir()


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CipoError, match=r"file/sub: checkpoints cannot be written there"):
        Checkpoints(tmp_path / "file" / "sub", keep=1)


def test_no_room_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpoints(tmp_path, keep=2, keep_best=1) as saved:
        line = saved.describe(abstract(state()))
        assert line.startswith("0.0 MiB each, 3 kept") and str(tmp_path) in line
        usage = checkpoint.shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(CipoError, match="make room"):
            saved.describe(abstract(state()))


FULL_DISK = """
import importlib.util, resource, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("t", sys.argv[2])
t = importlib.util.module_from_spec(spec)
spec.loader.exec_module(t)
directory = Path(sys.argv[1])
saved = t.Checkpoints(directory, keep=2)
saved.save(1, t.state(), {})
saved._manager.wait_until_finished()
resource.setrlimit(resource.RLIMIT_FSIZE, (256, 256))
try:
    saved.save(2, t.state(), {})
    saved.close()
except t.CipoError as error:
    print("CipoError:", error)
"""


def test_a_disk_that_fills_up_costs_no_finished_checkpoint(tmp_path: Path) -> None:
    # A limit on the size of files stands for it: writing fails in the middle, in the background.
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path, __file__],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "a checkpoint could not be written" in result.stdout, result.stderr[-2000:]
    assert "The newest finished one is step 1; nothing was deleted" in result.stdout
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.all_steps() == [1]
        np.testing.assert_array_equal(saved.restore(abstract(state()))[0].params["w"], VALUES)


def test_another_config_is_refused_and_other_versions_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(tmp_path, keep=1, origin=origin(Config())) as saved:
        saved.save(1, state(), {})
    other = origin(Config(optimizer=Optimizer(learning_rate=0.5)))
    with (
        Checkpoints(tmp_path, keep=1, origin=other) as saved,
        pytest.raises(CipoError, match="saved under another config"),
    ):
        saved.restore(abstract(state()))
    same = origin(Config(num_steps=7))  # it may change
    same["versions"]["jax"] = "9.9"
    with Checkpoints(tmp_path, keep=1, origin=same) as saved:
        saved.restore(abstract(state()))
    assert f"jax {jax.__version__}, now 9.9" in capsys.readouterr().out


def test_one_that_is_there_is_not_saved_again(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(1, state(), {"n": 1})
        saved.save(1, state(), {"n": 2})
        assert saved.restore(abstract(state()))[1] == {"n": 1}
