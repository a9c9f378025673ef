"""Writing files whole: under a temporary name beside, then renamed; and what a full disk means.

A reader sees the old content or the new one; a killed writer leaves the old one, and so does a
machine that loses its power. An error that another start would only meet again, such as a disk
without room, becomes a `CipoError`; others stay what they are.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from cipo_jax.types import CipoError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What a person has to mend. Not among them: errors of a network or a device, which may pass.
_LASTING = (
    *(*_NO_ROOM, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP),
)


@contextlib.contextmanager
def explained(where: Path | str) -> Iterator[None]:
    """Turns an `OSError` of a kind that lasts into a message.

    Args:
      where: what is named if the error does not name a file itself.

    Raises:
      CipoError: with the file, the system's words, and what to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _LASTING:
            raise
        # Of a renaming the second name is that of the file, the first one is temporary.
        named = error.filename2 or error.filename or where
        raise CipoError(f"{named}: {_advice(error)}") from error


def _advice(error: OSError) -> str:
    words = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return (
            f"cannot be written ({words}); nothing that was finished is lost. Make room and start "
            "the same command again"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{words}; restore access, or choose another place"
    return f"{words}; wanted another path, or what is there moved away"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` when the context ends well, and is
    removed when it does not.

    Raises:
      CipoError: there is no room on the disk, or another error of `explained`.
    """
    # Two processes may write one file at a time, such as two commands that read one run.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with explained(path):
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes UTF-8 text whole; `errors` as in `str.encode`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)


def write_json(path: Path, content: object) -> None:
    """Writes indented json whole."""
    write_text(path, json.dumps(content, indent=1) + "\n")
