"""The embedded tasks by their names in the config. What a task is, is decided in `generated.py`."""

from cipo_jax.data.tasks import (
    arithmetic,
    digit_lists,
    graph_colouring,
    guess_and_check,
    small_programs,
    word_problems,
)

GENERATED = {
    "arithmetic": arithmetic.TASK,
    "lists": digit_lists.TASK,
    "programs": small_programs.TASK,
    "word_problems": word_problems.TASK,
    "guess": guess_and_check.TASK,
    "colouring": graph_colouring.TASK,
}
