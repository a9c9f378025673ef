"""Calls between two sandboxed processes: the one holds the program, the other the tests.

`Peer` is one end of the channel between them. This file decides what can be asked of an object that
stays on the other side, and how the program's exceptions are raised in the tests. Data cross as
`values.py` has them. The file uses the standard library only.

A program's exception says of which classes it is: those of its own by number and name, built-in
ones by name, which is looked up in a table that was made before the program came. Of a class of the
program's own (or of a module that it imported) the tests get a new class, which is derived from the
built-in ones and holds no code of the program. Arguments cross if they are plain data.
"""

import builtins
import json
from collections.abc import Callable
from typing import Any

from cipo_jax.verifiers.sandbox.values import (
    MAX_BYTES,
    ValueCodecError,
    check_size,
    decode,
    encode,
    parse,
)
from cipo_jax.verifiers.sandbox.wire import read_message, write_message

SIZES = {"ask": 3, "value": 3, "raise": 4}  # of messages, by their first item
_MAX_CLASSES = 1_000  # of exceptions
_MAX_BASES = 10  # of one of them
_MAX_NAME = 100  # characters of its name
_MAX_ARGUMENTS = 2_000  # characters of an exception's arguments, written
# Arguments of these are read without a look at their bounds, or are exceptions.
_NOT_MADE = (
    *(UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError),
    *(ExceptionGroup, BaseExceptionGroup),
)
# An end of iteration would end the test's own loops early, and quietly.
_ENDS = (StopIteration, StopAsyncIteration)


class ProgramEndedError(BaseException):
    """The other process has ended. Not an `Exception`, so that no test catches it as one."""


class RemoteError(Exception):
    """An exception of the other side that is made of no built-in class."""


def text_of(error: BaseException) -> str:
    """The start of an error's message; "" if its `__str__` fails."""
    try:
        return str(error)[:300]
    except BaseException:
        return ""


def is_of_program(error: BaseException) -> bool:
    """Has the other side made it, whoever raised it here?"""
    return "_of_program" in error.__dict__


def _made_errors() -> dict[str, type[Exception]]:
    """{name of a built-in exception: the class that is raised for it}"""
    return {
        name: next(base for base in kind.__mro__ if base not in _NOT_MADE)
        for name, kind in vars(builtins).items()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in _ENDS
    }


_ERRORS = _made_errors()
_BUILTINS = frozenset(v for v in vars(builtins).values() if isinstance(v, type))


