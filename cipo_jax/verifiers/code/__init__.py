"""verifiers.code."""
