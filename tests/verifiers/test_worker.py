"""Whatever a verifier does becomes one verdict, and no worker outlives the pool's process."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from places import TESTS
from processes import wait_until_gone

from cipo_jax.types import CipoError, Outcome, Problem
from cipo_jax.verifiers.pool import VerifierPool

OBEY = "misbehaving_verifiers:obey"
PROBLEM = Problem(id="p", question="?", answer="yes", meta={"level": 1})


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(OBEY, workers=1, timeout_seconds=1.0, stand_ins=0) as shared:
        yield shared


@pytest.mark.parametrize(
    ("text", "outcome", "detail"),
    [
        ("yes", Outcome.CORRECT, ""),
        ("no", Outcome.WRONG, ""),
        ("numpy", Outcome.CORRECT, ""),
        ("score 1", Outcome.CORRECT, "score 1"),
        ("score 0.25", Outcome.WRONG, "score 0.25"),
        ("score 2", Outcome.ERROR, "wanted Verdict, bool, or a score"),
        ("score nan", Outcome.ERROR, "wanted Verdict, bool, or a score"),
        ("none", Outcome.ERROR, "returned str no verdict"),
        ("contradiction", Outcome.ERROR, "returned wrong with score 1"),
        ("raise", Outcome.ERROR, "ZeroDivisionError: division by zero"),
        ("sys.exit", Outcome.ERROR, "SystemExit"),
        ("allocate 3000000000", Outcome.ERROR, "MemoryError"),
        ("print", Outcome.CORRECT, ""),
        ("yes\x00\ud800", Outcome.WRONG, ""),
        ("yes" * 2_000_000, Outcome.WRONG, ""),
    ],
    ids=lambda value: str(value)[:12].encode("ascii", "replace").decode(),
)
def test_what_the_verifier_does_becomes_a_verdict(pool, text, outcome, detail):
    before = pool.stats()
    verdict = pool.submit(PROBLEM, text).result()
    assert verdict.outcome is outcome
    assert detail in verdict.detail
    assert pool.submit(PROBLEM, "yes").result().correct  # the answers stay in step
    assert pool.stats()["restarts"] == before["restarts"]


def test_prints_go_to_stderr_only(capfd):
    with VerifierPool(OBEY, workers=1, timeout_seconds=5.0) as pool:
        assert pool.submit(PROBLEM, "print").result().correct
    printed = capfd.readouterr()
    assert printed.out == ""
    assert '{"outcome": "correct"}' in printed.err


def test_long_fields_are_cut(pool):
    verdict = pool.submit(PROBLEM, "huge").result()
    assert verdict.outcome is Outcome.WRONG
    assert len(verdict.extracted) == 1_000
    assert len(verdict.detail) == 500


def test_the_worker_has_no_accelerator_runtime(pool):
    modules = (pool.submit(PROBLEM, "modules").result().extracted or "").split()
    assert "cipo_jax" in modules
    assert not {"jax", "jaxlib", "tensorflow", "torch", "flax"} & set(modules)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("maths", "'maths' cannot be used.*not one of \\['auto', 'code', 'math'\\]"),
        ("no_such_module:verify", "No module named 'no_such_module'"),
        ("misbehaving_verifiers:no_such", "has no attribute 'no_such'"),
        ("misbehaving_verifiers:not_callable", "is not callable"),
        ("misbehaving_verifiers:one_argument", "cannot be called with \\(problem, text\\)"),
        ("no_such_file.py:verify", "No such file.*no_such_file.py"),
    ],
)
def test_a_verifier_that_cannot_be_loaded_is_refused(kind, message):
    with pytest.raises(CipoError, match="(?s)" + message):
        VerifierPool(kind, workers=2, timeout_seconds=1.0)


@pytest.mark.slow
def test_extraction_rules_reach_the_workers():
    problem = Problem("p", "?", "3")
    text = "#### 3\n\\boxed{4}, then 5"
    for rules, extracted in ((("hashes", "boxed"), "3"), (["last_number"], "5")):
        with VerifierPool("math", workers=1, timeout_seconds=5.0, extraction=rules) as pool:
            verdict = pool.submit(problem, text).result()
        assert (verdict.extracted, verdict.correct) == (extracted, extracted == "3")
    with pytest.raises(CipoError, match=r"extraction: got \['box'\], wanted some of boxed, "):
        VerifierPool("math", workers=1, timeout_seconds=5.0, extraction=["box"])


def test_an_own_verifier_may_be_a_file(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("LIMIT = 3\n")
    (tmp_path / "math.py").write_text(  # a name that is taken
        "import dataclasses\n"
        "from beside import LIMIT\n"
        "@dataclasses.dataclass\n"
        "class Judge:\n"
        "    limit: int\n"
        "    def __call__(self, problem, text): return len(text) <= self.limit\n"
        "judge = Judge(LIMIT)\n"
    )
    monkeypatch.chdir(tmp_path)
    with VerifierPool("math.py:judge", workers=1, timeout_seconds=5.0, recycle_after=1) as pool:
        assert pool.submit(PROBLEM, "yes").result().correct
        monkeypatch.chdir("/")  # the next worker still finds it
        assert pool.submit(PROBLEM, "no, no").result().outcome is Outcome.WRONG


PARENT = textwrap.dedent(
    """
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
    sys.path.insert(0, {here!r})
    from cipo_jax.types import Problem
    from cipo_jax.verifiers.pool import VerifierPool

    problem = Problem("p", "?", "yes")
    pool = VerifierPool({kind!r}, workers=2, timeout_seconds=600.0)
    pids = set()
    while len(pids) < 2:
        both = [pool.submit(problem, "pid"), pool.submit(problem, "pid")]
        pids |= {{int(future.result().extracted) for future in both}}
    pool.submit(problem, "hang")  # one worker hangs, the other is idle
    time.sleep(0.1)
    print(*pids, flush=True)
    {ending}
    """
)


@pytest.mark.parametrize(
    ("ending", "signal_number", "status"),
    [
        ("time.sleep(600)", signal.SIGKILL, -signal.SIGKILL),
        ("time.sleep(600)", signal.SIGTERM, -signal.SIGTERM),
        ("time.sleep(600)", signal.SIGINT, -signal.SIGINT),
        ("raise RuntimeError('on purpose')", None, 1),
        ("", None, 0),
        ("import os; os._exit(7)", None, 7),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGINT", "exception", "plain end", "os._exit"],
)
def test_no_worker_outlives_the_process(ending, signal_number, status):
    script = PARENT.format(here=str(TESTS), kind=OBEY, ending=ending)
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    if signal_number is not None:
        parent.send_signal(signal_number)
    assert parent.wait(timeout=60) == status
    assert all(wait_until_gone(pid) for pid in pids)
