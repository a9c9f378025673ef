"""run.watch."""
