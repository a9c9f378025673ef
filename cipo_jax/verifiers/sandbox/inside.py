"""Inside the sandbox: how a process gives up its rights before it runs a role.

This file runs in clean interpreters (`-I -S`, empty environment, standard library only); outside,
`launch.py` takes its constants and `may_make_namespaces`. It decides the order in which rights are
given up; `layers.py` decides which layers are used. The loader of `launch.py` hands over the roles,
and calls one of:

  * `main`: bubblewrap has made the namespaces; what is left is done here, and the job is run.
  * `serve`: this process, which may be in bubblewrap itself, forks one sandbox for each request;
    the fork makes its own namespaces. The process has imported what programs commonly use, so that
    a sandbox starts in milliseconds. It never sees a job: the fork gets it over its own socket.

A program can ask the kernel not to end with its parent (PR_SET_PDEATHSIG), so nothing relies on
that for a process that runs a program. Each fork of `serve` is a guard: it runs nothing of the
program, and the sandbox is a child of it, which it kills by its process id when it is told to, or
when the process that forked it is gone. In namespaces that child is the first of a pid namespace,
with which the kernel kills all others in it. Without namespaces the guard adopts and kills whatever
the program leaves behind. `bwrap` guards the first process of its own pid namespace in this way.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import struct
from collections.abc import Callable, Mapping
from typing import Any

from cipo_jax.verifiers.sandbox.wire import read_message, write_message

Job = dict[str, Any]  # JSON data, made in `launch.py`
Roles = Mapping[str, Callable[[Job], None]]  # `roles.ROLES`: what runs a job, by its "role"

# From linux/sched.h, linux/mount.h, linux/prctl.h, linux/fcntl.h.
_CLONE = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "host name": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_MOUNT_SETATTR, _AT_EMPTY_PATH, _AT_RECURSIVE = 442, 0x1000, 0x8000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
_PR_SET_CHILD_SUBREAPER = 36
_CAP_SYS_ADMIN = 21
_NOBODY = 65534
_FIRST_USER = 0x40000000  # far from any user of the machine

SCRATCH = "/tmp"
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
LINKS = ("/lib", "/lib64", "/bin")  # of the machine's root directory, if they are links there
_COMMON_MODULES = """
    array bisect collections copy dataclasses datetime decimal fractions functools heapq io
    itertools json math operator random re statistics string threading types typing
""".split()  # noqa: SIM905, a table reads better

_GUARDED = {signal.SIGTERM, signal.SIGCHLD}  # what a guard waits for

_libc = ctypes.CDLL(None, use_errno=True)


def main(roles: Roles) -> None:
    """Gives up what bubblewrap left, and runs the job that comes over descriptor 0."""
    job = _read_job(0)
    _die_with_parent()
    _drop_user(job["user"])
    _run_job(job, roles)


def serve(roles: Roles) -> None:
    """Forks a sandbox for each request on descriptor 0, until its end.

    A request is the number 0 with the sandbox's descriptors, its answer the process id of the
    sandbox's guard. A request of such an id ends that sandbox; the answer, 0, comes when all its
    processes are gone.
    """
    import socket

    _die_with_parent()
    for name in _COMMON_MODULES:
        importlib.import_module(name)
    channel = socket.socket(fileno=0)
    channel.sendall(struct.pack("!i", 0))
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, 4, 8)
        if not request:
            return
        pid = struct.unpack("!i", request)[0]
        if pid:  # ours, and not waited for yet: it cannot be another process's
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
            channel.sendall(struct.pack("!i", 0))
            continue
        pid = os.fork()
        if pid == 0:
            _in_fork(descriptors, roles)
        for descriptor in descriptors:
            os.close(descriptor)
        channel.sendall(struct.pack("!i", pid))


def _in_fork(descriptors: list[int], roles: Roles) -> None:
    """The forked process: becomes the guard of a child that is the sandbox, or reports why it
    cannot."""
    control = descriptors[0]
    try:
        os.setsid()  # else whoever kills the group of `serve` would kill the guard alone
        signal.pthread_sigmask(signal.SIG_BLOCK, _GUARDED)
        _die_with_parent(signal.SIGTERM)
        os.dup2(control, 0)  # the descriptors are 0 and, if there is a second one, 3
        if len(descriptors) > 1:
            os.dup2(descriptors[1], 200)
        os.closerange(3, 200)
        if len(descriptors) > 1:
            os.dup2(200, 3)
            os.close(200)
        job = _read_job(0)
        if job["isolated"]:
            _enter_namespaces(job)
        else:
            _enter_session()
        _run_job(job, roles)
    except BaseException as error:
        failure = {"failed": f"{type(error).__name__}: {error}"}
        write_message(0, json.dumps(failure).encode())
        os._exit(1)
    os._exit(0)


def _fork_guarded() -> None:
    """Returns in a child; this process guards it, and ends when the child is gone."""
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _GUARDED)
        os.setsid()  # a process group may reach across pid namespaces: kill(0) must not
        return
    for descriptor in (0, 3):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    while signal.sigwait(_GUARDED) == signal.SIGCHLD:
        # Adopted processes end as well. It is not waited for yet, so the id stays its own.
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    _kill_adopted()
    os._exit(0)


def _kill_adopted() -> None:
    """Kills and awaits what a program without namespaces has left behind."""
    with contextlib.suppress(OSError):  # of the last wait: there are none any more
        while True:
            with open("/proc/thread-self/children") as children:
                for pid in children.read().split():
                    os.kill(int(pid), signal.SIGKILL)
            os.waitpid(-1, 0)


def _enter_session() -> None:
    """Returns in a process of its own, without namespaces: all its descendants are adopted by the
    calling process, which guards it."""
    adopt_orphans()
    _fork_guarded()
    _die_with_parent()


def adopt_orphans() -> None:
    """This process becomes the parent of whatever its descendants leave behind."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _read_job(descriptor: int) -> Job:
    body = read_message(descriptor)
    if body is None:
        os._exit(0)  # this sandbox is no longer wanted
    return json.loads(body)