class Peer:
    """One end of the channel; it keeps the objects for which the other side has numbers."""

    def __init__(
        self,
        descriptor: int,
        serves: "Callable[[Peer, list[Any]], Any]",
        shows_errors: bool = False,
    ):
        """`serves(peer, request)` answers a request of the other side. `shows_errors`: which gets
        the classes and arguments of exceptions, and may read them: for the program's side only."""
        self._descriptor = descriptor
        self._serves = serves
        self._shows_errors = shows_errors
        self.has_ended = False  # the other side; it was noticed
        self._kept: dict[int, Any] = {}
        self._classes: dict[int, type] = {}  # stand-ins for the other side's, by number

    def request(self, operation: str, *arguments: Any) -> Any:
        """Asks the other side; meanwhile answers what it asks.

        Lists, dicts and sets among the arguments of a call that the other side changed are changed
        here as well. Its exceptions are raised here, by classes as said at the top of the file.

        Raises:
          ProgramEndedError: the other side has ended, or its answer cannot be read.
        """
        self.send(["ask", operation, [self.encode(a) for a in arguments]])
        while True:
            message = self.receive()
            if message[0] == "ask":
                self.answer(message)
                continue
            try:
                if message[0] == "raise":
                    result: Any = self._raised(*message[1:])
                else:
                    result, changed = self.decode(message[1]), self.decode(message[2])
                    for key, value in changed.items() if operation == "call" else ():
                        given = arguments[2] if isinstance(key, str) else arguments[1]
                        _assign(given[key], value)
            except Exception as error:
                self.has_ended = True  # it is of no more use
                raise ProgramEndedError from error
            if message[0] == "raise":
                raise result
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
                key: value for key, (value, old) in before.items() if self._snapshot(value) != old
            }
            reply = ["value", self.encode(result), self.encode(changed)]
        except ProgramEndedError:
            raise
        except BaseException as error:  # also SystemExit: the program's end is no answer
            shown = None
            if self._shows_errors:
                error.__traceback__ = None  # it may be kept, and would keep its frames
                shown = self._write_error(error)["error"]
            reply = ["raise", type(error).__name__, text_of(error), shown]
        try:
            self.send(reply)
        except ValueCodecError as error:
            self.send(["raise", "ValueError", str(error), None])

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
            if len(message) != SIZES[message[0]]:
                raise ValueError("no message")
        except (EOFError, OSError, ValueError, RecursionError, LookupError, TypeError) as error:
            self.has_ended = True
            raise ProgramEndedError from error
        return message

    def encode(self, value: Any) -> Any:
        written = encode(value, self._write)
        check_size(written)  # the other side would refuse it, and not say why
        return written

    def decode(self, value: Any) -> Any:
        return decode(value, self._lookup)

    def _write(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        if kind is _Remote or kind is _OwnKind or type(kind) is _OwnKind:
            return {"yours": value._number}
        if self._shows_errors:
            if issubclass(kind, BaseException):
                return self._write_error(value)
            if issubclass(kind, type) and issubclass(value, BaseException):
                return {"class": self._write_class(value)}
        return {"theirs": self._keep(value)}

    def _write_class(self, kind: type) -> Any:
        if kind in _BUILTINS:
            return kind.__name__
        bases = [base for base in kind.__bases__ if issubclass(base, BaseException)]
        return [self._keep(kind), kind.__name__, [self._write_class(base) for base in bases]]

    def _write_error(self, error: BaseException) -> dict[str, Any]:
        kind = type(error)
        try:
            written = encode(list(error.args))
            if len(json.dumps(written)) > _MAX_ARGUMENTS:
                written = None
        except (ValueError, TypeError, RecursionError):
            written = None
        number = None if kind in _BUILTINS else self._keep(error)
        return {"error": [self._write_class(kind), number, text_of(error), written]}

    def _keep(self, value: Any) -> int:
        self._kept[id(value)] = value  # kept alive, so the id stays its own
        return id(value)

    def _lookup(self, kind: str, body: Any) -> Any:
        if kind == "class":
            return self._class(body)
        if kind == "error":
            return self._error(*body)
        if type(body) is not int:
            raise ValueCodecError(f"no number: {body!r:.60}")
        return _Remote(self, body) if kind == "theirs" else self._kept[body]

    def _class(self, written: Any) -> type:
        """The class that stands for the other side's."""
        if isinstance(written, str):
            return _ERRORS.get(written, RemoteError)
        number, name, bases = written
        if type(number) is not int or not isinstance(name, str) or not isinstance(bases, list):
            raise ValueCodecError("no class")
        if number not in self._classes:
            if len(self._classes) >= _MAX_CLASSES or len(bases) > _MAX_BASES:
                raise ValueCodecError("too many classes")
            kinds = tuple(dict.fromkeys(map(self._class, bases))) or (RemoteError,)
            if not name.isidentifier() or len(name) > _MAX_NAME:
                name = "RemoteError"
            methods: dict[str, Any] = {"__str__": _own_text, "__getattr__": _own_attribute}
            methods |= {"_peer": self, "_number": number}
            try:
                kind = _OwnKind(name, kinds, methods)
            except TypeError:  # two of them do not go together
                kind = _OwnKind(name, kinds[:1], methods)
            self._classes[number] = kind
        return self._classes[number]

    def _error(self, written: Any, number: Any, text: Any, arguments: Any) -> BaseException:
        kind = self._class(written)
        if not isinstance(text, str):
            raise ValueCodecError("no text")
        is_other = isinstance(written, str) and kind.__name__ != written
        given = (text,) if arguments is None or is_other else decode(arguments)
        try:
            error = type.__call__(kind, *given)
        except Exception:  # a few take other arguments
            error = type.__call__(kind, text)
        error.__dict__["_of_program"] = True
        if type(kind) is _OwnKind:
            if type(number) is not int:
                raise ValueCodecError("no number")
            error.__dict__.update(_number=number, _text=text)
        return error

    def _raised(self, name: Any, text: Any, shown: Any) -> BaseException:
        error = self._error(*(shown or (str(name), None, str(text), None)))
        return RemoteError(f"{name}: {text}") if type(error) is RemoteError else error

    def _snapshot(self, value: Any) -> str:
        return json.dumps(self.encode(value))


def _mutable_arguments(operation: str, arguments: list[Any]) -> dict[Any, tuple[Any, str]]:
    """The arguments that a call may change, by position or name, each with its JSON before."""
    if operation != "call":
        return {}
    return {
        key: (value, json.dumps(encode(value, lambda item: {"theirs": id(item)})))
        for key, value in (*enumerate(arguments[1]), *arguments[2].items())
        if type(value) in (list, dict, set)
    }


def _assign(target: Any, value: Any) -> None:
    if type(target) is list and type(value) is list:
        target[:] = value
    elif type(target) in (dict, set) and type(value) is type(target):
        target.clear()
        target.update(value)


class _OwnKind(type):
    """Of classes that stand for the other side's exceptions: it makes their instances."""

    _peer: Peer

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._peer.request("call", cls, list(args), kwargs)

    def __getattr__(cls, name: str) -> Any:
        return _read(cls, name)


def _own_text(error: Any) -> str:
    return error._text


def _own_attribute(error: Any, name: str) -> Any:
    return _read(error, name)


def _read(owner: Any, name: str) -> Any:
    if name.startswith("_"):  # the interpreter's questions, as `__notes__`
        raise AttributeError(name)
    return owner._peer.request("getattr", owner, name)


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

    def __next__(self) -> Any:
        for item in self._peer.request("next", self):
            return item
        raise StopIteration

    def __contains__(self, item: Any) -> bool:
        """By its items, which are compared here; only an object without any is asked itself."""
        try:
            iterator = self._peer.request("iter", self)
        except TypeError:
            return self._peer.request("contains", self, item)
        return any(item is each or item == each for each in iterator)

    def __enter__(self) -> Any:
        return self._peer.request("enter", self)

    def __exit__(self, kind: Any, error: Any, frames: Any) -> None:
        """Its answer does not count: it would hide that a test has failed."""
        name = next((k.__name__ for k in kind.__mro__ if k in _BUILTINS), None) if kind else None
        self._peer.request("exit", self, name)

    def __len__(self) -> int:
        return self._peer.request("len", self)

    def __bool__(self) -> bool:
        return self._peer.request("bool", self)

    def __str__(self) -> str:
        return self._peer.request("str", self)

    def __repr__(self) -> str:
        return self._peer.request("repr", self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Remote):
            raise TypeError("two objects of the program cannot be compared")
        return False  # it is no plain data, whatever it says of itself

    def __ne__(self, other: object) -> bool:
        return not self == other
