"""Which tokens end a completion: the tokenizer's own, and those that the config names.

Not decided here: what stop strings do in the text (`sampling/stop_strings`).
"""

import copy
from collections.abc import Sequence
from typing import Any

from cipo_jax.config.ranges import did_you_mean
from cipo_jax.data.tokenizer import Tokenizer
from cipo_jax.types import CipoError


def with_stop_tokens(
    tokenizer: Tokenizer, stop_tokens: Sequence[str], stop_strings: Sequence[str]
) -> Tokenizer:
    """The tokenizer with further `stop_ids`.

    Args:
      stop_tokens: names of control tokens, or ids in digits.
      stop_strings: one that is a control token without a text stands for the token as well.

    Raises:
      CipoError: no such token, or a stop string that holds a control token without a text.
    """
    ids = [*tokenizer.stop_ids, *(_id_of(tokenizer, name) for name in stop_tokens)]
    for text in stop_strings:
        held = [name for name in tokenizer.control if name in text]
        held = [name for name in held if not tokenizer.decode([tokenizer.control[name]])]
        if text in held:
            ids.append(tokenizer.control[text])
        elif held:
            raise CipoError(
                f"config.sampling.stop_strings: got {text!r}, which holds the special token "
                f"{held[0]!r}: completions have no text for it; name the token alone, in "
                "sampling.stop_tokens"
            )
    changed: Any = copy.copy(tokenizer)
    changed.stop_ids = tuple(dict.fromkeys(ids))
    return changed


def _id_of(tokenizer: Tokenizer, name: str) -> int:
    if name in tokenizer.control:
        return tokenizer.control[name]
    if name.isascii() and name.isdecimal() and int(name) < tokenizer.vocab_size:
        return int(name)
    hint = did_you_mean(name, list(tokenizer.control))
    raise CipoError(
        f"config.sampling.stop_tokens: got {name!r}, wanted the name of a special or added token "
        f"of the tokenizer, or an id from 0 to {tokenizer.vocab_size - 1}{hint}"
    )
