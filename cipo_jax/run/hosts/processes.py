"""The processes of a run, and what they tell one another.

Every process runs the same program on its own host (JAX's multi-controller model). What it does is
the same everywhere, with three exceptions:

    sampling, verifying   each host samples its share of the prompts on its own devices, with all
                          weights, and verifies it in its own pool; then all hosts gather all
                          attempts (`gather`), so that each goes on with the whole step's
    writing               the first host alone writes metrics, archive and report; checkpoints are
                          written by all, each its own shards
    reading the clock     and the disk: where a decision depends on it, the first host's word counts
                          (`first_says`), or any host's (`any_says`)

So anchors, rho, health rules, stopping and saving are the same on all hosts by construction: they
are computed from gathered attempts and from device arrays that are replicated. Keys and request ids
do not depend on the number of hosts.

Collectives wait for all hosts, so a host must not leave the common path alone. Two things could
make it:

    preemption   SIGTERM may reach one host only. Its rollout is abandoned; that is said in the next
                 gather, where all hosts abandon theirs.
    failure      an exception, or a process that dies. Each host has a watcher, a thread that shows
                 a sign of life in the coordinator's key-value store and reads of preemptions and
                 failures there. The first host's reads the signs of life of all others, and tells
                 of those that have none: what the store has to answer grows with the number of
                 hosts, not with its square. On a failure, the hosts that sample raise
                 `HostFailure`, and those that hang in a collective are ended after a while, with
                 the cause named. All know of a silent host SILENCE_SECONDS and two looks after its
                 last sign of life, of any other failure after a look.

If the first host's process dies, the store dies with it, and JAX ends the other processes. JAX has
no public name for the store. In a version that hides it there are no watchers: a SIGTERM still ends
all hosts through the next gather, but of a failure only the host where it happened knows the cause,
and the others hang in a collective until JAX ends them.

Not decided here: how arrays are laid out (policy/sharding), what is gathered (exchange).
"""

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cipo_jax.run.hosts.preemption import Notice, Preempted, notice_of_sigterm
from cipo_jax.types import CipoError

WATCH_SECONDS = 0.5  # between two looks of the watcher
SILENCE_SECONDS = 60.0  # without a sign of life, a host counts as dead
GRACE_SECONDS = 10.0  # for a host to end by itself once another has failed
# Keys of the store: KIND/INDEX of the host that says so, below one of these. What all hosts read is
# empty as long as nothing happens, but for the first host's sign of life.
_TOLD = "cipo_jax/told/"  # failed, preempted, silent; alive of the first host
_SIGNS = "cipo_jax/signs/"  # alive, ended, gone; read by the first host, and by those that fail
_NOT_WATCHED = (
    "hosts    not watched, as this version of JAX hides its key-value store. If a host fails, only "
    "its own output says why; JAX ends the others after its own timeout"
)


class HostFailure(CipoError):
    """Another host has failed; the message names it and the cause."""


class Hosts:
    """The processes of the run; a single one unless `jax.distributed` was initialised.

    Attributes:
      count: number of processes.
      index: of this one.
      first: whether this is the one that writes.
      notice: whether the run has been asked to end, as far as this host knows.
    """

    def __init__(self, notice: Notice | None = None) -> None:
        self.count, self.index = jax.process_count(), jax.process_index()
        self.first = self.index == 0
        self.notice = notice or Notice()
        self.failure: str | None = None  # of another host

    def share(self, items: int) -> range:
        """The items of range(items) that are this host's; in order of hosts, they are all."""
        return share_of(items, self.index, self.count)

    def poll(self) -> None:
        """Called often in long work that only this host does.

        Raises:
          Preempted: the run has been asked to end.
          HostFailure: another host has failed.
        """
        if self.failure is not None:
            raise HostFailure(self.failure)
        if self.notice.given:
            raise Preempted

    def gather(self, payload: bytes) -> list[bytes]:
        """Every host's payload, by host. Called by all hosts."""
        if self.count == 1:
            return [payload]
        size = np.asarray(len(payload), np.int32)
        sizes = np.asarray(multihost_utils.process_allgather(size)).reshape(-1)
        row = np.zeros(row_bytes(int(sizes.max())), np.uint8)
        row[: len(payload)] = np.frombuffer(payload, np.uint8)
        rows = np.asarray(multihost_utils.process_allgather(row)).reshape(self.count, -1)
        return [r[:n].tobytes() for r, n in zip(rows, sizes, strict=True)]

    def first_says(self, value: Any) -> Any:
        """The first host's `value` (of what json can say). Called by all hosts."""
        if self.count == 1:
            return value
        return json.loads(self.gather(json.dumps(value if self.first else None).encode())[0])

    def any_says(self, value: bool) -> bool:
        """Whether `value` is true on any host. Called by all hosts."""
        return b"1" in self.gather(b"1" if value else b"0")


