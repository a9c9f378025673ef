"""Starting and stopping sandboxes: `bwrap`, and the process that forks them.

This file decides how the layers that `layers.py` names are made and what a program can see there.
How a process gives up its rights is in `inside.py`, what runs there in `roles.py`.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import marshal
import os
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from cipo_jax.verifiers import messages
from cipo_jax.verifiers.sandbox import seccomp, values
from cipo_jax.verifiers.sandbox.inside import (
    DEVICES,
    LINKS,
    SCRATCH,
    adopt_orphans,
    may_make_namespaces,
)

WARM, BUBBLEWRAP, NAMESPACES = "bubblewrap+namespaces", "bubblewrap", "namespaces"
RLIMITS = "rlimits"
START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_MAX_ANSWER_BYTES = 1 << 25
# Each needs only those before it.
_MODULES = ("wire", "inside", "values", "peer", "script", "roles")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
# Reads the code of `_MODULES` from descriptor 0, as one message (see `wire.py`), and makes modules
# of it. A line that calls one of the ways into `inside.py` with the roles is put after it.
_LOADER = """
import marshal, os, struct, sys
def read(n):
    data = b""
    while len(data) < n:
        data += os.read(0, n - len(data)) or os._exit(0)
    return data
modules = marshal.loads(read(struct.unpack("!I", read(4))[0]))
for name, code in modules.items():
    sys.modules[name] = module = type(sys)(name)
    exec(code, module.__dict__)
inside = sys.modules["cipo_jax.verifiers.sandbox.inside"]
roles = sys.modules["cipo_jax.verifiers.sandbox.roles"].ROLES
"""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one sandbox may use."""

    cpu_seconds: int = 60  # of each process
    memory_bytes: int = 1 << 30  # address space of each process
    scratch_bytes: int = 64 << 20  # of /tmp
    file_bytes: int = 16 << 20  # of each file, and of the output
    processes: int = 64  # with their threads; where root is dropped or user namespaces count
    open_files: int = 64  # of each process


class SandboxError(Exception):
    """A sandbox could not be started, or it failed. This says nothing about the program."""


