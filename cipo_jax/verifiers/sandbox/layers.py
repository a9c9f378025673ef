"""The sandbox for programs that a model wrote.

This file decides which isolation a machine offers and says what it covers. Sandboxes are started
and stopped in `launch.py`; how a process gives up its rights is in `inside.py`, what runs there in
`roles.py`.

A sandbox is for one program: it starts clean, is killed whole, and is never used again. It holds
no test, no reference and no secret of the machine, and what it says counts as the program's answer
only.

Layers, best first. Each is tried at the start with a program that attempts what is forbidden; the
first layer in which all attempts fail is used.

  bubblewrap+namespaces
               a clean interpreter waits in `bwrap` (0.7 or newer), which has made new user, mount,
               pid, network, ipc, host-name and cgroup namespaces. For each program it forks a
               process that makes all of them again, for this program only. Needs Linux 5.12.
  bubblewrap   one `bwrap` and one interpreter for each program: several times slower.
  namespaces   as the first, without `bwrap` around it.
  rlimits      none of these. Only with `allow_unsandboxed_code`: a program can then read every file
               of the user, reach the network, and outlive its run if libseccomp is missing too.

What the first three cover:
  files        the program sees the interpreter, its standard library and the system's shared
               libraries, read-only; four harmless devices; and a private /tmp in memory with a size
               limit. No home, no /proc, no /sys, no project, no data.
  network      a network namespace with nothing in it except, at most, its own loopback.
  processes    it sees and signals its own only; when its first one ends, all are killed.
  identity     no capability; as root: another user, which owns nothing, for each program. Otherwise
               the user who runs it, whose files are not in view.
In every layer: limits on CPU time, address space, file size, open files and processes, no core
files, no_new_privs, an empty environment, and capped output. With libseccomp, a filter
besides: no new processes or programs, no sockets, no ptrace, mounts, namespaces, keys, bpf,
io_uring (see `seccomp.py`).

What none covers: faults of the kernel itself (the system calls that remain are served by the
machine's kernel; a virtual machine around the run is the answer), side channels, and a program that
uses all its CPU time. bubblewrap cannot limit the number of files in the scratch directory.
Without libseccomp the memory limit holds for each process, not for their sum.

Which layer is available where:
  plain VM, TPU VM   all, also without root. On Ubuntu 24.04, AppArmor forbids namespaces to
                     ordinary programs: run as root, or give bwrap an AppArmor profile.
  Docker             its default profile forbids namespaces. Run the container with
                     `--security-opt seccomp=unconfined --security-opt apparmor=unconfined
                     --security-opt systempaths=unconfined` (still without privileges on the
                     machine) or with `--cap-add SYS_ADMIN` as well as the first two.
  GKE                the same through the pod's `securityContext`: `seccompProfile: Unconfined`,
                     `procMount: Unmasked`, or `capabilities: add: [SYS_ADMIN]`. In a gVisor
                     node pool (`runtimeClassName: gvisor`) the pod itself is one more layer.
"""

import socket
import tempfile
import time

from cipo_jax.types import CipoError
from cipo_jax.verifiers.sandbox import launch
from cipo_jax.verifiers.sandbox.inside import may_make_namespaces
from cipo_jax.verifiers.sandbox.launch import RLIMITS, Limits, Sandbox, SandboxError

LAYERS = (launch.WARM, launch.BUBBLEWRAP, launch.NAMESPACES)


def open_sandbox(allow_unsandboxed_code: bool = False, layer: str | None = None) -> Sandbox:
    """The best isolation of this machine, or the one called `layer`.

    Raises:
      CipoError: there is none; the message says what is missing and how to get it.
    """
    reasons = []
    for name in (layer,) if layer else LAYERS:
        try:
            candidate = Sandbox(name)
        except (SandboxError, OSError) as error:
            reasons.append(f"{name}: {error}")
            continue
        leak = _find_leak(candidate)
        if leak is None:
            return candidate
        candidate.close()
        reasons.append(f"{name}: {leak}")
    if allow_unsandboxed_code:
        return Sandbox(RLIMITS)
    raise CipoError(
        "verifier.kind: running generated programs needs isolation, and this machine has none: "
        + "; ".join(reasons)
        + ". Install bubblewrap (Debian, Ubuntu: apt-get install bubblewrap libseccomp2), allow "
        "user namespaces (sysctl kernel.unprivileged_userns_clone=1, or in a container "
        "--security-opt seccomp=unconfined), or, only if the programs may do anything that "
        "you may do here, set verifier.allow_unsandboxed_code=True"
    )


def describe(sandbox: Sandbox) -> str:
    """One line on the layers in use, for the start of a run."""
    if sandbox.layer == RLIMITS:
        first = "NO ISOLATION (rlimits only): programs can read your files and use the network"
    else:
        first = f"{sandbox.layer}: own mount, pid, network and ipc namespaces"
        first += ", own user" if may_make_namespaces() else ", own user namespace"
    missing = "no seccomp filter (libseccomp2 is not installed)"
    return ", ".join((first, "rlimits, no_new_privs", "seccomp" if sandbox.filter else missing))


_PROBE = """
import os, socket
def probe(path):
    found = []
    if os.path.exists(path) or os.path.isdir("/proc/self") or os.path.exists("/etc/passwd"):
        found.append("it sees files of the machine")
    if os.environ:
        found.append("it has an environment")
    for place in ("/", "/usr", os.path.dirname(os.__file__)):
        try:
            with open(os.path.join(place, "written"), "w"):
                found.append("it can write to " + place)
        except OSError:
            pass
    if os.geteuid() == 0:
        found.append("it is root")
    try:
        with socket.socket() as s:
            s.settimeout(1)
            s.connect(("127.0.0.1", PORT))
        found.append("it reaches the network")
    except OSError:
        pass
    with open("/tmp/own", "w") as file:
        file.write("x")
    return found
"""


def _find_leak(sandbox: Sandbox) -> str | None:
    """What a program could do in this sandbox that it must not; None if nothing was found."""
    with tempfile.NamedTemporaryFile() as secret, socket.create_server(("127.0.0.1", 0)) as server:
        program = _PROBE.replace("PORT", str(server.getsockname()[1]))
        job = {"role": "functions", "programs": [program]}
        try:
            with sandbox.start(job, Limits()) as probe:
                deadline = time.monotonic() + launch.START_SECONDS
                hello = probe.receive(deadline)
                if isinstance(hello, dict) and "started" in hello:
                    hello = probe.receive(deadline)
                if not isinstance(hello, list) or hello[0] != "value":
                    return f"a sandbox does not start: {hello}"
                probe.send(["ask", "call global", ["probe", [secret.name]]])
                answer = probe.receive(deadline)
        except (SandboxError, OSError, TypeError, KeyError) as error:
            return f"a sandbox does not work: {type(error).__name__}: {error}"
    if not answer or answer[0] != "value":
        return f"a sandbox does not work: {answer}"
    return "; ".join(answer[1]) or None
