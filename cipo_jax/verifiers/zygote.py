"""The process that workers are forked from: `python -m cipo_jax.verifiers.zygote`.

This file decides what the workers of one pool share: the modules that verification imports, and
what `worker.prepare` finds out about the machine. It takes a second or more, and is done once, so
that a worker starts in a few milliseconds. This process runs no verifier and imports no code of the
user: each worker loads its verifier for itself, and finds no state of another one's.

It is started as a new program, has one thread, and outlives neither the pool nor the pool's
process: at the end of its channel, or of that process, it kills all workers and ends. Workers do
not depend on it; if it is killed, they go on (see `zygote_process.py`, the pool's side).

The protocol, over one inherited socket: a number of 4 bytes each way. This process says 0 when it
is ready. A request of 0 carries the worker's socket and the reading end of its lifeline (see
`worker.py`), and is answered by the worker's process id, or by minus an error number. A request of
a process id kills that worker with what it has started, and is answered by how it ended, as
`os.waitstatus_to_exitcode` writes it.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import struct
import sys

from cipo_jax.verifiers import worker
from cipo_jax.verifiers.sandbox.inside import adopt_orphans

NUMBER = struct.Struct("!i")


def main(
    channel: socket.socket, parent_pid: int, kind: str, memory_limit_bytes: int, options: str
) -> None:
    """Forks and kills workers as asked, until nobody can ask any more."""
    given = worker.Options(**json.loads(options))
    worker.redirect_standard_streams()
    worker.prepare(kind, given)
    if sys.platform == "linux":
        adopt_orphans()
    gc.collect()
    gc.freeze()  # so that a worker's collector writes to no page that it shares
    workers: set[int] = set()
    try:
        parent = _descriptor_of(parent_pid)
        channel.sendall(NUMBER.pack(0))
        while _is_asked(channel, parent):
            request, descriptors, _, _ = socket.recv_fds(channel, NUMBER.size, 2)
            if len(request) < NUMBER.size:
                break
            if pid := NUMBER.unpack(request)[0]:
                workers.discard(pid)
                channel.sendall(NUMBER.pack(_kill(pid)))
                _reap_adopted(workers)
                continue
            pid = _fork()
            if pid == 0:
                channel.close()
                worker.main(descriptors[0], descriptors[1], kind, memory_limit_bytes, given)
            for descriptor in descriptors:
                os.close(descriptor)
            if pid > 0:
                workers.add(pid)
            channel.sendall(NUMBER.pack(pid))
    finally:
        for pid in workers:
            _kill(pid)


def _descriptor_of(parent_pid: int) -> int | None:
    """Becomes readable when that process ends; None where the system has no such thing."""
    if not hasattr(os, "pidfd_open"):
        return None
    descriptor = os.pidfd_open(parent_pid)
    if os.getppid() != parent_pid:  # it ended before, and the number is another's by now
        sys.exit()
    return descriptor


def _is_asked(channel: socket.socket, parent: int | None) -> bool:
    """Waits for a request; False if the pool's process is gone. The channel tells so as well,
    unless a fork of that process holds its other end."""
    poll = select.poll()
    for each in (channel, parent):
        if each is not None:
            poll.register(each, select.POLLIN)
    return parent not in {descriptor for descriptor, _ in poll.poll()}


def _fork() -> int:
    """As `os.fork`; minus the error number if there can be no more processes."""
    try:
        return os.fork()
    except OSError as error:
        return -(error.errno or 1)


def _reap_adopted(workers: set[int]) -> None:
    """Waits for the dead among the processes that killed workers left behind. The first process of
    a container often waits for none, and they would fill its table of processes."""
    try:
        with open("/proc/thread-self/children") as children:
            adopted = set(map(int, children.read().split())) - workers
    except OSError:  # the kernel does not tell
        return
    for pid in adopted:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _kill(pid: int) -> int:
    """Kills a worker with its process group. It was not waited for, so the id is still its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it may not have its own group yet
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the pool went away
        number, parent, *rest = sys.argv[1:]
        main(socket.socket(fileno=int(number)), int(parent), rest[0], int(rest[1]), rest[2])
