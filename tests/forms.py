"""The forms of a parametrised test: with `-m "not slow"` some of them are enough."""

from collections.abc import Sequence
from typing import Any

import pytest


def fast(forms: Sequence[Any], *chosen: int, arguments: int = 1) -> list[Any]:
    """The forms, as an argument of `parametrize`: all but those at the places `chosen` are slow.

    Args:
      forms: values, or with several arguments a tuple of values each.
    """
    kept = {range(len(forms))[place] for place in chosen}
    assert kept, "no form is fast: mark the test slow"
    values = [form if arguments > 1 else (form,) for form in forms]
    slow = pytest.mark.slow
    return [pytest.param(*of, marks=() if i in kept else slow) for i, of in enumerate(values)]
