"""What is raised again as one message is not printed as well."""

import logging
import sys
import types

import pytest

from cipo_jax.run.records.printed_errors import not_printed


def log(pathname: str, failed: bool) -> None:
    logger = logging.getLogger("absl")
    info = (OSError, OSError("full"), None) if failed else None
    logger.handle(logging.LogRecord("absl", logging.ERROR, pathname, 1, pathname, (), info))


def complain(text: str) -> None:
    """As Python does of an error that a library's thread cannot raise."""
    error = types.SimpleNamespace(exc_value=RuntimeError(text), err_msg=text, object=None)
    sys.unraisablehook(error)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def printing_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda e: print(e.exc_value, file=sys.stderr))


def test_errors_of_orbax_are_not_printed_and_others_are(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with not_printed():
        log("site-packages/orbax/checkpoint/futures.py", failed=True)
        log("site-packages/orbax/checkpoint/advice.py", failed=False)
        log("site-packages/other.py", failed=True)
        for text in ("Event loop is closed", "a bug"):
            complain(text)
    names = [record.message.rpartition("/")[2] for record in caplog.records]
    assert names == ["advice.py", "other.py"]
    assert "a bug" in (printed := capsys.readouterr().err) and "Event loop" not in printed
    log("site-packages/orbax/checkpoint/later.py", failed=True)
    assert "later.py" in caplog.text
    complain("Event loop is closed")
    assert "Event loop" in capsys.readouterr().err