@dataclasses.dataclass
class Sandboxed:
    """A running sandbox: the trusted side of its control channel."""

    channel: socket.socket
    _kill: Callable[[], None]  # the processes have ended afterwards
    _scratch: str | None = None  # a directory of the machine to be removed

    def send(self, message: dict[str, Any] | list[Any]) -> None:
        """Raises OSError if the sandbox has ended."""
        self.channel.settimeout(START_SECONDS)
        messages.send(self.channel, json.dumps(message).encode())

    def receive(self, deadline: float) -> Any:
        """The next message; None if the sandbox has ended or what it sent is no message.

        Raises:
          TimeoutError: `deadline`, of `time.monotonic()`, has passed.
        """
        try:
            body = messages.receive(self.channel, deadline, _MAX_ANSWER_BYTES)
            return None if body is None else values.parse(body)
        except TimeoutError:
            raise
        except (OSError, ValueError, RecursionError):
            return None

    def stop(self) -> None:
        """Kills all that runs there, and waits for its end."""
        self._kill()
        with contextlib.suppress(OSError):
            self.channel.settimeout(_STOP_SECONDS)
            while self.channel.recv(1 << 16):
                pass
        self.channel.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> "Sandboxed":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Sandbox:
    """Starts sandboxes in one layer. One at a time may be starting; many may run."""

    def __init__(self, layer: str):
        """Raises SandboxError if the machine does not offer the layer; with the reason."""
        self.layer = layer
        self.filter = seccomp.compile_filter()
        self._view, self._hidden = _view()
        self._bwrap = shutil.which("bwrap")
        self._zygote: subprocess.Popen | None = None
        if not sys.platform.startswith("linux"):
            raise SandboxError("it needs Linux")
        if layer in (WARM, BUBBLEWRAP) and self._bwrap is None:
            install = "Debian, Ubuntu: apt-get install bubblewrap"
            raise SandboxError(f"bwrap is not installed ({install})")
        if layer == BUBBLEWRAP:
            adopt_orphans()
        else:
            self._start_zygote()

    def start(self, job: dict[str, Any], limits: Limits, link: socket.socket | None = None):
        """A sandbox that runs `job`, JSON data with the "role" (see `roles.py`).

        `link` becomes descriptor 3 there; the caller keeps and closes its own.

        Raises:
          SandboxError: it cannot be started.
        """
        scratch = tempfile.mkdtemp(prefix="cipo-scratch-") if self.layer == RLIMITS else None
        job = {
            **job,
            "limits": dataclasses.asdict(limits),
            "filter": self.filter.hex() if self.filter else "",
            "isolated": self.layer != RLIMITS,
            "linked": link is not None,
            "scratch": scratch or SCRATCH,
            "user": secrets.randbelow(1 << 28),
            "view": self._view,
            "hidden": self._hidden,
        }
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # each message names its sender
        try:
            with theirs:
                if self.layer == BUBBLEWRAP:
                    kill = self._start_bubblewrap(theirs, link, limits)
                    ours.settimeout(START_SECONDS)
                    messages.send(ours, _code())
                else:
                    kill = self._fork(theirs, link)
            started = Sandboxed(ours, kill, scratch)
            started.send(job)
        except OSError as error:
            ours.close()
            raise SandboxError(f"a sandbox cannot be started: {error}") from error
        return started

    def close(self) -> None:
        """Stops the process that sandboxes are forked from. Those that run die with it."""
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
            self._requests.close()
            self._zygote = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_bubblewrap(self, theirs: socket.socket, link: socket.socket | None, limits: Limits):
        loader = _LOADER
        if link is not None:  # it keeps its number on the way
            number = link.fileno()
            loader += f"if {number} != 3: os.dup2({number}, 3); os.close({number})\n"
        loader += "inside.main(roles)"
        descriptors = [link.fileno()] if link is not None else []
        reading, writing = os.pipe()
        with open(reading, "rb") as info, open(writing, "wb") as end:
            command = self._in_bubblewrap(["CAP_SETUID", "CAP_SETGID"], limits, end.fileno())
            descriptors.append(end.fileno())
            process = _start_interpreter(command, loader, theirs, pass_fds=descriptors)
            end.close()
            first = _first_process(info)

        def kill() -> None:
            # The first process of the pid namespace ends when all others of it are gone. `bwrap`
            # waits for it or, if the program has ended by itself, leaves it to this process.
            if first is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(first, signal.SIGKILL)
                select.select([first], [], [], _STOP_SECONDS)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP_SECONDS)
            process.kill()
            process.wait()
            if first is not None:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, first, os.WEXITED)
                os.close(first)

        return kill

    def _in_bubblewrap(
        self, capabilities: list[str], limits: Limits, info: int | None = None
    ) -> list[str]:
        """The start of a command line; as root, the command keeps `capabilities`. `bwrap` tells
        about the sandbox over the descriptor `info`."""
        assert self._bwrap is not None
        return [
            self._bwrap,
            *_bubblewrap_arguments(self._view, self._hidden, capabilities, limits),
            *(["--proc", "/proc"] if self.layer == WARM else []),
            *(["--info-fd", str(info)] if info is not None else []),
            *("--remount-ro", "/", "--chdir", SCRATCH, "--"),
        ]

    def _start_zygote(self) -> None:
        self._requests, theirs = socket.socketpair()
        before = self._in_bubblewrap(["ALL"], Limits()) if self.layer == WARM else []
        with theirs:
            loader = _LOADER + "inside.serve(roles)"
            self._zygote = _start_interpreter(before, loader, theirs, cwd="/")
        self._requests.settimeout(START_SECONDS)
        messages.send(self._requests, _code())
        self._answer()

    def _fork(self, theirs: socket.socket, link: socket.socket | None):
        descriptors = [end.fileno() for end in (theirs, link) if end is not None]
        socket.send_fds(self._requests, [struct.pack("!i", 0)], descriptors)
        pid = self._answer()

        def kill() -> None:
            if self._zygote is not None:
                self._requests.sendall(struct.pack("!i", pid))
                self._answer()

        return kill

    def _answer(self) -> int:
        answer = self._requests.recv(4, socket.MSG_WAITALL)
        if len(answer) < 4:
            raise SandboxError("the process that sandboxes are forked from has ended")
        return struct.unpack("!i", answer)[0]


