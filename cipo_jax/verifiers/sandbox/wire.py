"""How messages are framed: a 4-byte big-endian length, then that many bytes.

This file decides the frame, and reads and writes it on file descriptors. It also runs in sandboxes,
so it uses the standard library only. `verifiers/messages.py` reads and writes the same frame on
sockets, with deadlines. The callers decide what the bodies mean.
"""

import os
import struct

HEADER_BYTES = 4


def frame(body: bytes) -> bytes:
    """The message as it is sent."""
    return struct.pack("!I", len(body)) + body


def body_size(header: bytes, max_bytes: int) -> int:
    """The length that `header`, of HEADER_BYTES, announces.

    Raises:
      ValueError: it is more than `max_bytes`.
    """
    size = struct.unpack("!I", header)[0]
    if size > max_bytes:
        raise ValueError(f"a message of {size:,} bytes, longer than {max_bytes:,}")
    return size


def read_message(descriptor: int, max_bytes: int = 1 << 28) -> bytes | None:
    """Waits for one message; None at the end of the stream.

    Raises:
      ValueError: it is longer than `max_bytes`.
      OSError: the descriptor cannot be read.
    """
    header = _read_exactly(descriptor, HEADER_BYTES)
    return None if header is None else _read_exactly(descriptor, body_size(header, max_bytes))


def write_message(descriptor: int, body: bytes) -> None:
    """Writes one message. Raises OSError if nobody can read it any more."""
    rest = memoryview(frame(body))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_exactly(descriptor: int, size: int) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        chunk = os.read(descriptor, min(size - len(received), 1 << 20))
        if not chunk:
            return None
        received += chunk
    return bytes(received)
