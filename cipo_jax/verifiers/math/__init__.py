"""verifiers.math."""
