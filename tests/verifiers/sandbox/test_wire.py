"""The frame of a message, on file descriptors."""

import os

import pytest

from cipo_jax.verifiers.sandbox.wire import body_size, frame, read_message, write_message


def test_messages_come_whole_and_in_order_until_the_end():
    reading, writing = os.pipe()
    bodies = [b"", b"x", b"longer" * 1000]
    for body in bodies:
        write_message(writing, body)
    os.write(writing, frame(b"cut")[:5])
    os.close(writing)
    assert [read_message(reading) for _ in bodies] == bodies
    assert read_message(reading) is None
    os.close(reading)


def test_the_frame_is_a_length_and_the_body():
    assert frame(b"abc") == b"\0\0\0\3abc"
    assert body_size(b"\0\0\1\0", 256) == 256
    with pytest.raises(ValueError, match="a message of 257 bytes, longer than 256"):
        body_size(b"\0\0\1\1", 256)
