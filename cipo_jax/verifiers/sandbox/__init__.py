"""verifiers.sandbox."""
