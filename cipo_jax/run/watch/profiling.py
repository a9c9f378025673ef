"""A trace of some steps by JAX's profiler, for TensorBoard's profile page or Perfetto."""

from collections.abc import Sequence
from pathlib import Path

import jax


class Profile:
    """Traces from the start of the first step to the end of the last; a context manager that ends
    a trace under way.

    Args:
      directory: where traces go; made when one begins. None: traces nothing.
      steps: (first, last) as printed, or nothing.
    """

    def __init__(self, directory: Path | None, steps: Sequence[int]) -> None:
        self._directory, self._steps = directory, tuple(steps)
        self._tracing = False

    def before(self, step: int) -> None:
        """Called before each step; a run continued within the range traces the rest of it."""
        if self._directory is None or not self._steps or self._tracing:
            return
        if self._steps[0] <= step <= self._steps[1]:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # every call of a rollout's loop would be gigabytes
            jax.profiler.start_trace(self._directory, profiler_options=options)
            self._tracing = True

    def after(self, step: int) -> None:
        """Called after each step, when the device has done it."""
        if self._tracing and step >= self._steps[1]:
            self.close()
            print(f"profile  steps up to {step} are in {self._directory}", flush=True)

    def close(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
