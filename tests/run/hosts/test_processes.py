"""Several processes, as on several hosts: real ones, on the CPU, with two devices each."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from places import TESTS

from cipo_jax.commands.verify_resume import differences
from cipo_jax.run.hosts import exchange
from cipo_jax.run.hosts import processes as hosts
from cipo_jax.run.hosts.preemption import EXIT_CODE, Preempted
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.watch.speed import MEASURED
from cipo_jax.types import CipoError, Completion, Outcome, Verdict

pytestmark = pytest.mark.slow  # every test starts processes

MAIN = ["-m", "cipo_jax.main"]
RUN = f"--config={TESTS / 'tiny_run.py'}"


def start(program: list[str], devices: int, *arguments: str) -> subprocess.Popen:
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return subprocess.Popen(
        [sys.executable, *program, RUN, *arguments],
        env=os.environ | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_hosts(workdir: Path, programs: list[list[str]], *options: str) -> list[tuple[int, str]]:
    """(exit status, stderr) of every process; none may outlive the time limit."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    together = [
        f"--workdir={workdir}",
        f"--coordinator=localhost:{port}",
        f"--num_processes={len(programs)}",
    ]
    processes = [
        start(program, 2, *together, f"--process_id={i}", *options)
        for i, program in enumerate(programs)
    ]
    try:
        errors = [p.communicate(timeout=150)[1] for p in processes]
    finally:
        for p in processes:
            p.kill()
    return [(p.returncode, e) for p, e in zip(processes, errors, strict=True)]


def stopping(by: str, place: str, count: int) -> list[str]:
    return [str(TESTS / "stopped_run.py"), by, place, str(count)]


def numbers(workdir: Path) -> dict[tuple, float]:
    """All metrics but times and those of one host's sampler."""
    return {
        (line["phase"], line["step"], name): value
        for line in read_metrics(workdir)
        for name, value in line.items()
        if isinstance(value, float) and not name.startswith((*MEASURED, "sampler/"))
    }


def texts(workdir: Path) -> list[tuple]:
    return [(r["phase"], r["step"], r["text"], r["outcome"]) for r in read_attempts(workdir)]


