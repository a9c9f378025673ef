"""Messages on sockets: the frame of `sandbox/wire.py`, with deadlines and limits."""

import socket
import time
from collections.abc import Iterator

import pytest

from cipo_jax.verifiers import messages
from cipo_jax.verifiers.sandbox import wire


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_both_ends_speak_the_same_frame(pair):
    ours, theirs = pair
    for body in (b"", b"x", bytes(range(256)) * 100):
        messages.send(ours, body)
        assert wire.read_message(theirs.fileno()) == body
        wire.write_message(theirs.fileno(), body)
        assert messages.receive(ours, time.monotonic() + 5) == body


def test_the_end_of_the_stream_is_none_even_within_a_message(pair):
    ours, theirs = pair
    ours.sendall(wire.frame(b"whole") + wire.frame(b"cut")[:-1])
    ours.close()
    assert messages.receive(theirs) == b"whole"
    assert messages.receive(theirs) is None


def test_nobody_waits_past_a_deadline(pair):
    ours, theirs = pair
    start = time.monotonic()
    theirs.sendall(wire.frame(b"never finished")[:-1])
    with pytest.raises(TimeoutError):
        messages.receive(ours, start + 0.2)
    with pytest.raises(TimeoutError):
        messages.send(ours, b"x" * (1 << 26), start + 0.4)  # the other side does not read
    assert time.monotonic() - start < 3


def test_a_message_over_the_limit_is_refused_before_it_is_read(pair):
    ours, theirs = pair
    messages.send(ours, b"x" * 11)
    with pytest.raises(ValueError, match="a message of 11 bytes, longer than 10"):
        messages.receive(theirs, max_bytes=10)


def test_readable_means_something_to_read_or_the_end(pair):
    ours, theirs = pair
    assert not messages.is_readable(theirs, time.monotonic())
    messages.send(ours, b"x")
    assert messages.is_readable(theirs, time.monotonic())
    assert messages.receive(theirs) == b"x"
    ours.close()
    assert messages.is_readable(theirs, time.monotonic())
