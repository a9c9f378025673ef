"""Messages over a socket, with deadlines, for the trusted side of a channel.

This file decides that no peer can make this side wait past a deadline or allocate more than a
limit. How a message is framed is decided in `sandbox/wire.py`, what the bodies mean by the callers.
"""

import socket
import time

from cipo_jax.verifiers.sandbox import wire

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
    channel.sendall(wire.frame(body))


def receive(
    channel: socket.socket, deadline: float | None = None, max_bytes: int = _MAX_BYTES
) -> bytes | None:
    """Reads one message; None at the end of the stream.

    Raises:
      TimeoutError: `deadline`, of `time.monotonic()`, has passed.
      ValueError: the message is longer than `max_bytes`.
      OSError: the channel is broken.
    """
    header = _receive_exactly(channel, wire.HEADER_BYTES, deadline)
    if header is None:
        return None
    return _receive_exactly(channel, wire.body_size(header, max_bytes), deadline)


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
