"""What the files of a checkpoint held when it was finished, so that damage is found before it is
read.

orbax does not notice every damage: its arrays have no checksums, so flipped bytes load as other
numbers. manifest.json in a checkpoint's directory has the size of each file and a CRC-32 of each
piece of it. The first host writes it, reading what all hosts have written, before the checkpoint
counts as finished. All hosts check it together, each a share of the files and of the pieces. Every
host adds files, and a bucket answers each question about one after some time: several are asked at
a time.

A checkpoint of an earlier version has no manifest. Of that, only the small json files are checked.
"""

import concurrent.futures
import errno
import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from etils import epath

from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.types import CipoError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

MANIFEST_FILE = "manifest.json"
SCORE_FILE = "score.json"  # may be written later, see `Checkpoints.save`
PIECE_BYTES = 1 << 24
READERS, ASKERS = 8, 32  # threads that read content, and that ask what there is
# orbax writes these two after the manifest, and restores without them.
_WRITTEN_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")
_JSON_FILES = ("host/metadata", "origin/metadata", "metrics/metrics")
# What a damaged disk or an incomplete copy shows; other errors, such as a missing permission, say
# nothing of the files.
_DAMAGE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EIO)


class Damaged(Exception):
    """A file does not hold what was written; the message names it."""


def write_checked(path: epath.Path, content: Any) -> None:
    """Writes json with a checksum of itself, whole."""
    text = json.dumps(content, sort_keys=True)
    whole = json.dumps({"crc32": zlib.crc32(text.encode()), "content": content}, sort_keys=True)
    if "://" in str(path):  # objects of a bucket are written whole
        path.write_text(whole)
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(whole)
    temporary.replace(path)


def read_checked(path: epath.Path) -> Any:
    """What `write_checked` has written.

    Raises:
      Damaged: the file holds something else.
      OSError: it cannot be read, or is not there.
    """
    try:
        raw = json.loads(path.read_bytes())
        content, checksum = raw["content"], raw["crc32"]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path.name} is not what was written") from error
    if zlib.crc32(json.dumps(content, sort_keys=True).encode()) != checksum:
        raise Damaged(f"{path.name} is not what was written")
    return content


def write_manifest(directory: epath.Path) -> None:
    """Writes the manifest of what `directory` holds."""
    names = _files(directory)
    names = [n for n in names if n not in (*_WRITTEN_LATER, MANIFEST_FILE, SCORE_FILE)]
    sizes = _sizes(directory, names)
    pieces = [
        (name, start) for name, size in sizes.items() for start in range(0, size, PIECE_BYTES)
    ]
    checksums: dict[str, list[int]] = {name: [] for name in sizes}
    for (name, _), checksum in zip(pieces, _checksums(directory, pieces), strict=True):
        checksums[name].append(checksum)
    files = {name: {"bytes": size, "crc32": checksums[name]} for name, size in sizes.items()}
    write_checked(directory / MANIFEST_FILE, {"piece_bytes": PIECE_BYTES, "files": files})


def has_manifest(directory: epath.Path) -> bool:
    return (directory / MANIFEST_FILE).exists()


def find_damage(
    directory: epath.Path, items: Sequence[str] | None = None, share: tuple[int, int] = (0, 1)
) -> str | None:
    """What is wrong with the checkpoint in `directory`; None if nothing was found.

    Args:
      items: the parts to look at, such as ("params",); None: all.
      share: (i, n): read the i-th of n parts of the content.

    Raises:
      OSError: something cannot be read for a reason that says nothing of the files.
    """
    try:
        if has_manifest(directory):
            _check_content(directory, items, share)
        else:
            _check_json(directory, items)
    except Damaged as damage:
        return str(damage)
    except OSError as error:
        if error.errno not in _DAMAGE and not isinstance(error, FileNotFoundError):
            raise
        return f"{error.strerror or error}: {error.filename or directory.name}"
    return None