def _run_job(job: Job, roles: Roles) -> None:
    """Runs the role the job names, in this process; the role calls `confine` before it runs
    anything that is not trusted."""
    os.chdir(job["scratch"])
    os.environ.clear()
    replace_by_null(1, 2)
    roles[job["role"]](job)


def replace_by_null(*descriptors: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)


def confine(job: Job) -> None:
    """Limits and system-call filter, for this process and all it starts. They cannot be undone."""
    limits = job["limits"]
    for name, value in (
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full file is an error, not a death
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if job["filter"]:
        _install_filter(bytes.fromhex(job["filter"]))


def _enter_namespaces(job: Job) -> None:
    """Returns in a new process: with its own namespaces, a root directory made of `job["view"]`,
    scratch, no capability, no user of the machine. The calling process guards it."""
    has_rights = may_make_namespaces()
    uid, gid = os.geteuid(), os.getegid()
    kinds = [kind for kind in _CLONE if kind != "user" or not has_rights]
    _check(_libc.unshare(sum(_CLONE[kind] for kind in kinds)), f"unshare ({', '.join(kinds)})")
    if not has_rights:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{_NOBODY} {uid} 1")
        _write("/proc/self/gid_map", f"{_NOBODY} {gid} 1")
    reading, writing = os.pipe()  # tells the sandbox whether this process is still there
    _fork_guarded()
    os.close(writing)
    _make_root(job["view"], job["hidden"], job["limits"]["scratch_bytes"])
    if has_rights:
        _drop_user(job["user"])
    _drop_capabilities()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which resets it
    poll = select.poll()
    poll.register(reading, 0)
    if poll.poll(0):
        os._exit(0)
    os.close(reading)


def _drop_user(number: int) -> None:
    """Root becomes a user who owns nothing on the machine, a different one for each sandbox, so
    that the limit on processes counts those of this sandbox only."""
    if os.geteuid() != 0:
        return
    os.setgroups([])
    for user in (_FIRST_USER + number, _NOBODY):
        try:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        except OSError:  # a container may know few users
            continue
        break
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise PermissionError("cannot give up root")


def _make_root(view: list[str], hidden: list[str], scratch_bytes: int) -> None:
    """Replaces the root directory by a read-only one that holds only `view`, four devices and the
    scratch directory."""
    _mount("", "/", None, _MS_REC | _MS_PRIVATE)
    sources = {path: os.open(path, os.O_PATH) for path in (*view, *DEVICES)}
    links = {path: os.readlink(path) for path in LINKS if os.path.islink(path)}
    _mount("tmpfs", SCRATCH, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    os.chdir(SCRATCH)
    for path, source in sources.items():
        target = "." + path
        is_directory = os.path.isdir(f"/proc/self/fd/{source}")
        os.makedirs(target if is_directory else os.path.dirname(target), exist_ok=True)
        if not is_directory:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(f"/proc/self/fd/{source}", target, None, _MS_BIND | _MS_REC)
        if path not in DEVICES:
            _make_read_only(target)
        os.close(source)
    for path in hidden:
        _mount("tmpfs", "." + path, "tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, "size=4k")
    for path, target in links.items():
        if not os.path.lexists("." + path):
            os.symlink(target, "." + path)
    os.makedirs("." + SCRATCH, exist_ok=True)
    options = f"size={scratch_bytes},nr_inodes=4096,mode=1777"
    _mount("tmpfs", "." + SCRATCH, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")
    _mount("", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _make_read_only(path: str) -> None:
    attributes = (ctypes.c_uint64 * 4)(_MS_RDONLY | _MS_NOSUID | _MS_NODEV, 0, 0, 0)
    directory = os.open(path, os.O_PATH)
    flags, size = _AT_EMPTY_PATH | _AT_RECURSIVE, ctypes.c_size_t(ctypes.sizeof(attributes))
    number = ctypes.c_long(_MOUNT_SETATTR)
    result = _libc.syscall(number, directory, b"", flags, attributes, size)
    os.close(directory)
    _check(result, f"mount_setattr of {path} (needs Linux 5.12)")


def _drop_capabilities() -> None:
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # past the last one, or not ours to drop: no_new_privs covers that
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def may_make_namespaces() -> bool:
    """Is this root with CAP_SYS_ADMIN?"""
    with open("/proc/self/status") as status:
        effective = next(line for line in status if line.startswith("CapEff:"))
    return os.geteuid() == 0 and bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


def _install_filter(instructions: bytes) -> None:
    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    program = Program(len(instructions) // 8, instructions)
    _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(program))


def _die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        os._exit(0)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    file_system = kind.encode() if kind else None
    result = _libc.mount(
        source.encode(), target.encode(), file_system, ctypes.c_ulong(flags), options.encode()
    )
    _check(result, f"mount {target}")


def _prctl(option: int, *arguments: int) -> None:
    values = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *values), f"prctl {option}")


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
