"""Throughput and resilience of the verifier pool on this machine.

    python benchmarks/verifier_pool.py            # some four minutes
    python benchmarks/verifier_pool.py --full     # at full size

Every number is a median over repetitions, with the lowest and the highest. A ratio compares two
measurements that alternate on the same machine within the same minute, so it holds on a busy
machine too. The load is printed.
"""

import argparse
import collections
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cipo_jax.types import Outcome, Problem
from cipo_jax.verifiers.code.tests import verify_code
from cipo_jax.verifiers.pool import VerifierPool
from cipo_jax.verifiers.sandbox.layers import Limits, describe, open_sandbox

EASY = [(Problem(str(i), "?", str(i)), rf"So it is \boxed{{{i}}}.") for i in range(64)]
SYMBOLIC = [
    (
        Problem(str(i), "?", rf"\frac{{x+{i}}}{{\sqrt{{2}}}}"),
        rf"\boxed{{\frac{{\sqrt{{2}}(x+{i})}}{{2}}}}",
    )
    for i in range(1, 33)
]
CODE = Problem(
    "code",
    "?",
    tests={
        "type": "call",
        "entry_point": "f",
        "cases": [{"input": [n], "output": n * n} for n in range(5)],
    },
)
PROGRAM = "def f(n):\n    return n * n\n"
ENDLESS = "def f(n):\n    while True: pass\n"


class _Hang:
    """Keeps whatever worker unpickles it for ever."""

    def __reduce__(self) -> tuple[Callable[[float], None], tuple[float]]:
        return time.sleep, (3600.0,)


