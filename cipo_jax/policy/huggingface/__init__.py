"""policy.huggingface."""
