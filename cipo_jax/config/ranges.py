"""Which values a key may have, by the annotation beside it.

    num_layers: Positive[int] = 3
    action: Literal["warn", "stop"] = "warn"

`resolve.py` refuses every other value and `reference.py` prints what is allowed. Decided here: the
ranges that keys share, and how an annotation is read. Which key has which is decided in `keys.py`,
what relates several keys in `checks.py`.
"""

import dataclasses
import datetime
import difflib
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar


@dataclasses.dataclass(frozen=True)
class Allowed:
    """A condition on the value of one key.

    Attributes:
      wanted: what the value should be; messages read "got 3, wanted <wanted>".
      holds: whether a value of the key's type fulfils it. False for NaN.
      words: the words among the allowed values, so that a message can name the nearest.
    """

    wanted: str
    holds: Callable[[Any], bool]
    words: tuple[str, ...] = ()


def once(part: str) -> Allowed:
    """A text that holds `part` exactly once."""
    return Allowed(f"a text that holds {part} once", lambda text: text.count(part) == 1)


def _matching(wanted: str, pattern: str) -> Allowed:
    return Allowed(wanted, lambda text: re.fullmatch(pattern, text) is not None)


def _is_date_or_nothing(text: str) -> bool:
    try:
        return not text or datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


_T = TypeVar("_T")  # Positive[int] or Positive[float]

Positive = Annotated[_T, Allowed("a value > 0", lambda v: v > 0)]
NotNegative = Annotated[_T, Allowed("a value >= 0", lambda v: v >= 0)]
Share = Annotated[float, Allowed("a share in [0, 1]", lambda v: 0 <= v <= 1)]
PositiveShare = Annotated[float, Allowed("a value in (0, 1]", lambda v: 0 < v <= 1)]
DecayRate = Annotated[float, Allowed("a decay rate in [0, 1)", lambda v: 0 <= v < 1)]
Reward = Annotated[float, Allowed("a reward in [-1, 1]", lambda v: -1 <= v <= 1)]
Limit = Annotated[_T, Allowed("a limit >= 0, or -1 for none", lambda v: v == -1 or v >= 0)]
Bound = Annotated[float, Allowed("a value > 1, or 0 for none", lambda v: v == 0 or v > 1)]
# Beyond some hundreds XLA takes minutes to make them.
CpuDevices = Annotated[int, Allowed("devices from 0 to 512", lambda v: 0 <= v <= 512)]
MeshSize = Annotated[int, Allowed("a size > 0, or -1 for the rest", lambda v: v == -1 or v > 0)]
Seed = Annotated[int, Allowed("a seed from 0 to 2**64 - 1", lambda v: 0 <= v < 2**64)]
_LONE = "a value >= 2: a group of one has no group-relative advantage, so nothing would be learned"
GroupSize = Annotated[int, Allowed(_LONE, lambda v: v >= 2)]
_STEPS = "(first, last) with 1 <= first <= last, or ()"
StepRange = Annotated[
    tuple[int, ...], Allowed(_STEPS, lambda v: not v or (len(v) == 2 and 1 <= v[0] <= v[1]))
]
Directory = Annotated[
    str, _matching("a directory, a bucket as gs://bucket/path, or nothing", r"(?!\w+://).*|gs://.+")
]
Date = Annotated[str, Allowed("a date such as 2024-08-01, or nothing", _is_date_or_nothing)]
DirectoryName = Annotated[
    str, _matching("a name for a directory, or nothing", r"([\w.+-]*\w[\w.+-]*)?")
]
_FUNCTION = "your own function, 'package.module:function' or 'path/to/file.py:function'"
YourFunction = Annotated[str, Allowed(_FUNCTION, lambda v: ":" in v)]


def rules(annotation: Any) -> list[Allowed]:
    """The conditions on a value; those on the items of a tuple are `rules(item_of(annotation))`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return [Allowed("one of " + ", ".join(map(repr, args)), args.__contains__, args)]
    if origin is Annotated:
        return [*rules(args[0]), *(a for a in args[1:] if isinstance(a, Allowed))]
    if _is_union(annotation):
        either = [rule for member in args for rule in rules(member)]
        return [
            Allowed(
                ", or ".join(rule.wanted for rule in either),
                lambda value: any(rule.holds(value) for rule in either),
                tuple(word for rule in either for word in rule.words),
            )
        ]
    return []


def plain_type(annotation: Any) -> type:
    """bool, int, float, str or tuple."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return type(args[0])
    if origin is Annotated or _is_union(annotation):
        return plain_type(args[0])
    return origin or annotation


def item_of(annotation: Any) -> Any:
    """The annotation of the items of a tuple."""
    args = typing.get_args(annotation)
    return item_of(args[0]) if typing.get_origin(annotation) is Annotated else args[0]


def did_you_mean(word: Any, known: Sequence[str]) -> str:
    """ "; did you mean 'word'?" with the nearest of `known`, "" if none is near."""
    close = difflib.get_close_matches(word, known, n=1) if isinstance(word, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
