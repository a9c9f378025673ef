"""commands.study."""