def row_bytes(largest: int) -> int:
    """What each host sends in a `gather` whose largest payload has so many bytes: a power of two,
    so that few programs serve all sizes."""
    return 1 << max(10, (largest - 1).bit_length())


def share_of(items: int, index: int, count: int) -> range:
    """The items of range(items) that are those of host `index` of `count`."""
    return range(items * index // count, items * (index + 1) // count)


def connect(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    timeout_seconds: int,
) -> None:
    """Makes this process one of several; called before anything else uses a device.

    Args:
      coordinator: "address:port" of the first process, or "auto": the environment says all three
        (TPU pod slices, GKE, Slurm, Open MPI). None: it stays alone.
      timeout_seconds: to wait for the other processes.

    Raises:
      CipoError: arguments that are not as above, or the environment says nothing. If the others do
        not come in time, the process ends with status 2.
    """
    ids = f"--num_processes, --process_id: got {num_processes} and {process_id}"
    if coordinator is None or coordinator == "auto":
        if num_processes is not None or process_id is not None:
            raise CipoError(f"{ids}; they need --coordinator=address:port: leave them out without")
        if coordinator is None:
            return
    elif not coordinator.rpartition(":")[2].isdecimal() or coordinator.startswith(":"):
        raise CipoError(f"--coordinator: got {coordinator!r}, wanted address:port, or auto")
    elif num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise CipoError(
            f"{ids}; with --coordinator=address:port every process needs both, the ids from 0"
        )

    def give_up() -> None:
        print(
            f"error: --coordinator={coordinator}: not all processes have met within "
            f"{timeout_seconds} s (--connect_timeout). Start the same command on every host, each "
            "with its own --process_id from 0 to --num_processes - 1. The coordinator is the "
            "address of process 0 as the others see it (not localhost), and its port must be open "
            "to them.",
            file=sys.stderr,
        )
        _exit(2)

    # Past its own timeout, JAX aborts the process with a stack trace: this comes before it.
    timer = threading.Timer(timeout_seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            None if coordinator == "auto" else coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout_seconds + 60,
        )
    except (ValueError, RuntimeError) as error:
        raise CipoError(f"--coordinator={coordinator}: {error}") from error
    finally:
        timer.cancel()


@contextlib.contextmanager
def open_hosts() -> Iterator[Hosts]:
    """The hosts of a run, watched as long as the context lasts unless JAX hides its key-value
    store; SIGTERM gives their notice.

    With several, only the first prints, and an exception ends this process here: the others are
    told the cause, and JAX's own exit would wait for them.
    """
    with notice_of_sigterm() as notice:
        hosts = Hosts(notice)
        if hosts.count == 1:
            yield hosts
            return
        with contextlib.ExitStack() as stack:
            watcher: Watcher | None = None
            store = _key_value_store()
            if store is not None:
                watcher = stack.enter_context(contextlib.closing(Watcher(hosts, store)))
            if not hosts.first:
                silence = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
            if watcher is None:
                print(_NOT_WATCHED, flush=True)
            try:
                yield hosts
            except Preempted:
                raise
            except BaseException as error:
                _end_all(hosts, watcher, error)


def _key_value_store() -> Any:
    """What JAX's coordinator keeps for all hosts; None where this version of JAX hides it."""
    try:
        from jax._src.distributed import global_state

        store = global_state.client
    except (ImportError, AttributeError):
        return None
    usable = hasattr(store, "key_value_set") and hasattr(store, "key_value_dir_get")
    return store if usable else None


def _end_all(hosts: Hosts, watcher: "Watcher | None", error: BaseException) -> None:
    """Ends this process because of `error`, and says why to the others."""
    # A host that dies takes the collectives of the others with it: its own report comes first.
    if watcher and hosts.failure is None and not isinstance(error, CipoError):
        watcher.wait_for_cause()
    if hosts.failure is not None:
        print(f"error: {hosts.failure}", file=sys.stderr)
    else:
        if not isinstance(error, CipoError):
            traceback.print_exception(error)
        cause = f"{error}" if isinstance(error, CipoError) else f"{type(error).__name__}: {error}"
        print(f"error: host {hosts.index}: {cause}", file=sys.stderr)
        if watcher:
            watcher.announce(cause)
    if watcher:
        watcher.leave()
    # 2: a mistake of the user's, which another start would only repeat.
    user_error = isinstance(error, CipoError) and not isinstance(error, HostFailure)
    _exit(2 if user_error and hosts.failure is None else 1)


def _exit(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # not sys.exit: JAX would wait minutes for the others at a barrier


class Watcher:
    """The thread of a host that looks after the others.

    Args:
      begin: starts the thread; False: the caller looks.
    """

    def __init__(self, hosts: Hosts, store: Any, begin: bool = True) -> None:
        self._hosts, self._store = hosts, store
        self._ended = threading.Event()
        self._beats: dict[int, tuple[str, float]] = {}  # host -> last sign of life, when it came
        self._looks, self._told = 0, False
        self._thread = threading.Thread(target=self._watch, name="hosts", daemon=True)
        if begin:
            self._thread.start()

    def close(self) -> None:
        self._put(_SIGNS, "ended", "")  # a host that has finished is not dead
        if self._hosts.first:
            self._put(_TOLD, "ended", "")
        self._ended.set()
        self._thread.join()

    def announce(self, cause: str) -> None:
        """Tells the others of a failure of this host."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._put(_TOLD, "failed", cause)

    def leave(self) -> None:
        """Before this process ends for a failure. The first host, which has the store, lets the
        others end before it, so that they can read the cause."""
        give_up = time.monotonic() + GRACE_SECONDS + 8 * WATCH_SECONDS
        # The store may have gone with the first host; JAX then ends this process.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._put(_SIGNS, "gone", "")
            while self._hosts.first and time.monotonic() < give_up:
                if len(self._read(_SIGNS)["gone"]) == self._hosts.count:
                    return
                time.sleep(WATCH_SECONDS / 2)

    def wait_for_cause(self) -> None:
        """Waits a moment for another host's failure to be known, or for its silence to show."""
        began = time.monotonic()
        while self._hosts.failure is None and time.monotonic() < began + 16 * WATCH_SECONDS:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._note_beats(self._read(_SIGNS), time.monotonic())
            time.sleep(WATCH_SECONDS / 2)
        if self._hosts.failure is None:
            # The last sign of a host that has just died may be read a moment after that.
            silent = self._silent_since(began + 4 * WATCH_SECONDS)
            if silent:
                self._hosts.failure = _describe_silent(silent)

    def look(self, now: float) -> bool:
        """Shows a sign of life, and reads what the others say.

        Args:
          now: of a clock in seconds, such as `time.monotonic`.

        Returns:
          whether the failure that is known now is this host's own.

        Raises:
          jax.errors.JaxRuntimeError: the first host is gone; JAX ends this process.
        """
        hosts = self._hosts
        self._looks += 1
        self._put(_TOLD if hosts.first else _SIGNS, "alive", str(self._looks))
        told = self._read(_TOLD)
        if told.get("preempted"):
            hosts.notice.give()
        elif hosts.notice.given and not self._told:
            self._put(_TOLD, "preempted", "")
            self._told = True
        self._note_beats(self._read(_SIGNS) if hosts.first else told, now)
        failures, silences = told.get("failed", {}), told.get("silent", {})
        silent = self._silent_since(now - SILENCE_SECONDS)
        if failures:
            host, cause = min(failures.items())
            hosts.failure = f"host {host} has failed, so the run ends: {cause}"
        elif silences:
            hosts.failure = silences[min(silences)]
        elif silent:
            hosts.failure = _describe_silent(silent)
            self._put(_TOLD, "silent", hosts.failure)
        return hosts.index in failures

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_SECONDS):
            try:
                own = self.look(time.monotonic())
            except jax.errors.JaxRuntimeError:
                continue  # the first host is gone; JAX ends this process
            if self._hosts.failure is not None:
                if own or self._ended.wait(GRACE_SECONDS):
                    return
                print(f"error: {self._hosts.failure}", file=sys.stderr)
                self.leave()
                _exit(1)

    def _note_beats(self, entries: dict[str, dict[int, str]], now: float) -> None:
        """Of the hosts in `entries`; on the first host also of those that have never shown one."""
        expected = range(1, self._hosts.count) if self._hosts.first else entries.get("alive", {})
        for host in set(expected) - {self._hosts.index}:
            beat = entries.get("alive", {}).get(host, "")
            if host in entries.get("ended", {}):
                self._beats.pop(host, None)
            elif host not in self._beats or self._beats[host][0] != beat:
                self._beats[host] = beat, now

    def _silent_since(self, moment: float) -> list[int]:
        return [host for host, (_, when) in list(self._beats.items()) if when < moment]

    def _put(self, place: str, kind: str, value: str) -> None:
        key = f"{place}{kind}/{self._hosts.index}"
        self._store.key_value_set(key, value, allow_overwrite=True)

    def _read(self, place: str) -> dict[str, dict[int, str]]:
        """{kind: {host: value}} of everything in that part of the store."""
        entries: dict[str, dict[int, str]] = {}
        for key, value in self._store.key_value_dir_get(place):
            kind, host = key.removeprefix(place).split("/")
            entries.setdefault(kind, {})[int(host)] = value
        return entries


def _describe_silent(silent: list[int]) -> str:
    names = ", ".join(map(str, sorted(silent)))
    return (
        f"host {names} has shown no sign of life: its process has died, or its network; see "
        "its own output. The same command on all hosts continues the run"
    )
