"""Errors that orbax and tensorstore print with tracebacks, from threads of their own.

What fails while a checkpoint is written is raised again where the run waits for it, and becomes one
message there. Printed as well, it would be hundreds of lines above that message.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def not_printed() -> Iterator[None]:
    """Within, they are not printed. Whatever else is logged or printed stays."""

    def others(record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in record.pathname)

    def report(error: Any) -> None:
        # tensorstore's answer to a loop that an error before this one has closed.
        if str(error.exc_value) != "Event loop is closed":
            before(error)

    logger, before = logging.getLogger("absl"), sys.unraisablehook  # orbax logs through absl
    logger.addFilter(others)
    sys.unraisablehook = report
    try:
        yield
    finally:
        logger.removeFilter(others)
        sys.unraisablehook = before
