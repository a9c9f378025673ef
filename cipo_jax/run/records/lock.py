"""The lock of a run directory: one run at a time writes there.

Decided here: how a directory is held, and when a lock that was left behind is taken over.

The file `.lock` is locked by `flock` while its holder lives; its content, a json object, says who
that is, and is removed when the holder ends by itself. The kernel frees the lock of a process that
dies. Some file systems have no locks, and on some they bind the processes of one host only. So what
is written counts as well, if a holder has not removed it:

    of this host       where there are no locks: as long as that very process lives
    of another host    if the file's time changes while we watch: its holder keeps setting it

A run of several hosts is held by its first host. A bucket has no locks: two runs must not be given
one `checkpoint.directory` there.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cipo_jax.run.records.files import explained
from cipo_jax.types import CipoError

LOCK_FILE = ".lock"
BEAT_SECONDS = 5.0  # between two signs of life
WATCH_SECONDS = 17.0  # for one of another host
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class DirectoryLock:
    """Holds a run directory until its end; a context manager, which takes what exists already.

    Args:
      takes: whether this host is the one that writes; others hold nothing.
      key: how messages name the directory.
    """

    def __init__(self, directory: Path, takes: bool = True, key: str = "--workdir") -> None:
        self._directory, self._takes, self._key = directory, takes, key
        self._file: int | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Makes the directory, and holds it; nothing if it is held already.

        Raises:
          CipoError: a process writes there, with its name, or the directory cannot be written.
        """
        if not self._takes or self._file is not None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            file = os.open(self._directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise CipoError(
                f"{self._key}={self._directory}: cannot be written ({error}); wanted a directory, "
                "new or of a run, on a disk with room for it"
            ) from error
        try:
            has_locks = self._lock(file)
            self._require_left_behind(file, has_locks)
            with explained(self._directory / LOCK_FILE):
                _write(file, _about_this_process())
        except BaseException:
            os.close(file)
            raise
        self._file = file
        self._thread = threading.Thread(target=self._show_life, name="lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Lets others take the directory."""
        if self._file is None:
            return
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        # The file stays, empty: who removes it may remove one that another process has just locked.
        # A look at the name after locking would tell on one host. Where locks bind the processes of
        # a host only, nothing orders that look and the removal by another.
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
        os.close(self._file)
        self._file = None

    def __enter__(self) -> "DirectoryLock":
        if self._directory.exists():
            self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _lock(self, file: int) -> bool:
        """Whether the file system has locks. Raises CipoError if another process has this one."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            if error.errno not in _BUSY:
                raise
            raise self._in_use(_read(file)) from error
        return True

    def _require_left_behind(self, file: int, has_locks: bool) -> None:
        """Raises CipoError if what is written is of a holder that lives."""
        holder = _read(file)
        if not holder or (has_locks and holder.get("kernel") == _kernel()):
            return
        if holder.get("host") == socket.gethostname() and holder.get("kernel") == _kernel():
            if _lives(holder):
                raise self._in_use(holder)
            return
        print(
            f"lock     {self._directory} was last held by {_name(holder)}, which did not end by "
            f"itself; looking for a sign of life, {WATCH_SECONDS:.0f} s",
            flush=True,
        )
        before, end = self._time(), time.monotonic() + WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(min(BEAT_SECONDS, WATCH_SECONDS) / 4)
            if self._time() != before:
                raise self._in_use(holder)

    def _in_use(self, holder: dict[str, Any]) -> CipoError:
        since = f" since {holder['since']}" if "since" in holder else ""
        return CipoError(
            f"{self._key}={self._directory}: is in use by {_name(holder)}{since}; wait until it "
            f"ends, stop it, or choose another {self._key}"
        )

    def _time(self) -> int:
        # Opened anew: a network file system may answer from its cache otherwise.
        with (self._directory / LOCK_FILE).open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns

    def _show_life(self) -> None:
        assert self._file is not None
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # of a network; the next one may succeed
                os.utime(self._file)


def _read(file: int) -> dict[str, Any]:
    """What a holder has written; {} where there is nothing, or nothing that was written whole."""
    try:
        content = json.loads(os.pread(file, 4096, 0))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(file: int, content: dict[str, Any]) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(content).encode() + b"\n", 0)
    os.fsync(file)


def _about_this_process() -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    about = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
    return about | {"kernel": _kernel(), "born": _born(os.getpid())}


def _name(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on host {holder.get('host', '?')}"


def _kernel() -> str:
    """What tells this machine, since it was started, from others: names of hosts repeat. On systems
    without /proc it is the name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _lives(holder: dict[str, Any]) -> bool:
    """Whether a process of this host is still there, and not a later one of the same number."""
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _born(pid) == holder.get("born")


def _born(pid: int) -> str:
    """When a process was started, as its kernel counts; "" where that cannot be known."""
    try:
        # The fields after the name, which may itself hold blanks and brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
