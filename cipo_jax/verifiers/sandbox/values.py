"""Values on their way between a program under test and whoever judges it.

This file decides what crosses by value: plain data of the standard types, rebuilt by the receiver
from JSON, never unpickled. Everything else stays where it is and crosses as a number that stands
for it. So a program cannot hand over an object whose `==`, `abs` or `len` are its own code:
comparisons see plain data only.

`Peer` is one end of a channel between two sandboxed processes that call each other's functions: the
one holds the program, the other the tests. The file uses the standard library only.
"""

import builtins
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

from cipo_jax.verifiers.sandbox.wire import read_message, write_message

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

Keep = Callable[[Any], int]  # an object that stays here -> its number
Lookup = Callable[[str, Any], Any]  # "theirs" | "yours", number -> stand-in | the object itself


class ValueCodecError(ValueError):
    """The value cannot be written, or the message cannot be read."""


class ProgramEndedError(BaseException):
    """The other process has ended. Not an `Exception`, so that no test catches it as one."""


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
    if isinstance(value, _Remote):
        return {"yours": value._number}
    if isinstance(value, type) and _TYPES.get(value.__name__) is value:
        return {"type": value.__name__}
    if keep is None:
        raise ValueCodecError(f"a value of type {kind.__name__} cannot be compared")
    return {"theirs": keep(value)}


def decode(value: Any, lookup: Lookup | None = None) -> Any:
    """The inverse of `encode`; objects of the other side become stand-ins by `lookup`.

    What is refused takes no longer than what is not: sizes are looked at before anything is built.

    Raises:
      ValueCodecError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError: `encode`
        did not write it, or it exceeds MAX_VALUES or MAX_DEPTH.
    """
    with _uncollected():
        _check_size(value)
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


def _check_size(value: Any) -> None:
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
    if lookup is None or name not in ("theirs", "yours") or type(body) is not int:
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


class Peer:
    """One end of the channel; it keeps the objects for which the other side has numbers."""

    def __init__(self, descriptor: int, serves: "Callable[[Peer, list[Any]], Any]"):
        """`serves(peer, request)` answers a request of the other side."""
        self._descriptor = descriptor
        self._serves = serves
        self.has_ended = False  # the other side; it was noticed
        self._kept: dict[int, Any] = {}

    def request(self, operation: str, *arguments: Any) -> Any:
        """Asks the other side; meanwhile answers what it asks.

        Lists, dicts and sets among the positional arguments of a call that the other side changed
        are changed here as well. Its exceptions are raised here if they are built-in ones, else as
        `RemoteError`.

        Raises:
          ProgramEndedError: the other side has ended, or its answer cannot be read.
        """
        self.send(["ask", operation, [self.encode(a) for a in arguments]])
        while True:
            message = self.receive()
            if message[0] == "ask":
                self.answer(message)
                continue
            if message[0] == "raise":
                raise _exception(str(message[1]), str(message[2]))
            try:
                result, changed = self.decode(message[1]), self.decode(message[2])
                for i, value in changed.items():
                    _assign(arguments[1][i], value)
            except Exception as error:
                self.has_ended = True  # it is of no more use
                raise ProgramEndedError from error
            return result

    def serve(self) -> None:
        """Answers until the other side ends."""
        while True:
            try:
                message = self.receive()
            except ProgramEndedError:
                return
            self.answer(message)

    def answer(self, message: list[Any]) -> None:
        try:
            arguments = [self.decode(a) for a in message[2]]
            before = _mutable_arguments(message[1], arguments)
            result = self._serves(self, [message[1], *arguments])
            changed = {
                i: value for i, (value, old) in before.items() if self._snapshot(value) != old
            }
            reply = ["value", self.encode(result), self.encode(changed)]
        except ProgramEndedError:
            raise
        except BaseException as error:  # also SystemExit: the program's end is no answer
            reply = ["raise", type(error).__name__, text_of(error)]
        try:
            self.send(reply)
        except ValueCodecError as error:
            self.send(["raise", "ValueError", str(error)])

    def send(self, message: list[Any]) -> None:
        body = json.dumps(message).encode()
        if len(body) > MAX_BYTES:
            raise ValueCodecError(f"a value of {len(body):,} bytes, more than {MAX_BYTES:,}")
        try:
            write_message(self._descriptor, body)
        except OSError as error:
            self.has_ended = True
            raise ProgramEndedError from error

    def receive(self) -> list[Any]:
        try:
            body = read_message(self._descriptor, MAX_BYTES)
            if body is None:
                raise EOFError
            message = parse(body)
            if message[0] not in ("ask", "value", "raise") or len(message) != 3:
                raise ValueError("no message")
        except (EOFError, OSError, ValueError, RecursionError, LookupError, TypeError) as error:
            self.has_ended = True
            raise ProgramEndedError from error
        return message

    def encode(self, value: Any) -> Any:
        written = encode(value, self._keep)
        _check_size(written)  # the other side would refuse it, and not say why
        return written

    def decode(self, value: Any) -> Any:
        return decode(value, self._lookup)

    def _keep(self, value: Any) -> int:
        self._kept[id(value)] = value  # kept alive, so the id stays its own
        return id(value)

    def _lookup(self, whose: str, number: int) -> Any:
        return _Remote(self, number) if whose == "theirs" else self._kept[number]

    def _snapshot(self, value: Any) -> str:
        return json.dumps(self.encode(value))


def _mutable_arguments(operation: str, arguments: list[Any]) -> dict[int, tuple[Any, str]]:
    """The positional arguments that a call may change, by position, each with its JSON before."""
    if operation != "call":
        return {}
    return {
        i: (value, json.dumps(encode(value, id)))
        for i, value in enumerate(arguments[1])
        if type(value) in (list, dict, set)
    }


def _assign(target: Any, value: Any) -> None:
    if type(target) is list and type(value) is list:
        target[:] = value
    elif type(target) in (dict, set) and type(value) is type(target):
        target.clear()
        target.update(value)


class RemoteError(Exception):
    """An exception of the other side that is not a built-in one."""


def _exception(name: str, text: str) -> BaseException:
    kind = getattr(builtins, name, None)
    # An end of iteration would end the test's own loops early, and quietly.
    is_end = name in ("StopIteration", "StopAsyncIteration")
    if isinstance(kind, type) and issubclass(kind, Exception) and not is_end:
        with contextlib.suppress(TypeError):  # a few take more arguments
            return kind(text)
    return RemoteError(f"{name}: {text}")


def text_of(error: BaseException) -> str:
    """The start of an error's message; "" if its `__str__` fails."""
    try:
        return str(error)[:300]
    except BaseException:
        return ""


class _Remote:
    """Stands for an object of the other side: may be called, read, iterated, not compared."""

    __slots__ = ("_number", "_peer")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, peer: Peer, number: int):
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._peer.request("call", self, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._peer.request("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.request("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._peer.request("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._peer.request("setitem", self, key, value)

    def __iter__(self) -> Any:
        iterator = self._peer.request("iter", self)
        while batch := self._peer.request("next", iterator):
            yield batch[0]

    def __len__(self) -> int:
        return self._peer.request("len", self)

    def __bool__(self) -> bool:
        return self._peer.request("bool", self)

    def __str__(self) -> str:
        return self._peer.request("str", self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Remote):
            raise TypeError("two objects of the program cannot be compared")
        return False  # it is no plain data, whatever it says of itself

    def __ne__(self, other: object) -> bool:
        return not self == other
