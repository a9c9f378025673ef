"""The command, stopping itself at a chosen place: HOW PLACE COUNT ARGUMENTS...

HOW is the name of a signal, or RAISE for an exception. PLACE is one of

sampling     before the COUNT-th decode chunk
checkpoint   while the COUNT-th checkpoint is being written
update       before the COUNT-th update
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from cipo_jax.main import main
from cipo_jax.sampling.engine import Engine
from cipo_jax.verifiers.pool import VerifierPool


def stopping(
    function: Callable[..., Any], by: int | None, count: int, first: bool
) -> Callable[..., Any]:
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == count and by is None:
            raise RuntimeError("the pool is broken")
        if calls == count and by is not None:
            os.kill(os.getpid(), by)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if first:
            stop()
        result = function(*args, **kwargs)
        if not first:
            stop()
        return result

    return wrapped


if __name__ == "__main__":
    name, place, number, *arguments = sys.argv[1:]
    by, count = None if name == "RAISE" else signal.Signals[name], int(number)
    if place == "sampling":
        Engine.step = stopping(Engine.step, by, count, first=True)  # type: ignore[method-assign]
    elif place == "checkpoint":
        import orbax.checkpoint as ocp

        ocp.CheckpointManager.save = stopping(ocp.CheckpointManager.save, by, count, first=False)
    elif place == "update":
        from cipo_jax.run import update

        update.put_batch = stopping(update.put_batch, by, count, first=True)
    elif place == "verifier":
        VerifierPool.submit = stopping(  # type: ignore[method-assign]
            VerifierPool.submit, by, count, first=True
        )
    else:
        raise SystemExit(f"no place {place!r}")
    main(["cipo_jax", *arguments])
