"""run.records."""
