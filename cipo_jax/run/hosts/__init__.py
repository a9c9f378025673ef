"""run.hosts."""
