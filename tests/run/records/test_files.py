"""Files are whole or not there, and errors of the disk are told by what mends them."""

import errno
import os
from pathlib import Path

import pytest

from cipo_jax.run.records.files import explained, replacing, write_json, write_text
from cipo_jax.types import CipoError


def test_a_text_without_room_leaves_the_old_one(tmp_path: Path, full_disk) -> None:
    path = tmp_path / "report.html"
    write_text(path, "old")
    with (
        full_disk(1000),
        pytest.raises(CipoError, match=r"report\.html: .*File too large.* Make room and start"),
    ):
        write_text(path, "new" * 1000)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.md").mkdir()
    with pytest.raises(CipoError, match=r"table\.md: Is a directory; wanted another path"):
        write_text(tmp_path / "table.md", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "table.md"]


def test_it_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    monkeypatch.setattr(os, "fsync", lambda _: done.append("synced"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("named"), replace(*a)))
    write_json(tmp_path / "x.json", {})
    assert done == ["synced", "named"]


def test_two_processes_do_not_share_what_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    with replacing(path) as first:
        first.write_text("first")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        write_text(path, "second")
    assert path.read_text() == "first"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "cannot be written .*No space left on device.*Make room"),
        (errno.EDQUOT, "cannot be written"),
        (errno.EROFS, "Read-only file system; restore access"),
        (errno.EACCES, "Permission denied; restore access"),
        (errno.ENOTDIR, "Not a directory; wanted another path"),
    ],
)
def test_what_lasts_is_a_message(number: int, words: str) -> None:
    with pytest.raises(CipoError, match=f"^here: {words}"), explained("here"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(CipoError, match="^there: "), explained("here"):
        raise OSError(number, os.strerror(number), "there")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EPIPE])
def test_what_may_pass_stays_an_error(number: int) -> None:
    with pytest.raises(OSError, match="words") as caught, explained("here"):
        raise OSError(number, "words")
    assert caught.value.errno == number
