"""The embedded tasks by the names that they have in the config.

This file decides which tasks there are. What a task is says `generated.py`.
"""

from cipo_jax.data.tasks import arithmetic, digit_lists, small_programs

GENERATED = {
    "arithmetic": arithmetic.TASK,
    "lists": digit_lists.TASK,
    "programs": small_programs.TASK,
}
