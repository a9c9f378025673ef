"""Errors that orbax and tensorstore print with tracebacks, from threads of their own.

What fails while a checkpoint is written is raised again where the run waits for it, and becomes one
message there. Printed as well, it would be hundreds of lines above that message.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from types import TracebackType


@contextlib.contextmanager
def not_printed() -> Iterator[None]:
    """Within, they are not printed. Whatever else is logged or printed stays."""

    def others(record: logging.LogRecord) -> bool:
        return not (record.exc_info and "orbax" in record.pathname)

    def report(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        # tensorstore's answer to a loop that an error before this one has closed.
        if not (kind is RuntimeError and str(error) == "Event loop is closed"):
            before(kind, error, traceback)

    logger, before = logging.getLogger("absl"), sys.excepthook  # orbax logs through absl
    logger.addFilter(others)
    sys.excepthook = report
    try:
        yield
    finally:
        logger.removeFilter(others)
        sys.excepthook = before
