"""`python -m cipo_jax`, short for `python -m cipo_jax.main`."""

from cipo_jax.main import main

if __name__ == "__main__":
    main()
