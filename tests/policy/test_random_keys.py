"""Keys are threefry's, and all of a seed counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from places import ROOT

from cipo_jax.policy.random_keys import key_data, random_key, wrap_key_data


@pytest.mark.parametrize("seed", [0, 5, 2**31 + 1, 2**32 - 1])
def test_keys_of_small_seeds_are_those_of_jax(seed: int) -> None:
    wanted = jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))
    np.testing.assert_array_equal(key_data(random_key(seed)), wanted)


def test_all_of_a_seed_counts() -> None:
    seeds = [5, 2**32 + 5, 2**40 + 5, 2**63 + 5, 2**64 - 1]
    assert len({tuple(key_data(random_key(seed))) for seed in seeds}) == len(seeds)


def test_keys_do_not_depend_on_the_default_of_jax() -> None:
    wanted = float(jax.random.uniform(jax.random.fold_in(random_key(3), 7)))
    with jax.default_prng_impl("rbg"):
        again = wrap_key_data(jnp.asarray(key_data(random_key(3))))
        assert float(jax.random.uniform(jax.random.fold_in(again, 7))) == wanted
        with pytest.raises(ValueError, match="wanted a single threefry2x32 key"):
            key_data(jax.random.key(3))


def test_keys_are_made_here_only() -> None:
    """A key made elsewhere would be of JAX's default kind."""
    makers = ("random.key(", "random.PRNGKey(", "random.wrap_key_data(")
    files = {
        file.name
        for file in (ROOT / "cipo_jax").rglob("*.py")
        if any(maker in file.read_text() for maker in makers)
    }
    assert files == {"random_keys.py"}
