"""Judges programs by running them against tests, in a sandbox.

This file decides which verdict a program gets. Where programs run is decided in
`verifiers/sandbox/layers.py`, what counts as the program in `program.py`, and when an output is
right in `compare.py`.

A test specification (`Problem.tests`) is one of

    {"type": "check_fn", "code": ..., "call": "check(name)"}       the question is a function head
    {"type": "assert", "asserts": [...], "preamble": ..., "setup": ..., "challenge_asserts": [...]}
    {"type": "stdin", "cases": [{"input": ..., "output": ...}], "compare": ..., "tolerance": ...}
    {"type": "call", "entry_point": ..., "cases": [{"input": [...], "output": ...}], "tolerance": .}

each optionally with "entry_point", "time_limit" (seconds a test), "total_time_limit" and
"memory_limit_bytes".

Only right answers can make a program right. stdin and call tests compare here, on data. Tests that
are Python statements run in a second sandbox, which calls the program's functions over a channel:
the program's process holds neither tests nor expected values, and the tests' process none of the
program's objects (see `verifiers/sandbox/values.py`). Its reports carry a secret of this run.
"""

import contextlib
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from cipo_jax.types import CipoError, Outcome, Problem, Verdict
from cipo_jax.verifiers.code import compare as code_compare
from cipo_jax.verifiers.code import program as code_program
from cipo_jax.verifiers.sandbox import values as code_values
from cipo_jax.verifiers.sandbox.launch import Limits, Sandbox, Sandboxed, SandboxError

TIME_LIMIT = 6.0  # seconds a test
TOTAL_TIME_LIMIT = 30.0  # seconds a program
_LOAD_SECONDS = 10.0  # for a program to define its functions
_KINDS: dict[str, dict[str, type]] = {
    "check_fn": {"code": str, "call": str},
    "assert": {"asserts": list},
    "stdin": {"cases": list},
    "call": {"cases": list},
}


