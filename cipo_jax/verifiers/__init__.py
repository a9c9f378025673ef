"""The verifiers: they judge completions on the host, in processes of their own."""
