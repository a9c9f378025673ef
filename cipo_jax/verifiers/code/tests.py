"""Judges programs by running them against tests, in a sandbox.

This file decides which verdict a program gets. Where programs run is decided in
`verifiers/sandbox/layers.py`, what counts as the program in `program.py`, and when an output is
right in `compare.py`.

A test specification (`Problem.tests`) is one of

    {"type": "check_fn", "code": ..., "call": "check(name)"}       the question is a function head
    {"type": "assert", "asserts": [...], "preamble": ..., "setup": ..., "challenge_asserts": [...]}
    {"type": "stdin", "cases": [{"input": ..., "output": ...}], "compare": ..., "tolerance": ...}
    {"type": "call", "entry_point": ..., "cases": [{"input": [...], "output": ...}], "compare": ...,
     "tolerance": ...}

each optionally with "entry_point", "time_limit" (seconds a test), "total_time_limit" and
"memory_limit_bytes". What counts as a program's time is decided in `clock.py`, which specifications
are refused in `specification.py`.

Only right answers can make a program right. stdin and call tests compare here, on data. Tests that
are Python statements run in a second sandbox, which calls the program's functions over a channel:
the program's process holds neither tests nor expected values, and the tests' process none of the
program's objects (see `verifiers/sandbox/peer.py`). Its reports carry a secret of this run.
"""

import contextlib
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from cipo_jax.types import Outcome, Problem, Verdict
from cipo_jax.verifiers import messages
from cipo_jax.verifiers.code import compare as code_compare
from cipo_jax.verifiers.code import program as code_program
from cipo_jax.verifiers.code.clock import WALL_TIMES, Clock, sender_of
from cipo_jax.verifiers.code.specification import find_judge, with_checked_tests
from cipo_jax.verifiers.sandbox import peer as code_peer
from cipo_jax.verifiers.sandbox import values as code_values
from cipo_jax.verifiers.sandbox.launch import (
    START_SECONDS,
    Limits,
    Sandbox,
    Sandboxed,
    SandboxError,
)

TIME_LIMIT = 6.0  # seconds a test
TOTAL_TIME_LIMIT = 30.0  # seconds a program
_LOAD_SECONDS = 10.0  # for a program to define its functions
_STOP_SECONDS = 5.0  # for the process that runs a program to kill it


def verify_code(
    problem: Problem,
    text: str,
    *,
    sandbox: Sandbox,
    partial_credit: bool = False,
    total_seconds: float = TOTAL_TIME_LIMIT,
) -> Verdict:
    """Judges the program in the completion `text` against `problem.tests`.

    With `partial_credit` all tests are run and `score` is the share that passed; the outcome is
    CORRECT only if all do. `detail` says which test failed first and how, never what was expected.
    `extracted` is the program. ERROR means that tests or sandbox failed; the caller fills in
    `seconds`. `total_seconds` limits all tests together where the problem does not.

    Raises:
      CipoError: the test specification is malformed.
    """
    problem = with_checked_tests(problem)
    tests = problem.tests or {}
    programs = code_program.readings(problem, text)
    if programs is None:
        return Verdict(Outcome.NO_ANSWER, detail="no program in the completion")
    shown = code_program.extract_program(problem, text)
    if len(programs[0][-1]) > code_program.MAX_PROGRAM_CHARS:
        detail = f"a program of more than {code_program.MAX_PROGRAM_CHARS:,} characters"
        return Verdict(Outcome.WRONG, shown, detail)
    run = _Run(problem, tests, sandbox, partial_credit, total_seconds)
    try:
        ways = {"stdin": run.cases, "call": run.calls}
        results = ways.get(tests["type"], run.statements)(programs)
        outcome, passed, total, detail = _tally(results, run)
    except SandboxError as error:
        return Verdict(Outcome.ERROR, shown, f"sandbox: {error}")
    score = passed / total if partial_credit and outcome is not Outcome.ERROR else None
    return Verdict(outcome, shown, detail, score=score)


_Result = tuple[Outcome, str]  # of one test, in order; a failure with its reason


def _tally(results: Iterator[_Result], run: "_Run") -> tuple[Outcome, int, int, str]:
    """Outcome, tests passed, tests in all, and the first failure."""
    passed, first = 0, None
    with contextlib.closing(results):  # type: ignore[type-var]
        for index, (outcome, reason) in enumerate(results):
            if outcome is Outcome.CORRECT:
                passed += 1
                continue
            first = first or (outcome, f"{run.name_of(index)} failed: {reason}")
            if not run.all_tests:
                break
    if first is not None:
        return first[0], passed, run.total, first[1]
    if passed != run.total:
        return Outcome.ERROR, passed, run.total, f"{run.total - passed} tests gave no result"
    return Outcome.CORRECT, passed, run.total, ""


