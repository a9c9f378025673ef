"""What a compiled program needs."""

import jax
import jax.numpy as jnp

from cipo_jax.run.memory_plan import compile_program


def test_temporaries_count_where_the_compilers_peak_leaves_them_out() -> None:
    def step(x: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        a = jnp.sin(x @ x)
        return x + jnp.sort(a @ a.T, axis=0) @ a, count

    x, count = jnp.zeros((64, 64)), jnp.zeros(())
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(x, count)
    said: list[str] = []
    program = compile_program("step", lowered, said.append)
    assert program.argument_bytes == x.nbytes + count.nbytes
    assert program.temporary_bytes >= 2 * x.nbytes  # XLA:CPU has a peak without them
    assert program.work.flops >= 3 * 2 * 64**3 and said[0].startswith("step ")