def find_damage_together(
    directory: epath.Path, items: Sequence[str] | None, hosts: Hosts
) -> str | None:
    """`find_damage`, for which each host reads a share; all get the same answer.

    Raises:
      CipoError: a host cannot read something, for a reason that says nothing of the files.
    """
    found: dict[str, str | None] = {}
    try:
        if directory.is_dir():
            found["damage"] = find_damage(directory, items, (hosts.index, hosts.count))
        else:
            found["error"] = "it is not there; all hosts need the same directory"
    except OSError as error:
        found["error"] = f"{error}"
    everywhere = [json.loads(said) for said in hosts.gather(json.dumps(found).encode())]
    for host, said in enumerate(everywhere):
        if "error" in said:
            on = f" on host {host}" if hosts.count > 1 else ""
            raise CipoError(
                f"{directory}: cannot be read{on} ({said['error']}). It was left as it is; restore "
                "access, and start the same command again"
            )
    return next((said["damage"] for said in everywhere if said["damage"]), None)


def _check_content(
    directory: epath.Path, items: Sequence[str] | None, share: tuple[int, int]
) -> None:
    """Raises `Damaged` or OSError where the files are not those of the manifest."""
    content = read_checked(directory / MANIFEST_FILE)
    files = {
        name: file
        for name, file in content["files"].items()
        if items is None or name.split("/")[0] in items
    }
    if not files:
        raise Damaged(f"{MANIFEST_FILE} names no file of {', '.join(items or ('anything',))}")
    for name, size in _sizes(directory, list(files)[share[0] :: share[1]]).items():
        if size != files[name]["bytes"]:
            raise Damaged(f"{name} has {size} bytes, {files[name]['bytes']} were written")
    step = content["piece_bytes"]
    pieces = [(name, i * step) for name, file in files.items() for i in range(len(file["crc32"]))]
    mine = pieces[share[0] :: share[1]]
    for (name, start), checksum in zip(mine, _checksums(directory, mine, step), strict=True):
        if checksum != files[name]["crc32"][start // step]:
            raise Damaged(f"{name} is not what was written (another checksum)")


def _check_json(directory: epath.Path, items: Sequence[str] | None) -> None:
    """What can be checked without a manifest: raises `Damaged` or OSError."""
    if not (directory / "params").is_dir():
        raise Damaged("params is missing")
    for name in _JSON_FILES:
        item = name.split("/")[0]
        if (items is not None and item not in items) or not (directory / item).is_dir():
            continue
        try:
            json.loads((directory / name).read_bytes())
        except ValueError as error:
            raise Damaged(f"{name} is not json") from error


def _checksums(
    directory: epath.Path, pieces: Sequence[tuple[str, int]], size: int = PIECE_BYTES
) -> list[int]:
    """The CRC-32 of pieces (file name, offset) of at most `size` bytes."""

    def read(piece: tuple[str, int]) -> int:
        name, start = piece
        with (directory / name).open("rb") as file:
            file.seek(start)
            return zlib.crc32(file.read(size))

    return _side_by_side(read, pieces, READERS)


def _sizes(directory: epath.Path, names: Sequence[str]) -> dict[str, int]:
    """{name: bytes} of files."""
    stats = _side_by_side(lambda name: (directory / name).stat().length, names)
    return dict(zip(names, stats, strict=True))


def _files(directory: epath.Path) -> list[str]:
    """The relative names of all files below, in order."""

    def entries(within: str) -> list[str]:
        listed = (directory / within if within else directory).iterdir()
        return [within + path.name for path in listed]

    files, level = list[str](), [""]
    while level:
        found = [name for names in _side_by_side(entries, level) for name in names]
        is_directory = _side_by_side(lambda name: (directory / name).is_dir(), found)
        pairs = list(zip(found, is_directory, strict=True))
        files += [name for name, deeper in pairs if not deeper]
        level = [f"{name}/" for name, deeper in pairs if deeper]
    return sorted(files)


def _side_by_side(
    function: Callable[[_Item], _Result], items: Sequence[_Item], threads: int = ASKERS
) -> list[_Result]:
    """`function` of each item, in threads: they wait for a disk or a bucket."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
