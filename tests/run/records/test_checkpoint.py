"""What is kept, what is restored, and what happens when a checkpoint cannot be read or written."""

import functools
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from places import TESTS

from cipo_jax.config.keys import Config, Log, Optimizer
from cipo_jax.policy.sharding import make_mesh
from cipo_jax.rl.train_step import TrainState
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.records import checkpoint, manager, manifest
from cipo_jax.run.records.checkpoint import Checkpoints
from cipo_jax.run.records.origin import origin
from cipo_jax.run.watch.compiles import Ledger
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError

VALUES = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)


class Moments(NamedTuple):
    """As optax keeps an optimiser's state."""

    mu: jax.Array


def state(sizes: tuple[int, ...] = (1, 8, 1), offset: float = 0.0) -> TrainState:
    sharding = NamedSharding(make_mesh(*sizes), P(("fsdp", "context"), "tensor"))
    array = jax.device_put(VALUES + offset, sharding)
    return TrainState(
        step=jnp.zeros((), jnp.int32), params={"w": array}, opt_state=Moments(array * 2)
    )


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


def test_orbax_does_not_warn_of_the_handler_that_replaces_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def messages() -> list[str]:
        return [r.getMessage() for r in caplog.records if "overriding" in r.getMessage()]

    manager._write_small_arrays_whole.cache_clear()
    Checkpoints(tmp_path, keep=1).close()
    assert messages() == []
    # What orbax says otherwise, so that this test notices when it says something else.
    handler = ocp.type_handlers.get_type_handler(jax.Array)
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
    assert len(messages()) == 1 and messages()[0].startswith("Type handler registry type ")


def test_replicas_write_slices_of_large_arrays_alone(tmp_path: Path) -> None:
    """A slice is a program, compiled for each of the devices that hold the array."""
    everywhere = NamedSharding(make_mesh(8, 1, 1), P())
    large = np.zeros((8, 1 << 18), np.float32)  # a slice is one MiB

    def compiled_to_save(name: str, array: np.ndarray) -> set[str]:
        params = {"w": jax.device_put(array, everywhere)}
        file = tmp_path / f"{name}.jsonl"
        with Checkpoints(tmp_path / name, keep=1) as saved:
            with Ledger(file, Log(), Heartbeat()):
                saved.save_params(params)
            restored = saved.restore_params(params, step=0)
        np.testing.assert_array_equal(restored["w"], array)
        lines = file.read_text().splitlines() if file.exists() else []
        return {json.loads(line)["program"] for line in lines}

    assert compiled_to_save("small", large[:, 1:]) == set()
    assert compiled_to_save("large", large) == {"jit(slice)"}


@pytest.mark.parametrize("sizes", [(1, 4, 2), (2, 2, 2), (8, 1, 1), (1, 2, 2, 2)])
def test_restored_onto_another_mesh(tmp_path: Path, sizes: tuple[int, ...]) -> None:
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
        out = capsys.readouterr().out
        assert "the checkpoint of step 3" in out and "is damaged (params/" in out
        saved.save(3, state(offset=3), {"step": 3})  # the run comes by it again
    assert (tmp_path / "unreadable-step_3").is_dir()
    with Checkpoints(tmp_path, keep=3) as saved:
        assert saved.all_steps() == [1, 2, 3]
        np.testing.assert_array_equal(saved.restore(abstract(state()))[0].params["w"], VALUES + 3)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeros(content: bytes) -> bytes:
    return bytes(len(content))


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(b ^ 0xFF for b in content[middle : middle + 4])
        + content[middle + 4 :]
    )