def require_equal(one: Path, other: Path) -> None:
    """The same run, up to the order in which devices add up."""
    assert texts(one) == texts(other)
    a, b = numbers(one), numbers(other)
    assert a.keys() == b.keys() and len(a) > 100
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two hosts with two devices each."""
    workdir = tmp_path_factory.mktemp("hosts") / "two"
    for status, error in run_hosts(workdir, [MAIN, MAIN]):
        assert status == 0, error
    return workdir


def test_two_hosts_do_what_one_does(two: Path, tmp_path: Path) -> None:
    one = start(MAIN, 4, f"--workdir={tmp_path}")
    assert one.wait(timeout=150) == 0, one.stderr and one.stderr.read()
    require_equal(two, tmp_path)


@pytest.mark.slow
@pytest.mark.long
def test_four_hosts_do_what_two_do(two: Path, tmp_path: Path) -> None:
    options = ["--config.batch.microbatch_rows=8"]  # a row for every device
    for status, error in run_hosts(tmp_path / "four", [MAIN] * 4, *options):
        assert status == 0, error
    require_equal(two, tmp_path / "four")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("mesh", "tensor"), [((2, 1, 2, 1), 1), ((1, 1, 2, 2), 0)])
def test_two_hosts_with_another_mesh(
    two: Path, tmp_path: Path, mesh: tuple[int, ...], tensor: int
) -> None:
    """With `tensor` = 1, each device has all weights while it samples."""
    axes = zip(("data", "fsdp", "tensor", "context"), mesh, strict=True)
    options = [f"--config.mesh.{axis}={size}" for axis, size in axes]
    options.append(f"--config.sampling.tensor={tensor}")
    for status, error in run_hosts(tmp_path / "run", [MAIN, MAIN], *options):
        assert status == 0, error
    require_equal(two, tmp_path / "run")


@pytest.mark.slow
def test_one_host_is_asked_to_end_and_both_do(two: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    programs = [MAIN, stopping("SIGTERM", "update", 2)]
    assert [status for status, _ in run_hosts(workdir, programs)] == [EXIT_CODE] * 2
    assert {r["step"] for r in read_metrics(workdir) if r["phase"] == "train"} == {1, 2}
    assert [status for status, _ in run_hosts(workdir, [MAIN, MAIN])] == [0, 0]
    assert differences(two, workdir) == []


@pytest.mark.slow
def test_a_checkpoint_of_two_hosts_is_continued_on_one(two: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    assert [s for s, _ in run_hosts(workdir, [MAIN, MAIN], "--config.num_steps=1")] == [0, 0]
    one = start(MAIN, 1, f"--workdir={workdir}", "--config.num_steps=3")
    assert one.wait(timeout=150) == 0, one.stderr and one.stderr.read()
    # It was told to stop after step 1, so it has an evaluation more.
    assert [t for t in texts(workdir) if t[:2] != ("eval", 1)] == texts(two)


def test_two_hosts_set_a_damaged_checkpoint_aside_together(two: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(two, workdir)
    [*_, file] = sorted((workdir / "checkpoints/step_3/params/ocdbt.process_1/d").iterdir())
    file.write_bytes(bytes(file.stat().st_size))
    for status, error in run_hosts(workdir, [MAIN, MAIN]):
        assert status == 0, error
    assert (workdir / "checkpoints" / "unreadable-step_3").is_dir()
    assert differences(two, workdir) == []  # step 3 was done again


@pytest.mark.parametrize("host", [1, pytest.param(0, marks=pytest.mark.long)])
def test_an_exception_on_one_host_ends_both_with_its_cause(tmp_path: Path, host: int) -> None:
    programs = [MAIN, MAIN]
    programs[host] = stopping("RAISE", "verifier", 12)
    began = time.monotonic()
    results = run_hosts(tmp_path / "run", programs)
    assert time.monotonic() - began < 90
    for status, error in results:
        assert status in (1, 2), error
        assert f"host {host}" in error and "the pool is broken" in error


# The command, in a version of JAX that hides the key-value store: then the hosts are not watched.
UNWATCHED = """
import runpy
import sys

from cipo_jax.run.hosts import processes

processes._key_value_store = lambda: None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.long
def test_without_a_store_one_host_is_asked_to_end_and_both_do(two: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    programs = [["-c", UNWATCHED, *stopping("SIGTERM", "update", count)] for count in (99, 2)]
    assert [status for status, _ in run_hosts(workdir, programs)] == [EXIT_CODE] * 2
    assert {r["step"] for r in read_metrics(workdir) if r["phase"] == "train"} == {1, 2}
    assert texts(workdir) == [t for t in texts(two) if t[1] < 3 and t[:2] != ("eval", 2)]


@pytest.mark.slow
def test_a_killed_host_ends_the_other(tmp_path: Path) -> None:
    killed, other = run_hosts(tmp_path / "run", [MAIN, stopping("SIGKILL", "sampling", 30)])[::-1]
    assert killed[0] == -signal.SIGKILL
    assert other[0] == 1
    assert "host 1 has shown no sign of life" in other[1]


def test_a_host_that_does_not_come(tmp_path: Path) -> None:
    alone = start(
        MAIN,
        2,
        f"--workdir={tmp_path / 'run'}",
        *["--coordinator=localhost:1", "--num_processes=2", "--process_id=1"],
        "--connect_timeout=1",
    )
    _, error = alone.communicate(timeout=60)
    assert alone.returncode == 2
    assert "not all processes have met within 1 s" in error and "--process_id from 0" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("coordinator", "count", "index", "message"),
    [
        ("somewhere", 2, 0, "wanted address:port"),
        (":1234", 2, 0, "wanted address:port"),
        ("a:1234", 2, None, "every process needs both"),
        ("a:1234", 2, 2, "every process needs both"),
        ("auto", 2, None, "leave them out"),
        (None, 2, None, "they need --coordinator=address:port"),
    ],
)
def test_wrong_flags(coordinator: str | None, count: int, index: int | None, message: str) -> None:
    with pytest.raises(CipoError, match=message):
        hosts.connect(coordinator, count, index, 1)


