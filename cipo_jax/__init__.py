"""CIPO: correction-oriented policy optimization in JAX.

Importing the package imports nothing heavy: verifier workers import `cipo_jax.verifiers` and must
never pay for, or touch, an accelerator runtime.
"""

__version__ = "0.1.0"
