"""Rows split over devices by tokens: the order of the tokens, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from cipo_jax.policy import context
from cipo_jax.types import CipoError


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_the_order_of_the_devices_and_back(shards: int) -> None:
    row = jnp.arange(24, dtype=jnp.int32)
    x = jnp.stack([row, 100 + row])[..., None]
    split = context.to_devices(x, shards)
    np.testing.assert_array_equal(split[0, :, 0], context.columns(24, shards))
    np.testing.assert_array_equal(split[1] - split[0], 100)
    np.testing.assert_array_equal(context.to_rows(split, shards), x)
    # What a token sees is in proportion to its column: as much on every device.
    work = context.columns(24, shards).reshape(shards, -1).sum(axis=1)
    assert len(set(work)) == 1


def test_rows_that_cannot_be_cut_are_refused() -> None:
    context.check_row_tokens(17, 1, "row_tokens")
    context.check_row_tokens(16, 4, "row_tokens")
    with pytest.raises(CipoError, match="row_tokens: got 12, wanted a multiple of 8, twice mesh"):
        context.check_row_tokens(12, 4, "row_tokens")