def hang_on_demand(problem: Problem, text: str) -> bool:
    """A verifier that never returns for some items."""
    while text == "hang":
        time.sleep(1)
    return text == problem.answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="10,000 items in the resilience runs")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    workers, repetitions = options.workers, 5 if options.full else 3
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")

    math_items = 4_000 if options.full else 1_500
    with VerifierPool("math", workers, 20.0) as pool:
        easy = _rates(pool, EASY, math_items, repetitions)
        symbolic = _rates(pool, SYMBOLIC, math_items // 10, repetitions)
    _line("easy math", [rate / workers for rate in easy], "items/s per worker", "1000 per core")
    _line("symbolic math", symbolic, "items/s", "100")

    _isolation(options.full, repetitions)
    _code_pool(workers, repetitions, 400 if options.full else 100)
    _restart("math", repetitions)
    _restart("code", repetitions)
    _lost_workers(workers, 10_000 if options.full else 2_000, repetitions)
    _kill(workers, 20 if options.full else 6)
    for seconds in (0.2, 1.0):
        _resilience(workers, 10_000 if options.full else 1_000, seconds, 4 if options.full else 2)
    print(f"load {os.getloadavg()[0]:.1f}")


def _isolation(full: bool, repetitions: int) -> None:
    """Judging against only starting a sandbox, one program after the other in one process."""
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
    _line("code, one process", rates, "programs/s")
    _line("code against bare isolation", ratios, "x the time", "below 1.3")


def _code_pool(workers: int, repetitions: int, items: int) -> None:
    with VerifierPool("code", workers, 20.0) as pool:
        rates = _rates(pool, [(CODE, PROGRAM)], items, repetitions)
    _line("code through the pool", rates, f"programs/s, {workers} workers")


def _restart(kind: str, repetitions: int) -> None:
    """From the kill of a worker to the next verdict, and what a new interpreter would take."""
    item = EASY[0] if kind == "math" else (CODE, PROGRAM)
    alone = (
        f"from cipo_jax.verifiers import worker\nworker.load_verifier({kind!r}, worker.Options())"
    )
    forked, fresh = [], []
    with VerifierPool(kind, 1, 20.0, stand_ins=0) as pool:
        for _ in range(repetitions):
            pool.submit(*item).result()
            start = time.monotonic()
            os.kill(_only_worker(), signal.SIGKILL)
            while not pool.submit(*item).result().correct:  # one verdict may be lost
                pass
            forked.append(time.monotonic() - start)
            start = time.monotonic()
            subprocess.run([sys.executable, "-c", alone], check=True)
            fresh.append(time.monotonic() - start)
    _line(f"restart after a kill, {kind}", forked, "s", "below 0.3")
    _line("  a new interpreter with the imports", fresh, "s")


def _only_worker() -> int:
    (zygote,) = _children("/proc/self")
    # Its forks have its command; what a killed worker has left to it has others.
    command = Path(f"/proc/{zygote}/cmdline").read_bytes()
    (worker,) = (
        child
        for child in _children(f"/proc/{zygote}")
        if Path(f"/proc/{child}/cmdline").read_bytes() == command
    )
    return int(worker)


def _children(process: str) -> list[str]:
    return " ".join(f.read_text() for f in Path(process).glob("task/*/children")).split()


def _lost_workers(workers: int, items: int, repetitions: int) -> None:
    """Math, without and with 2% of items that hang until their worker is killed after a second, in
    turns. The bound: hanging items x limit / (workers + stand-ins) + the time without."""
    limit, hang_every, stand_ins = 1.0, 50, 2
    part = items // repetitions
    hanging = len(range(0, part, hang_every))
    bound_of_hangs = hanging * limit / (workers + stand_ins)
    ratios, restarts = [], 0.0
    with VerifierPool("math", workers, limit, stand_ins=stand_ins) as pool:
        for _ in range(repetitions):
            alone = _seconds(lambda: _hanging(pool, part, 0), 1)
            before = pool.stats()["restarts"]
            whole = _seconds(lambda: _hanging(pool, part, hang_every), 1)
            restarts += pool.stats()["restarts"] - before
            ratios.append(whole / (bound_of_hangs + alone))
    name = f"{items:,} items, 2% lose their worker"
    _line(name, ratios, "x the bound", "below 1.3")
    print(
        f"  {hanging * repetitions} hanging for {limit:g} s, {restarts:g} restarts, the last "
        f"{part:,} items: {whole:.1f} s, bound {bound_of_hangs:.1f} + {alone:.1f} s"
    )


def _hanging(pool: VerifierPool, items: int, hang_every: int) -> None:
    hang = Problem("hang", "?", "1", meta={"hang": _Hang()})
    futures = [
        pool.submit(hang, "")
        if hang_every and i % hang_every == 0
        else pool.submit(*EASY[i % len(EASY)])
        for i in range(items)
    ]
    timeouts = sum(future.result().outcome is Outcome.TIMEOUT for future in futures)
    assert timeouts >= (len(range(0, items, hang_every)) if hang_every else 0)


def _kill(workers: int, hanging: int) -> None:
    """The cost, beyond the limit itself, of an item that only ends when its worker is killed."""
    kind, limit = f"{__file__}:hang_on_demand", 0.5
    with VerifierPool(kind, workers, limit, stand_ins=0) as pool:
        problem = Problem("p", "?", answer="yes")
        start = time.monotonic()
        futures = [pool.submit(problem, "hang") for _ in range(hanging)]
        assert all(future.result().outcome is Outcome.TIMEOUT for future in futures)
        assert pool.submit(problem, "yes").result().correct
        each = (time.monotonic() - start) * workers / hanging
    _line("a kill at the time limit costs", [each - limit], "s of one worker beyond the limit")


def _resilience(workers: int, items: int, limit: float, rounds: int) -> None:
    """Math and code mixed, without and with 2% of programs that spin up to a limit of `limit`
    seconds, in turns, each time a part of the items; stand-ins as by default."""
    part, hang_every = items // rounds, 50
    hanging = len(range(0, part, hang_every))
    problem = Problem("limited", "?", tests={**(CODE.tests or {}), "time_limit": limit})
    ratios, memory = [], []
    with VerifierPool("auto", workers, 20.0) as pool:
        _mixed(pool, part // 10, problem, hang_every)  # starts the stand-ins
        for _ in range(rounds):
            alone, outcomes = _mixed(pool, part, problem, 0)
            assert outcomes == {Outcome.CORRECT: part}
            mixed, outcomes = _mixed(pool, part, problem, hang_every)
            assert outcomes == {Outcome.CORRECT: part - hanging, Outcome.TIMEOUT: hanging}
            ratios.append(mixed / alone)
            memory.append(_resident_bytes() / 2**20)
    name = f"2% hanging {limit:g} s, {items:,} items"
    _line(name, ratios, f"x the time without ({alone / part * 1000:.1f} ms/item)", "below 1.5")
    _line("parent's memory, round by round", memory, "MiB", "flat")


def _mixed(
    pool: VerifierPool, items: int, limited: Problem, hang_every: int
) -> tuple[float, dict[Outcome, int]]:
    """Seconds and outcomes of items submitted all at once."""
    start = time.monotonic()
    futures = []
    for i in range(items):
        item = (limited, ENDLESS) if hang_every and i % hang_every == 0 else _mixed_item(i)
        futures.append(pool.submit(*item))
    outcomes = collections.Counter(future.result().outcome for future in futures)
    return time.monotonic() - start, dict(outcomes)


def _mixed_item(i: int) -> tuple[Problem, str]:
    return ((CODE, PROGRAM), EASY[i % len(EASY)], (CODE, PROGRAM), SYMBOLIC[i % len(SYMBOLIC)])[
        i % 4
    ]


def _rates(
    pool: VerifierPool, items: Sequence[tuple[Problem, str]], count: int, repetitions: int
) -> list[float]:
    """Items per second, submitted all at once."""

    def once() -> None:
        futures = [pool.submit(*items[i % len(items)]) for i in range(count)]
        assert all(future.result().correct for future in futures)

    return [count / _seconds(once, 1) for _ in range(repetitions)]


def _seconds(act: Callable[[], None], count: int) -> float:
    """Mean seconds of one `act`."""
    start = time.perf_counter()
    for _ in range(count):
        act()
    return (time.perf_counter() - start) / count


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _line(name: str, values: Sequence[float], unit: str, wanted: str = "") -> None:
    spread = f" ({min(values):.2f}..{max(values):.2f})" if len(values) > 1 else ""
    text = f"{name:34} {statistics.median(values):9.2f}{spread} {unit}"
    print(text + (f"  (wanted: {wanted})" if wanted else ""), flush=True)


if __name__ == "__main__":
    main()
