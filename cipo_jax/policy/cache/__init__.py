"""policy.cache."""
