"""Messages over a socket: a 4-byte big-endian length and a body.

This file decides how bytes are framed, and that no peer can make the other side wait past a
deadline or allocate more than a limit. What the bodies mean is for the callers.
"""

import socket
import struct
import time

_MAX_BYTES = 1 << 30


def send(channel: socket.socket, body: bytes, deadline: float | None = None) -> None:
    """Writes one message.

    Raises:
      TimeoutError: the other side does not read, and `deadline`, of `time.monotonic()`, or else the
        channel's own timeout has passed.
      OSError: the channel is broken.
    """
    if deadline is not None:
        channel.settimeout(max(deadline - time.monotonic(), 1e-6))
    channel.sendall(struct.pack("!I", len(body)) + body)


def receive(
    channel: socket.socket, deadline: float | None = None, max_bytes: int = _MAX_BYTES
) -> bytes | None:
    """Reads one message; None at the end of the stream.

    Raises:
      TimeoutError: `deadline`, of `time.monotonic()`, has passed.
      ValueError: the message is longer than `max_bytes`.
      OSError: the channel is broken.
    """
    header = _receive_exactly(channel, 4, deadline)
    if header is None:
        return None
    size = struct.unpack("!I", header)[0]
    if size > max_bytes:
        raise ValueError(f"a message of {size:,} bytes, longer than {max_bytes:,}")
    return _receive_exactly(channel, size, deadline)


def is_readable(channel: socket.socket, deadline: float) -> bool:
    """Waits until there is something to read or the stream has ended; False at `deadline`."""
    channel.settimeout(max(deadline - time.monotonic(), 0))  # 0: does not wait at all
    try:
        channel.recv(1, socket.MSG_PEEK)
    except (TimeoutError, BlockingIOError):
        return False
    except OSError:
        pass  # for the reader to find out
    return True


def _receive_exactly(channel: socket.socket, size: int, deadline: float | None) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        if deadline is not None:
            channel.settimeout(max(deadline - time.monotonic(), 1e-6))
        chunk = channel.recv(min(size - len(received), 1 << 20))
        if not chunk:
            return None
        received += chunk
    return bytes(received)
