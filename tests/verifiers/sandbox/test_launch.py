"""Each sandbox is new, and starting one leaves nothing behind on the machine."""

import os
import resource
import sys
import tempfile
import threading
from pathlib import Path

from attacks import HONEST, HONEST_STDIN, TESTS, judge_and_go_on

from cipo_jax.types import Outcome
from cipo_jax.verifiers.sandbox import launch


def test_the_process_group_is_its_own(sandbox):
    """Signals to a group cross pid namespaces; a group from outside has number 0 within."""
    program = "import os\ndef double(n): return n + n if os.getpgrp() and os.getsid(0) else 0"
    assert judge_and_go_on(sandbox, "call", program).outcome is Outcome.CORRECT


def test_scratch_is_new_for_each_program(sandbox):
    write = "open('/tmp/left', 'w').write('x')\ndef double(n): return n + n"
    read = "text = open('/tmp/left').read()\ndef double(n): return n + n"
    assert judge_and_go_on(sandbox, "call", write).outcome is Outcome.CORRECT
    assert "FileNotFoundError" in judge_and_go_on(sandbox, "call", read).detail


def test_the_host_is_as_it_was(any_sandbox, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU)]
    mounts, environment = Path("/proc/self/mounts").read_text(), dict(os.environ)
    threads = threading.active_count()
    judge_and_go_on(
        any_sandbox, "call", "import os\nos.chdir('/')\nos.environ['X'] = '1'\n" + HONEST
    )
    assert limits == [resource.getrlimit(k) for k in (resource.RLIMIT_AS, resource.RLIMIT_CPU)]
    assert mounts == Path("/proc/self/mounts").read_text()
    assert environment == dict(os.environ)
    assert not os.listdir(tmp_path)
    assert threads == threading.active_count()


def test_descriptors_do_not_leak(best):
    judge_and_go_on(best, "assert", HONEST)
    before = len(os.listdir("/proc/self/fd"))
    for kind in TESTS:
        judge_and_go_on(best, kind, HONEST_STDIN if kind == "stdin" else HONEST)
        judge_and_go_on(best, kind, "import os; os._exit(0)")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_interpreter_is_found_without_the_private_name(monkeypatch) -> None:
    monkeypatch.delattr(sys, "_base_executable")
    assert launch._interpreter() == os.path.realpath(sys.executable)
