"""Throughput and resilience of the verifier pool on this machine.

    python benchmarks/verifiers.py            # under three minutes
    python benchmarks/verifiers.py --full     # the sizes of the requirements, with real time limits

Every number is a median over repetitions, but for the two long runs at the end. A ratio compares
two measurements of the same machine and minute, so it holds on a busy machine too.
"""

import argparse
import os
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cipo_jax.types import Outcome, Problem
from cipo_jax.verifiers.code_tests import verify_code
from cipo_jax.verifiers.pool import VerifierPool
from cipo_jax.verifiers.sandbox import Limits, describe, open_sandbox

EASY = [(Problem(str(i), "?", str(i)), rf"So it is \boxed{{{i}}}.") for i in range(64)]
SYMBOLIC = [
    (
        Problem(str(i), "?", rf"\frac{{x+{i}}}{{\sqrt{{2}}}}"),
        rf"\boxed{{\frac{{\sqrt{{2}}(x+{i})}}{{2}}}}",
    )
    for i in range(1, 33)
]
ENDLESS_SECONDS = 0.2  # the limit of the programs that hang
CODE = Problem(
    "code",
    "?",
    tests={
        "type": "call",
        "entry_point": "f",
        "cases": [{"input": [n], "output": n * n} for n in range(5)],
    },
)
CODE_LIMITED = Problem("limited", "?", tests={**(CODE.tests or {}), "time_limit": ENDLESS_SECONDS})
PROGRAM = "def f(n):\n    return n * n\n"
ENDLESS = "def f(n):\n    while True: pass\n"


def hang_on_demand(problem: Problem, text: str) -> bool:
    """A verifier that some items keep for ever."""
    while text == "hang":
        time.sleep(1)
    return text == problem.answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="10,000 items in the resilience run")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    workers, repetitions = options.workers, 5 if options.full else 3

    math_items = 4_000 if options.full else 1_500
    with VerifierPool("math", workers, 20.0) as pool:
        easy = _median_rate(pool, EASY, math_items, repetitions)
        symbolic = _median_rate(pool, SYMBOLIC, math_items // 10, repetitions)
        _line("easy math", easy / workers, "items/s per worker", "1000 per core")
        _line("symbolic math", symbolic, "items/s", "100")

    _isolation(options.full, repetitions)
    _code_pool(workers, repetitions, 400 if options.full else 100)
    _line("restart after a kill", _restart_seconds(repetitions), "s", "below 1")
    _kill(workers, 20 if options.full else 6)
    _resilience(workers, 10_000 if options.full else 1_000)


def _isolation(full: bool, repetitions: int) -> None:
    """One program after the other in one process: judging against starting a sandbox alone."""
    count = 100 if full else 30
    with open_sandbox() as sandbox:
        print(f"isolation: {describe(sandbox)}")

        def bare() -> None:
            job = {"role": "functions", "programs": [PROGRAM]}
            with sandbox.start(job, Limits()) as started:
                started.receive(time.monotonic() + 10)

        def judged() -> None:
            assert verify_code(CODE, PROGRAM, sandbox=sandbox).correct

        ratios, rates = [], []
        for _ in range(repetitions):
            alone, whole = _seconds(bare, count), _seconds(judged, count)
            ratios.append(whole / alone)
            rates.append(1 / whole)
    _line("code, one process", statistics.median(rates), "programs/s")
    _line("code against bare isolation", statistics.median(ratios), "x the time", "below 1.3")


def _code_pool(workers: int, repetitions: int, items: int) -> None:
    with VerifierPool("code", workers, 20.0) as pool:
        rate = _median_rate(pool, [(CODE, PROGRAM)], items, repetitions)
    _line("code through the pool", rate, f"programs/s, {workers} workers")


def _restart_seconds(repetitions: int) -> float:
    """From the kill of a worker to the next verdict, less the time of a verdict."""
    seconds = []
    with VerifierPool("math", 1, 20.0) as pool:
        for _ in range(repetitions):
            pool.submit(*EASY[0]).result()
            (process,) = pool._processes
            start = time.monotonic()
            os.kill(process.pid, signal.SIGKILL)
            while not pool.submit(*EASY[0]).result().correct:  # one verdict may be lost
                pass
            seconds.append(time.monotonic() - start)
    return statistics.median(seconds)


def _kill(workers: int, hanging: int) -> None:
    """What an item costs that only the death of its worker ends, beyond the limit itself."""
    kind, limit = f"{Path(__file__).stem}:hang_on_demand", 0.5
    with VerifierPool(kind, workers, limit) as pool:
        problem = Problem("p", "?", answer="yes")
        start = time.monotonic()
        futures = [pool.submit(problem, "hang") for _ in range(hanging)]
        assert all(future.result().outcome is Outcome.TIMEOUT for future in futures)
        assert pool.submit(problem, "yes").result().correct
        each = (time.monotonic() - start) * workers / hanging
    _line("a kill at the time limit costs", each - limit, "s of one worker beyond the limit")


def _resilience(workers: int, items: int) -> None:
    """Math and code mixed; without and with 2% of programs that never end, of 0.2 s each."""
    seconds, memory = [], []
    for every in (0, 50):
        with VerifierPool("auto", workers, 20.0) as pool:
            before = _resident_bytes()
            start = time.monotonic()
            futures = [pool.submit(*_mixed_item(i, every)) for i in range(items)]
            outcomes = [future.result().outcome for future in futures]
            seconds.append(time.monotonic() - start)
            memory.append(_resident_bytes() - before)
        hanging = items // every if every else 0
        assert outcomes.count(Outcome.TIMEOUT) == hanging
        assert outcomes.count(Outcome.CORRECT) == items - hanging
    _line(f"{items:,} mixed items", seconds[0], "s")
    _line("2% hanging, against none", seconds[1] / seconds[0], "x the time", "below 1.5")
    _line("parent's memory after them", memory[1] / 2**20, "MiB more", "flat")


def _mixed_item(i: int, hang_every: int) -> tuple[Problem, str]:
    if hang_every and i % hang_every == 0:
        return CODE_LIMITED, ENDLESS
    return ((CODE, PROGRAM), EASY[i % len(EASY)], (CODE, PROGRAM), SYMBOLIC[i % len(SYMBOLIC)])[
        i % 4
    ]


def _median_rate(
    pool: VerifierPool, items: Sequence[tuple[Problem, str]], count: int, repetitions: int
) -> float:
    """Items per second, submitted all at once."""

    def once() -> None:
        futures = [pool.submit(*items[i % len(items)]) for i in range(count)]
        assert all(future.result().correct for future in futures)

    return statistics.median(count / _seconds(once, 1) for _ in range(repetitions))


def _seconds(act: Callable[[], None], count: int) -> float:
    """Mean seconds of one `act`."""
    start = time.perf_counter()
    for _ in range(count):
        act()
    return (time.perf_counter() - start) / count


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _line(name: str, value: float, unit: str, wanted: str = "") -> None:
    print(
        f"{name:32} {value:10.2f} {unit}" + (f"  (wanted: {wanted})" if wanted else ""), flush=True
    )


if __name__ == "__main__":
    main()
