"""data.tasks."""
