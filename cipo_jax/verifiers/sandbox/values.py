"""Values on their way between a program under test and whoever judges it.

This file decides what crosses by value: plain data of the standard types, rebuilt by the receiver
from JSON, never unpickled. Everything else stays where it is and crosses as a number that stands
for it. So a program cannot hand over an object whose `==`, `abs` or `len` are its own code:
comparisons see plain data only. What such a number is good for is decided in `peer.py`. The file
uses the standard library only.
"""

import collections
import contextlib
import datetime as dt
import gc
import json
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_BYTES = 1 << 24  # of one message
MAX_VALUES = 2_000_000  # in one value: its items, the items of these, and so on
MAX_DEPTH = 400  # of lists in lists, as they are written
_MAX_EQUAL_HASHES = 1_000  # in one set or dict, whose building takes the square of their number
_MAX_FRACTION_BITS = 20_000  # reducing a fraction takes the square of their number
_MAX_DIGITS = 640  # the least that the interpreter can be told; `encode` writes 19
_PLAIN_INT = 1 << 63  # larger ones go as hexadecimal digits, which have no length limit
_TYPES: dict[str, type] = {
    t.__name__: t for t in (int, float, str, bool, bytes, list, tuple, set, dict, object)
}

Keep = Callable[[Any], dict[str, Any]]  # an object that stays here -> {kind: what stands for it}
Lookup = Callable[[str, Any], Any]  # kind, what stands for it -> stand-in | the object itself
KINDS = ("theirs", "yours", "class", "error")  # of what stands for an object, see `peer.py`


class ValueCodecError(ValueError):
    """The value cannot be written, or the message cannot be read."""


def encode(value: Any, keep: Keep | None = None) -> Any:
    """`value` as something JSON can write. Without `keep`, raises ValueCodecError for an object
    that must stay here."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        value = int(value)
        return value if -_PLAIN_INT < value < _PLAIN_INT else {"int": hex(value)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [encode(item, keep) for item in value]
    for name, (types, parts, _) in _CONTAINERS.items():
        if isinstance(value, types):
            return {name: [encode(part, keep) for part in parts(value)]}
    if isinstance(value, type) and _TYPES.get(value.__name__) is value:
        return {"type": value.__name__}
    if keep is None:
        raise ValueCodecError(f"a value of type {kind.__name__} cannot be compared")
    return keep(value)


def decode(value: Any, lookup: Lookup | None = None) -> Any:
    """The inverse of `encode`; objects of the other side become stand-ins by `lookup`.

    What is refused takes no longer than what is not: sizes are looked at before anything is built.

    Raises:
      ValueCodecError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError: `encode`
        did not write it, or it exceeds MAX_VALUES or MAX_DEPTH.
    """
    with _uncollected():
        check_size(value)
        return _decode(value, lookup)


def parse(body: bytes) -> Any:
    """The JSON in `body`. Raises ValueError if it is none or has far more than MAX_VALUES values:
    they are counted first, since a few megabytes of brackets become gigabytes of lists. So it does
    for integers of very many decimal digits, which take the square of their number to read."""
    limit = 2 * MAX_VALUES  # a value is followed by a comma or holds others, or both
    if sum(map(body.count, (b",", b"[", b"{", b'"'))) > limit:
        text = body.replace(rb"\\", b"").replace(rb"\"", b"")
        if text.count(b'"') > limit:
            raise ValueCodecError(f"more than {MAX_VALUES:,} texts")
        outside = b"".join(text.split(b'"')[::2])  # of texts
        if sum(map(outside.count, (b",", b"[", b"{"))) > limit:
            raise ValueCodecError(f"more than {MAX_VALUES:,} values")
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(_MAX_DIGITS)
    try:
        with _uncollected():
            return json.loads(body)
    finally:
        sys.set_int_max_str_digits(digits)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Builds data without the garbage collector, which would go through a million lists again and
    again while they are built, and find no garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_size(value: Any) -> None:
    """Raises ValueCodecError if the written `value` is too large or too deep."""
    count, level = 0, [value]
    for _ in range(MAX_DEPTH):
        count += len(level)
        if count > MAX_VALUES:
            raise ValueCodecError(f"more than {MAX_VALUES:,} values")
        level = [
            part
            for item in level
            if isinstance(item, list | dict)
            for part in (item if isinstance(item, list) else item.values())
        ]
        if not level:
            return
    raise ValueCodecError(f"lists nested more than {MAX_DEPTH} deep")


def _decode(value: Any, lookup: Lookup | None) -> Any:
    if isinstance(value, list):
        return [_decode(item, lookup) for item in value]
    if not isinstance(value, dict):
        return value
    ((name, body),) = value.items()
    if name in _CONTAINERS:
        return _CONTAINERS[name][2]([_decode(part, lookup) for part in body])
    if name == "int":
        return int(body, 16)
    if name == "type":
        return _TYPES[body]
    if lookup is None or name not in KINDS:
        raise ValueCodecError(f"no value: {name!r}")
    return lookup(name, body)


def _flat(mapping: Any) -> list[Any]:
    return [part for pair in dict.items(mapping) for part in pair]


def _pairs(flat: list[Any]) -> Any:
    return zip(_hashed(flat[::2]), flat[1::2], strict=True)


def _hashed(items: list[Any]) -> list[Any]:
    """The items, for a set or as keys of a dict. Raises ValueCodecError if too many share a hash:
    a program can choose integers that do."""
    if len(items) > _MAX_EQUAL_HASHES:
        repeated = collections.Counter(map(hash, items)).most_common(1)[0][1]
        if repeated > _MAX_EQUAL_HASHES:
            raise ValueCodecError(f"{repeated:,} items with the same hash")
    return items


def _fraction(parts: list[Any]) -> Fraction:
    if any(part.bit_length() > _MAX_FRACTION_BITS for part in parts):
        raise ValueCodecError(f"a fraction of more than {_MAX_FRACTION_BITS:,} bits")
    return Fraction(*parts)


# name -> (types, value -> its parts, parts -> value); subclasses before their bases
_CONTAINERS: dict[str, tuple[Any, Callable[[Any], Any], Callable[[list[Any]], Any]]] = {
    "tuple": (tuple, list, tuple),
    "counter": (collections.Counter, _flat, lambda p: collections.Counter(dict(_pairs(p)))),
    "dict": (dict, _flat, lambda p: dict(_pairs(p))),
    "set": (set, list, lambda p: set(_hashed(p))),
    "frozenset": (frozenset, list, lambda p: frozenset(_hashed(p))),
    "bytes": (bytes, lambda v: [bytes(v).hex()], lambda p: bytes.fromhex(p[0])),
    "bytearray": (bytearray, lambda v: [bytes(v).hex()], lambda p: bytearray.fromhex(p[0])),
    "complex": (complex, lambda v: [v.real, v.imag], lambda p: complex(*p)),
    "range": (range, lambda v: [v.start, v.stop, v.step], lambda p: range(*p)),
    "deque": (collections.deque, list, collections.deque),
    "decimal": (Decimal, lambda v: [str(v)], lambda p: Decimal(p[0])),
    "fraction": (Fraction, lambda v: [v.numerator, v.denominator], _fraction),
    "datetime": (dt.datetime, lambda v: [v.isoformat()], lambda p: dt.datetime.fromisoformat(p[0])),
    "date": (dt.date, lambda v: [v.isoformat()], lambda p: dt.date.fromisoformat(p[0])),
    "timedelta": (
        dt.timedelta,
        lambda v: [v.days, v.seconds, v.microseconds],
        lambda p: dt.timedelta(*p),
    ),
}