def verify_code(
    problem: Problem, text: str, *, sandbox: Sandbox, partial_credit: bool = False
) -> Verdict:
    """Judges the program in the completion `text` against `problem.tests`.

    With `partial_credit` all tests are run and `score` is the share that passed; the outcome is
    CORRECT only if all do. `detail` says which test failed first and how, never what was expected.
    `extracted` is the program. ERROR means that tests or sandbox failed; the caller fills in
    `seconds`.

    Raises:
      CipoError: the test specification is malformed.
    """
    tests = _checked(problem)
    programs = code_program.readings(problem, text)
    if programs is None:
        return Verdict(Outcome.NO_ANSWER, detail="no program in the completion")
    shown = code_program.extract_program(problem, text)
    if len(programs[0][-1]) > code_program.MAX_PROGRAM_CHARS:
        detail = f"a program of more than {code_program.MAX_PROGRAM_CHARS:,} characters"
        return Verdict(Outcome.WRONG, shown, detail)
    run = _Run(problem, tests, sandbox, partial_credit)
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
        self, problem: Problem, tests: Mapping[str, Any], sandbox: Sandbox, all_tests: bool
    ):
        self._problem, self._tests, self._sandbox = problem, tests, sandbox
        self.all_tests = all_tests
        self._seconds = float(tests.get("time_limit", TIME_LIMIT))
        self._total_seconds = float(tests.get("total_time_limit", TOTAL_TIME_LIMIT))
        self._end = time.monotonic() + self._total_seconds
        self._limits = Limits(
            cpu_seconds=int(self._total_seconds) + 1,
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
        judge = code_compare.find_judge(self._tests.get("compare", "token"), self._tolerance())
        job = self._job("cases", programs)
        with self._sandbox.start(job, self._limits) as process:
            self._expect_ready(process)
            for case in self._tests["cases"]:
                seconds = min(self._seconds, self._end - time.monotonic())
                if seconds <= 0:
                    yield self._timeout()
                    return
                process.send({"input": case["input"], "seconds": seconds})
                try:
                    answer = process.receive(time.monotonic() + seconds + 5)
                except TimeoutError:
                    yield self._timeout()
                    return
                if answer is None:
                    raise SandboxError("it ended between two tests")
                if answer["timed_out"]:
                    yield self._timeout()
                elif answer["status"]:
                    yield Outcome.WRONG, _ending(answer["status"], answer["errors"])
                elif judge(case["input"], case["output"], answer["output"]):
                    yield Outcome.CORRECT, ""
                else:
                    yield Outcome.WRONG, "other output"

    def calls(self, programs: list[code_program.Reading]) -> Iterator[_Result]:
        """call tests: the program is loaded once, its function called for each."""
        job = self._job("functions", programs)
        name = code_program.entry_point(self._problem)
        with self._sandbox.start(job, self._limits) as process:
            try:
                if failure := _raised(process.receive(self._deadline(_LOAD_SECONDS))):
                    yield Outcome.WRONG, failure
                    return
                for case in self._tests["cases"]:
                    yield self._call_result(process, name, case)
            except TimeoutError:
                yield self._timeout()
            except (OSError, EOFError):
                yield Outcome.WRONG, "the program ended"

    def _call_result(self, process: Sandboxed, name: str, case: Mapping[str, Any]) -> _Result:
        deadline = self._deadline(self._seconds)
        arguments = [code_values.encode(argument) for argument in case["input"]]
        process.send(["ask", "call global", [name, arguments]])
        reply = process.receive(deadline)
        if failure := _raised(reply):
            return Outcome.WRONG, failure
        try:
            value = code_values.decode(reply[1])
            same = code_compare.same_value(case["output"], value, self._tolerance())
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
                program = self._job("functions", programs)
                stack.enter_context(self._sandbox.start(program, self._limits, ends[0]))
                job |= {"role": "tests", "secret": secret, "all": self.all_tests}
                judge = stack.enter_context(self._sandbox.start(job, self._limits, ends[1]))
            try:
                yield from self._reports(judge, job["tests"], secret)
            except TimeoutError:
                yield self._timeout()

    def _reports(self, judge: Sandboxed, units: list[str], secret: str) -> Iterator[_Result]:
        """What the tests' process says, as results."""
        report = self._report(judge, secret, _LOAD_SECONDS)
        if "broken" in report:
            raise SandboxError(report["broken"])
        if report.get("load"):
            yield Outcome.WRONG, report["load"]
            return
        for unit in units:
            report = self._report(judge, secret, self._seconds)
            if report["passed"]:
                yield Outcome.CORRECT, ""
                continue
            where, line = "", report.get("line")
            if self._tests["type"] == "check_fn" and line is not None:
                number = code_program.assert_number(unit, line)
                where = "" if number is None else f" at assert {number}"
            yield Outcome.WRONG, report["reason"] + where

    def _report(self, judge: Sandboxed, secret: str, seconds: float) -> dict[str, Any]:
        report = judge.receive(self._deadline(seconds))
        if not isinstance(report, dict):
            return {"load": "the tests ended", "passed": False, "reason": "the tests ended"}
        if "failed" in report:
            raise SandboxError(report["failed"])
        if not secrets.compare_digest(str(report.get("secret")), secret):
            raise SandboxError("a report without the secret")
        return report

    def _expect_ready(self, process: Sandboxed) -> None:
        try:
            ready = process.receive(time.monotonic() + _LOAD_SECONDS)
        except TimeoutError:
            ready = None
        if not isinstance(ready, dict) or "ready" not in ready:
            raise SandboxError(f"it did not start: {ready}")

    def _deadline(self, seconds: float) -> float:
        return min(time.monotonic() + seconds, self._end)

    def _timeout(self) -> _Result:
        if time.monotonic() >= self._end:
            return Outcome.TIMEOUT, f"killed after {self._total_seconds:g} s for all tests"
        return Outcome.TIMEOUT, f"killed after {self._seconds:g} s"

    def _tolerance(self) -> float:
        return float(self._tests.get("tolerance", code_compare.DEFAULT_TOLERANCE))


def _raised(reply: Any) -> str | None:
    """Why `reply` is not a value; None if it is one. Raises EOFError if there is no reply."""
    if not isinstance(reply, list) or len(reply) != 3 or reply[0] not in ("value", "raise"):
        if isinstance(reply, dict) and "failed" in reply:
            raise SandboxError(str(reply["failed"]))
        raise EOFError
    return None if reply[0] == "value" else f"{str(reply[1])[:100]}: {str(reply[2])[:300]}"


def _ending(status: int, errors: str) -> str:
    last = errors.strip().rpartition("\n")[2][:200]
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{how}: {last}" if last else how


def _checked(problem: Problem) -> Mapping[str, Any]:
    """The test specification, of the right shape."""
    tests = problem.tests
    if not isinstance(tests, Mapping) or tests.get("type") not in _KINDS:
        got = tests.get("type") if isinstance(tests, Mapping) else tests
        wanted = ", ".join(_KINDS)
        raise CipoError(f"problem {problem.id!r}: tests.type: got {got!r}, wanted one of {wanted}")
    for field, kind in _KINDS[tests["type"]].items():
        if not isinstance(tests.get(field), kind) or not tests[field]:
            raise CipoError(
                f"problem {problem.id!r}: tests.{field}: got {tests.get(field)!r:.80}, "
                f"wanted a non-empty {kind.__name__}"
            )
    wanted_input = str if tests["type"] == "stdin" else list
    for case in tests.get("cases", ()):
        if not isinstance(case.get("input"), wanted_input) or "output" not in case:
            raise CipoError(
                f"problem {problem.id!r}: tests.cases: got {case!r:.80}, wanted an input "
                f"({'text' if wanted_input is str else 'a list of arguments'}) and an output"
            )
    return tests