def _start_interpreter(
    before: list[str], loader: str, channel: socket.socket, **options: Any
) -> subprocess.Popen:
    """A clean interpreter that runs `loader`, with `channel` as descriptor 0; `before`: the words
    of the command line before it."""
    command = [*before, _interpreter(), "-I", "-S", "-c", loader]
    null, no_environment = subprocess.DEVNULL, dict[str, str]()
    return subprocess.Popen(
        command, stdin=channel.fileno(), stdout=null, stderr=null, env=no_environment, **options
    )


def _first_process(info: BinaryIO) -> int | None:
    """A descriptor of the first process in the pid namespace of `bwrap`; None if it fails."""
    if not select.select([info], [], [], START_SECONDS)[0]:
        return None
    try:
        return os.pidfd_open(json.loads(info.read())["child-pid"])
    except (OSError, ValueError, KeyError):
        return None


def _interpreter() -> str:
    """The interpreter outside any virtual environment, links resolved."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@functools.cache
def _view() -> tuple[list[str], list[str]]:
    """Paths that a program may read, and directories within that are hidden."""
    base = {"base": sys.base_prefix, "installed_base": sys.base_prefix}
    standard_library = os.path.realpath(sysconfig.get_path("stdlib", vars=base))
    view = [path for path in _LIBRARIES if os.path.isdir(path) and not os.path.islink(path)]
    extra = [_interpreter(), os.path.join(sys.base_prefix, "lib")]
    for path in (*map(os.path.realpath, extra), standard_library):
        if os.path.exists(path) and not _is_within(path, view):
            view.append(path)
    if os.path.exists("/etc/ld.so.cache"):
        view.append("/etc/ld.so.cache")
    packages = [os.path.join(standard_library, name) for name in ("site-packages", "dist-packages")]
    packages += ["/usr/lib/python3/dist-packages"]
    return view, [path for path in packages if os.path.isdir(path) and _is_within(path, view)]


def _is_within(path: str, view: list[str]) -> bool:
    return any(Path(path).is_relative_to(seen) for seen in view)


def _bubblewrap_arguments(
    view: list[str], hidden: list[str], capabilities: list[str], limits: Limits
) -> list[str]:
    arguments = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    arguments += ["--unshare-cgroup-try", "--die-with-parent", "--new-session"]
    arguments += ["--hostname", "sandbox"]
    if may_make_namespaces():  # no user namespace: the program gets a user of its own instead
        arguments += ["--cap-drop", "ALL"]
        for capability in capabilities:
            arguments += ["--cap-add", capability]
    else:
        arguments += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    parents = {parent for path in (*view, "/dev/null") for parent in Path(path).parents}
    for parent in sorted(parents - {Path("/")}):  # left to itself it closes some to the program
        arguments += ["--perms", "0755", "--dir", str(parent)]
    for path in view:
        arguments += ["--ro-bind", path, path]
    for path in LINKS:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
    for path in hidden:
        arguments += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
    for device in DEVICES:
        arguments += ["--dev-bind", device, device]
    arguments += ["--perms", "1777", "--size", str(limits.scratch_bytes), "--tmpfs", SCRATCH]
    return arguments


@functools.cache
def _code() -> bytes:
    """The code of `_MODULES`, marshalled for the same interpreter."""
    compiled = {}
    for short in _MODULES:
        name = f"{__package__}.{short}"
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        compiled[name] = compile(Path(spec.origin).read_text(), f"<{short}>", "exec")
    return marshal.dumps(compiled)
