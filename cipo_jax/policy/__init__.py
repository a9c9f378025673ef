"""The policy model: pure functions of parameters and arrays. flax.linen stays inside this room."""