class _Run:
    """One program's tests: limits, and the three ways to run them."""

    def __init__(
        self,
        problem: Problem,
        tests: Mapping[str, Any],
        sandbox: Sandbox,
        all_tests: bool,
        total_seconds: float,
    ):
        self._problem, self._tests, self._sandbox = problem, tests, sandbox
        self.all_tests = all_tests
        self._seconds = float(tests.get("time_limit", TIME_LIMIT))
        self._clock = Clock(float(tests.get("total_time_limit", total_seconds)))
        self._limits = Limits(
            cpu_seconds=int(self._clock.total_seconds) + 1,
            memory_bytes=int(tests.get("memory_limit_bytes", Limits.memory_bytes)),
        )
        self.total = len(tests.get("cases", ())) or 1

    def _job(self, role: str, programs: list[code_program.Reading]) -> dict[str, Any]:
        contest = code_program.needs_imports(self._problem, programs)
        return {"role": role, "programs": programs, "contest": contest}

    def name_of(self, index: int) -> str:
        return f"{self._tests['type']} test {index} of {self.total}"

    def cases(self, programs: list[code_program.Reading]) -> Iterator[_Result]:
        """stdin tests: one run of the program for each."""
        judge = find_judge(self._tests)
        job = self._job("cases", programs)
        with self._sandbox.start(job, self._limits) as process:
            if "ready" not in self._expect(process):
                raise SandboxError("it did not start")
            self._clock.restart()
            has_started = False
            for case in self._tests["cases"]:
                if self._clock.is_over:
                    yield self._timeout()
                    return
                try:
                    process.send({"input": case["input"]})
                    answer = self._receive(process, self._seconds)
                    if isinstance(answer, dict) and "started" in answer:
                        has_started = True
                        answer = self._receive(process, self._seconds)
                except TimeoutError:
                    yield self._timeout()
                    if not self._stop_run(process):
                        return
                    continue
                except OSError:  # as if it had answered nothing
                    answer = None
                if not has_started:
                    raise SandboxError(f"it did not start: {answer}")
                if not isinstance(answer, dict) or "status" not in answer:
                    yield Outcome.WRONG, "the program ended the process that runs it"
                    return
                yield self._case_result(judge, case, answer)

    def _stop_run(self, process: Sandboxed) -> bool:
        """Ends the run of a program that is past its time. False: the sandbox is of no more use."""
        try:
            process.send({"stop": True})
            answer = process.receive(time.monotonic() + _STOP_SECONDS)
            if isinstance(answer, dict) and "started" in answer:
                answer = process.receive(time.monotonic() + _STOP_SECONDS)
        except OSError:
            return False
        return isinstance(answer, dict) and "status" in answer

    def _case_result(self, judge: Any, case: Mapping[str, str], answer: Any) -> _Result:
        if answer["status"]:
            return Outcome.WRONG, _ending(answer["status"], answer["errors"])
        try:
            is_right = judge(case["input"], case["output"], answer["output"])
        except MemoryError:
            return Outcome.WRONG, "more output than can be compared"
        return (Outcome.CORRECT, "") if is_right else (Outcome.WRONG, "other output")

    def calls(self, programs: list[code_program.Reading]) -> Iterator[_Result]:
        """call tests: the program is loaded once, its function called for each."""
        judge = find_judge(self._tests)
        job = self._job("functions", programs)
        name = code_program.entry_point(self._problem)
        with self._sandbox.start(job, self._limits) as process:
            self._expect_started(process)
            try:
                if failure := _raised(self._receive(process, _LOAD_SECONDS)):
                    yield Outcome.WRONG, failure
                    return
                for case in self._tests["cases"]:
                    yield self._call_result(process, name, case, judge)
            except TimeoutError:
                yield self._timeout()
            except (OSError, EOFError):
                yield Outcome.WRONG, "the program ended"

    def _call_result(
        self,
        process: Sandboxed,
        name: str,
        case: Mapping[str, Any],
        judge: code_compare.ValueJudge,
    ) -> _Result:
        arguments = [code_values.encode(argument) for argument in case["input"]]
        process.send(["ask", "call global", [name, arguments]])
        reply = self._receive(process, self._seconds)
        if failure := _raised(reply):
            return Outcome.WRONG, failure
        try:
            value = code_values.decode(reply[1])
            same = judge(case["output"], value)
        except Exception:  # not a plain value, so not the expected one
            return Outcome.WRONG, "the function returned no plain data"
        return (Outcome.CORRECT, "") if same else (Outcome.WRONG, "another value")

    def statements(self, programs: list[code_program.Reading]) -> Iterator[_Result]:
        """assert and check_fn tests: the statements run in a sandbox of their own."""
        job, around = code_program.tests_job(self._problem)
        secret = secrets.token_hex(16)
        self.total = len(job["tests"])
        programs = [[around["before"], *parts, around["after"]] for parts in programs]
        ends = socket.socketpair()
        with contextlib.ExitStack() as stack:
            with ends[0], ends[1]:  # only the sandboxes keep them
                role = self._job("functions", programs)
                program = stack.enter_context(self._sandbox.start(role, self._limits, ends[0]))
                job |= {"role": "tests", "secret": secret, "all": self.all_tests}
                judge = stack.enter_context(self._sandbox.start(job, self._limits, ends[1]))
            self._expect_started(program)
            try:
                yield from self._reports(judge, job["tests"], secret)
            except TimeoutError:
                yield self._timeout()

    def _reports(self, judge: Sandboxed, units: list[str], secret: str) -> Iterator[_Result]:
        """What the tests' process says, as results."""
        report = self._expect(judge)
        if "broken" in report:
            raise SandboxError(_without_module(report["broken"]))
        report = self._report(judge, secret, _LOAD_SECONDS)
        if report.get("load"):
            yield Outcome.WRONG, _without_module(report["load"])
            return
        for unit in units:
            report = self._report(judge, secret, self._seconds)
            if "broken" in report:
                raise SandboxError(_without_module(report["broken"]))
            if report["passed"]:
                yield Outcome.CORRECT, ""
                continue
            where, line = "", report.get("line")
            if self._tests["type"] == "check_fn" and line is not None:
                number = code_program.assert_number(unit, line)
                where = "" if number is None else f" at assert {number}"
            yield Outcome.WRONG, _without_module(report["reason"]) + where

    def _report(self, judge: Sandboxed, secret: str, seconds: float) -> dict[str, Any]:
        report = self._receive(judge, seconds)
        is_one = isinstance(report, dict) and {"load", "passed", "broken"} & report.keys()
        if not is_one or not secrets.compare_digest(str(report.get("secret")), secret):
            return {"load": "the tests ended", "passed": False, "reason": "the tests ended"}
        return report

    def _expect(self, process: Sandboxed) -> dict[str, Any]:
        """The first message of a sandbox, sent before anything that is not trusted runs there."""
        deadline = time.monotonic() + START_SECONDS
        message = None
        if messages.is_readable(process.channel, deadline):
            self._clock.watch(sender_of(process.channel))
            with contextlib.suppress(TimeoutError):
                message = process.receive(deadline)
        if not isinstance(message, dict) or "failed" in message:
            raise SandboxError(f"it did not start: {message and message.get('failed')}")
        return message

    def _expect_started(self, process: Sandboxed) -> None:
        if "started" not in self._expect(process):
            raise SandboxError("it did not start")
        self._clock.restart()

    def _receive(self, process: Sandboxed, seconds: float) -> Any:
        """The next message; None if there is none or it is none.

        Raises:
          TimeoutError: the program has used so many seconds more, or all that it may.
        """
        clock = self._clock
        end, wall_end = clock.used() + seconds, time.monotonic() + WALL_TIMES * seconds
        while True:
            now = time.monotonic()
            left = min(end, clock.total_seconds) - clock.used()
            if left <= 0 or clock.is_over or now >= wall_end:
                raise TimeoutError
            if messages.is_readable(process.channel, now + max(left, 1e-2)):
                clock.watch(sender_of(process.channel))
                try:
                    return process.receive(now + left + _STOP_SECONDS)
                except MemoryError:
                    return None

    def _timeout(self) -> _Result:
        if self._clock.is_over:
            return Outcome.TIMEOUT, f"killed after {self._clock.total_seconds:g} s for all tests"
        return Outcome.TIMEOUT, f"killed after {self._seconds:g} s"


def _raised(reply: Any) -> str | None:
    """Why `reply` is not a value; None if it is one. Raises EOFError if there is no reply."""
    if not isinstance(reply, list) or len(reply) not in code_peer.SIZES.values():
        raise EOFError
    if reply[0] == "value" and len(reply) == code_peer.SIZES["value"]:
        return None
    if reply[0] != "raise" or not all(isinstance(part, str) for part in reply[:3]):
        raise EOFError
    return _without_module(f"{reply[1][:100]}: {reply[2][:300]}")


def _without_module(failure: str) -> str:
    """The failure; of an import that failed, what it means here."""
    return re.sub(
        r"No module named '([\w.]+)'", r"module \1 is not available in the sandbox", failure
    )


def _ending(status: int, errors: str) -> str:
    last = errors.strip().rpartition("\n")[2][:200]
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return _without_module(f"{how}: {last}") if last else how
