"""Messages over a socket: a 4-byte big-endian length and a body.

This file decides how bytes are framed, and that no peer can make the other side wait past a
deadline or allocate more than a limit. What the bodies mean is for the callers.
"""

import socket
import struct
import time

_MAX_BYTES = 1 << 30


def send(channel: socket.socket, body: bytes) -> None:
    """Writes one message. Raises OSError (a timeout included) if the other side does not read."""
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


def exchange(channel: socket.socket, body: bytes, deadline: float) -> bytes | None:
    """Sends one message and returns the answer; None if the stream ended."""
    channel.settimeout(max(deadline - time.monotonic(), 1e-6))
    send(channel, body)
    return receive(channel, deadline)


def has_ended(channel: socket.socket) -> bool:
    """Has the stream ended, or does it hold an answer that nobody asked for?"""
    channel.settimeout(0)
    try:
        channel.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
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