DAMAGES = (cut, zeros, flipped, lambda content: b"", None)  # None: the file is deleted


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 to 3, the last with a score."""
    directory = tmp_path_factory.mktemp("three")
    with Checkpoints(directory, keep=3, keep_best=1, origin=origin(Config())) as saved:
        for step in (1, 2, 3):
            saved.save(step, state(offset=step), {"step": step}, 0.5 if step == 3 else None)
    return directory


def damaged_files(good: Path, directory: Path) -> Iterator[tuple[str, Path]]:
    """Copies of `good`: in each another file of step 3 is damaged, by turns in another way."""
    files = sorted(p for p in (good / "step_3").rglob("*") if p.is_file())
    for number, file in enumerate(files):
        copy = directory / str(number)
        shutil.copytree(good, copy)
        path, how = copy / file.relative_to(good), DAMAGES[number % len(DAMAGES)]
        if how is None:
            path.unlink()
        else:
            path.write_bytes(how(path.read_bytes()))
        yield f"{file.relative_to(good)}", copy


@pytest.mark.slow
def test_whatever_is_damaged_the_values_are_those_of_a_checkpoint(
    three: Path, tmp_path: Path
) -> None:
    restored_from = []
    for name, directory in damaged_files(three, tmp_path):
        with Checkpoints(directory, keep=3, keep_best=1, origin=origin(Config())) as saved:
            restored, host = saved.restore(abstract(state()))
        step = host["step"]
        assert step in (2, 3) and int(restored.step) == step, name
        np.testing.assert_array_equal(restored.params["w"], VALUES + step, err_msg=name)
        np.testing.assert_array_equal(restored.opt_state[0], (VALUES + step) * 2, err_msg=name)
        assert (directory / "unreadable-step_3").is_dir() == (step == 2), name
        restored_from.append(step)
    assert restored_from.count(2) > 20  # the others are not needed, such as the score


def test_a_reader_uses_the_older_one_or_refuses(
    three: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(three, tmp_path / "run")
    damage(tmp_path / "run", 3)
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    like = abstract(state()).params
    with Checkpoints(tmp_path / "run", keep=1, read_only=True) as saved:
        with pytest.raises(CipoError, match=r"step_3: the checkpoint is damaged .*\[1, 2\]"):
            saved.restore_params(like, 3)
        np.testing.assert_array_equal(saved.restore_params(like)["w"], VALUES + 2)
        np.testing.assert_array_equal(saved.restore_params(like, 1)["w"], VALUES + 1)
        with pytest.raises(CipoError, match=r"holds no step 7; kept: \[1, 2\]"):
            saved.restore_params(like, 7)
    assert "the checkpoint of step 3" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before


def old_format(directory: Path) -> None:
    """As an earlier version of the program wrote it: without manifests."""
    for file in directory.rglob("manifest.json"):
        file.unlink()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("why", ["memory", "permission", "model"])
def test_errors_that_are_not_of_the_files_set_nothing_aside(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str, old: bool
) -> None:
    directory, like = tmp_path / "run", abstract(state())
    shutil.copytree(three, directory)
    if old:
        old_format(directory)
    if why == "memory":
        error: type[Exception] = jax.errors.JaxRuntimeError
        failure = error("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        monkeypatch.setattr(ocp.CheckpointManager, "restore", raising(failure))
    elif why == "permission":
        error = CipoError if not old else PermissionError
        target = (manifest, "_checksums") if not old else (ocp.CheckpointManager, "restore")
        monkeypatch.setattr(*target, raising(PermissionError(13, "Permission denied")))
    else:
        error = CipoError
        other = jax.ShapeDtypeStruct((8, 8), np.float32, sharding=like.params["w"].sharding)
        like = like.replace(params={"w": other})
    with Checkpoints(directory, keep=3) as saved, pytest.raises(error, match="memory|ermission|8]"):
        saved.restore(like)
    assert not list(directory.glob("unreadable*")) and (directory / "step_3").is_dir()


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_an_older_version_s_checkpoint_is_read_and_its_damage_found(
    three: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(three, directory)
    old_format(directory)
    with Checkpoints(directory, keep=3) as saved:
        assert saved.restore(abstract(state()))[1] == {"step": 3}
    damage(directory, 3)
    (directory / "step_2" / "host" / "metadata").write_text("{")
    with Checkpoints(directory, keep=3) as saved:
        assert saved.restore(abstract(state()))[1] == {"step": 1}
    assert len(list(directory.glob("unreadable*"))) == 2


def test_damaged_twice_at_the_same_step(tmp_path: Path) -> None:
    for _ in range(2):
        with Checkpoints(tmp_path, keep=3) as saved:
            for step in (1, 2):
                saved.save(step, state(), {"step": step})
        damage(tmp_path, 2)
        with Checkpoints(tmp_path, keep=3) as saved:
            assert saved.restore(abstract(state()))[1] == {"step": 1}
    assert {p.name for p in tmp_path.iterdir()} == {
        *("step_1", "unreadable-step_2", "unreadable-step_2.1"),
    }


class OneOfTwo(Hosts):
    """The first of two hosts; `other` is what the second one says, by turns."""

    def __init__(self, *other: dict) -> None:
        super().__init__()
        self.count, self.other = 2, iter(other)

    def gather(self, payload: bytes) -> list[bytes]:
        return [payload, json.dumps(next(self.other)).encode()]


def test_two_hosts_decide_together(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = epath.Path(three / "step_3")
    seen, checksums = [], manifest._checksums
    monkeypatch.setattr(manifest, "_checksums", lambda *a: seen.extend(a[1]) or checksums(*a))
    ask = functools.partial(manifest.find_damage_together, place, None)
    assert ask(OneOfTwo({"damage": None})) is None
    files = json.loads((three / "step_3" / "manifest.json").read_text())["content"]["files"]
    assert len(files) / 2 - 1 <= len(seen) <= len(files) / 2 + 1  # the other reads the rest
    assert ask(OneOfTwo({"damage": "a file is cut"})) == "a file is cut"
    with pytest.raises(CipoError, match=r"step_3: cannot be read on host 1 \(not there\)"):
        ask(OneOfTwo({"error": "not there"}))
    # One host does not see what the others see: its disk is another one, nothing is damaged.
    with pytest.raises(CipoError, match="on host 0 .it is not there; all hosts need the same"):
        manifest.find_damage_together(place.parent / "step_9", None, OneOfTwo({"damage": None}))


def test_each_host_asks_for_a_share_of_the_files(three: Path, tmp_path: Path) -> None:
    """A file that was cut, below one of several directories, is found by one of them."""
    shutil.copytree(three / "step_3", tmp_path / "step_3")
    place, shares = epath.Path(tmp_path / "step_3"), [(i, 3) for i in range(3)]
    names = json.loads((place / "manifest.json").read_text())["content"]["files"]
    assert manifest._files(place) == sorted(
        str(path.relative_to(tmp_path / "step_3"))
        for path in (tmp_path / "step_3").rglob("*")
        if path.is_file()
    )
    for name in names:
        whole = (place / name).read_bytes()
        (place / name).write_bytes(whole[:-1])
        found = [manifest.find_damage(place, None, share) for share in shares]
        assert any(said and name in said for said in found), name
        asked = [f"has {len(whole) - 1} bytes" in (said or "") for said in found]
        assert sum(asked) == 1, name
        (place / name).write_bytes(whole)
    assert not any(manifest.find_damage(place, None, share) for share in shares)


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


@pytest.mark.slow
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
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with Checkpoints(tmp_path, keep=1, origin=origin(Config())) as saved:
        saved.save(1, state(), {})
    other = origin(Config(optimizer=Optimizer(learning_rate=0.5)))
    with (
        Checkpoints(tmp_path, keep=1, origin=other) as saved,
        pytest.raises(
            CipoError, match=r"another config:\n  config.optimizer.learning_rate: .* there, 0.5 now"
        ),
    ):
        saved.restore(abstract(state()))
    same = origin(Config(num_steps=7))  # it may change
    same["versions"]["jax"] = "9.9"
    with Checkpoints(tmp_path, keep=1, origin=same) as saved:
        saved.restore(abstract(state()))
    assert f"jax {jax.__version__}, now 9.9" in capsys.readouterr().out


def test_a_key_that_is_newer_than_the_checkpoint_counts_as_its_default(tmp_path: Path) -> None:
    """A checkpoint from before `optimizer.b2` and `seed`, and with a key that is gone."""
    older = origin(Config())
    del older["config"]["optimizer.b2"], older["config"]["seed"]
    older |= {"config": older["config"] | {"optimizer.gone": 7}, "config_hash": "of fewer keys"}
    with Checkpoints(tmp_path, keep=1, origin=older) as saved:
        saved.save(1, state(), {})
    with Checkpoints(tmp_path, keep=1, origin=origin(Config())) as saved:
        saved.restore(abstract(state()))
    with (
        Checkpoints(tmp_path, keep=1, origin=origin(Config(seed=3))) as saved,
        pytest.raises(CipoError, match=r"another config:\n  config.seed: 0 there, 3 now\n\w"),
    ):
        saved.restore(abstract(state()))


def test_of_a_checkpoint_with_a_hash_alone_the_run_s_config_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    older = {"config_hash": "of fewer keys", "versions": {}}
    with Checkpoints(tmp_path, keep=1, origin=older) as saved:
        saved.save(1, state(), {})
    now = origin(Config())
    with (
        Checkpoints(tmp_path, keep=1, origin=now) as saved,
        pytest.raises(CipoError, match="another config .only its hash was noted: of fewer keys."),
    ):
        saved.restore(abstract(state()))
    with Checkpoints(tmp_path, keep=1, origin=now, config_agrees=True) as saved:
        saved.restore(abstract(state()))
    assert "but the run's config.json agrees" in capsys.readouterr().out


def test_scores_that_become_known_later(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with Checkpoints(tmp_path, keep=1, keep_best=1) as saved:
        assert saved.improves(0.1) and not saved.improves(None) and not saved.improves(float("nan"))
        saved.save(1, state(), {})
        saved.save(1, state(), {}, 0.5)  # while it is being written
        assert saved.improves(0.6) and not saved.improves(0.5)
    # Another process, which evaluates once more what the last one could not.
    with Checkpoints(tmp_path, keep=1, keep_best=1) as saved:
        saved.save(2, state(), {}, 0.4)
        saved.save(3, state(), {})
    with Checkpoints(tmp_path, keep=1, keep_best=1) as saved:
        assert saved.all_steps() == [1, 3]
        saved.save(3, state(), {}, 0.7)
        assert saved.restore(abstract(state()))[0].step == 3  # a score is no damage
        saved.save(4, state(), {})
        saved.save(5, state(), {})
    # A lost score: the checkpoint is kept, as it may be the best.
    (tmp_path / "step_3" / "score.json").write_text('{"crc32": 1, "content": {"score": 0.1}}')
    with Checkpoints(tmp_path, keep=1, keep_best=1) as saved:
        assert "scores of steps [3] cannot be read" in capsys.readouterr().out
        saved.save(6, state(), {}, 0.2)
        saved.save(7, state(), {})
    with Checkpoints(tmp_path, keep=1, read_only=True) as saved:
        assert saved.all_steps() == [3, 6, 7]


def test_one_that_is_there_is_not_saved_again(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(1, state(), {"n": 1})
        saved.save(1, state(), {"n": 2})
        assert saved.restore(abstract(state()))[1] == {"n": 1}
