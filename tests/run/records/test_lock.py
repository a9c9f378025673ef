"""One run at a time in a directory, and what a dead one leaves behind is taken over."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cipo_jax.run.records import lock as module
from cipo_jax.run.records.lock import LOCK_FILE, DirectoryLock
from cipo_jax.types import CipoError

HOLDER = """
import pathlib, sys
from cipo_jax.run.records.lock import DirectoryLock
DirectoryLock(pathlib.Path(sys.argv[1])).take()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def flock(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)


def leave(workdir: Path, **changes: object) -> None:
    """What a holder that was killed has left, with some of it changed."""
    lock = DirectoryLock(workdir)
    lock.take()
    content = json.loads((workdir / LOCK_FILE).read_text())
    lock.release()
    (workdir / LOCK_FILE).write_text(json.dumps(content | changes))


def test_a_second_process_is_told_who_is_there_until_that_one_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdin is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(CipoError, match=f"in use by process {holder.pid} on host .* since 20.*UTC"):
        DirectoryLock(tmp_path / "run").take()
    holder.kill()
    holder.communicate()
    with DirectoryLock(tmp_path / "run"):
        mine = json.loads((tmp_path / "run" / LOCK_FILE).read_text())
        assert mine["pid"] == os.getpid()


def test_it_is_let_go_at_the_end_and_makes_its_directory_only_when_asked(tmp_path: Path) -> None:
    workdir = tmp_path / "new"
    with DirectoryLock(workdir) as lock:
        assert not workdir.exists()
        lock.take()
        with pytest.raises(CipoError, match=f"--workdir={workdir}: is in use by process"):
            DirectoryLock(workdir).take()
        with DirectoryLock(workdir, takes=False):
            pass
    assert (workdir / LOCK_FILE).read_text() == ""
    with DirectoryLock(workdir):
        pass


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_living_holder_counts_and_a_dead_one_does_not(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path), pytest.raises(CipoError, match="is in use by"):
        DirectoryLock(tmp_path).take()
    leave(tmp_path, born="1")  # another process has its number now
    with DirectoryLock(tmp_path):
        pass
    process = subprocess.Popen(["true"])
    process.wait()
    leave(tmp_path, pid=process.pid)
    with DirectoryLock(tmp_path):
        pass


def test_the_holder_of_another_host_counts_if_it_shows_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.2)
    leave(tmp_path, host="other", kernel="its own", pid=7)
    with DirectoryLock(tmp_path):
        assert "process 7 on host other, which did not end" in capsys.readouterr().out
    leave(tmp_path, host="other", kernel="its own", pid=7)
    times = iter(range(100))
    monkeypatch.setattr(DirectoryLock, "_time", lambda _: next(times))
    with pytest.raises(CipoError, match="in use by process 7 on host other"):
        DirectoryLock(tmp_path).take()


def test_a_holder_shows_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    beaten = threading.Event()
    monkeypatch.setattr(os, "utime", lambda *_: beaten.set())
    with DirectoryLock(tmp_path):
        assert beaten.wait(timeout=30)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', "\0\0\0"])
def test_a_record_that_was_not_written_whole_is_no_holder(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.05)
    (tmp_path / LOCK_FILE).write_text(content)
    with DirectoryLock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_what_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CipoError, match="--workdir=.*file: cannot be written"):
        DirectoryLock(tmp_path / "file").__enter__()
    (tmp_path / "run" / LOCK_FILE).mkdir(parents=True)
    with pytest.raises(CipoError, match="--workdir=.*run: cannot be written"):
        DirectoryLock(tmp_path / "run").take()
