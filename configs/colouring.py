"""A small transformer colours graphs, where a correction is worth more than another attempt.

    python -m cipo_jax.main --config=configs/colouring.py

Hardware: two CPU cores, nine minutes. No download: the program makes problems, tokenizer and model.

A wrong attempt shows a conflict that could not be seen before, if what it says is true. So the cold
start goes on until 95% of the lines of attempts are. configs/studies/repair.py compares methods.
"""

from cipo_jax.config import load_file


def get_config(variant="cipo"):
    c = load_file("demo.py", beside=__file__).get_config()
    c.num_steps = 60
    graphs(c)
    imitate(c)
    return load_file("variants.py", beside=__file__).apply(c, variant)


def graphs(c):
    """Graphs with two or three nodes to colour; imitation goes on until attempts say what is so."""
    c.data.train = c.data.eval = c.cold_start.demonstrations = "colouring"
    c.data.tokenizer = "char_graphs"
    c.data.min_operations, c.data.max_operations = 2, 3
    c.data.max_prompt_tokens = 64
    c.data.max_completion_tokens = c.data.max_attempt_tokens = 60
    c.batch.row_tokens = 192
    c.cold_start.stop_at_pass_rate = 0.45
    c.cold_start.stop_at_lines_true = 0.95


def imitate(c):
    """Half of the demonstrations are single nodes and honest wrong solutions; of the others, half
    are corrections."""
    c.cold_start.max_steps = 3000
    c.cold_start.check_every = 100
    c.cold_start.correction_share = 0.5
    c.cold_start.practice_share = 0.5