STATE = "jax._src.distributed.global_state"


@pytest.fixture(params=["no module", "no state", "no client", "client None", "another client"])
def hidden(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two hosts, where JAX has no store under its private name."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    match request.param:
        case "no module":
            monkeypatch.setitem(sys.modules, "jax._src.distributed", None)
        case "no state":
            monkeypatch.delattr(STATE)
        case "no client":
            monkeypatch.setattr(STATE, types.SimpleNamespace())
        case "client None":
            monkeypatch.setattr(STATE, types.SimpleNamespace(client=None))
        case "another client":
            monkeypatch.setattr(STATE, types.SimpleNamespace(client=object()))


def test_without_a_store_the_hosts_are_not_watched(
    hidden: None, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(Preempted), hosts.open_hosts() as opened:
        assert "hosts" not in {thread.name for thread in threading.enumerate()}
        opened.poll()
        os.kill(os.getpid(), signal.SIGTERM)
        opened.poll()
    line = capsys.readouterr().out
    assert line.startswith("hosts    not watched") and line.count("\n") == 1
    assert "JAX ends the others after its own timeout" in line


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("out of luck"), 1, "error: host 0: RuntimeError: out of luck\n"),
        (CipoError("a key is wrong"), 2, "error: host 0: a key is wrong\n"),
    ],
)
def test_without_a_store_an_error_ends_this_host(
    hidden: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    error: Exception,
    status: int,
    message: str,
) -> None:
    monkeypatch.setattr(hosts, "_exit", sys.exit)
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended, hosts.open_hosts():
        raise error
    assert ended.value.code == status
    assert capsys.readouterr().err.endswith(message)
    assert time.monotonic() - began < 1  # there is nobody to wait for


def test_without_a_store_only_the_first_host_says_so(
    hidden: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with hosts.open_hosts():
        pass
    assert capsys.readouterr().out == ""


def judged() -> list[exchange.Judged]:
    verdicts = [
        Verdict(Outcome.WRONG, "7", "not 8 \u2260", 0.25, 0.5),
        Verdict(Outcome.TIMEOUT, None, "", 1e-9, None),
        Verdict(Outcome.CORRECT),
    ]
    lengths = (3, 0, 1)
    logprobs = [np.array([-0.1, -np.inf, np.nan][:n], np.float32) for n in lengths]
    return [
        (Completion(np.arange(n, dtype=np.int32), p, n == 3), "a\ud800\x00" * n, v)
        for n, p, v in zip(lengths, logprobs, verdicts, strict=True)
    ]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_attempts_survive_the_exchange(count: int) -> None:
    sent = judged()[:count]
    received = exchange.decode(exchange.encode(sent))
    assert len(received) == count
    for (c1, text1, verdict1), (c2, text2, verdict2) in zip(sent, received, strict=True):
        assert (text1, verdict1, c1.finished) == (text2, verdict2, c2.finished)
        for a, b in ((c1.tokens, c2.tokens), (c1.logprobs, c2.logprobs)):
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_shares_are_all_there_is() -> None:
    for count in (1, 2, 3, 5):
        for items in (0, 1, 4, 7):
            shares = []
            for index in range(count):
                host = hosts.Hosts()
                host.count, host.index = count, index
                shares.append(host.share(items))
            assert [i for share in shares for i in share] == list(range(items))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_abandoned_work_is_not_exchanged() -> None:
    host = hosts.Hosts()
    with pytest.raises(Preempted):
        exchange.exchange(host, None)
    assert host.notice.given
