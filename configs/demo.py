"""A small transformer learns to colour graphs, and to correct itself. The default first run.

    python -m cipo_jax.main --config=configs/demo.py

Hardware: two CPU cores. No download: the program makes problems, tokenizer and model.

A wrong attempt shows a conflict that could not be seen before, so a correction can be worth more
than another attempt, if what the attempt says is true. So the cold start goes on until 95% of the
lines of attempts are. configs/studies/demo.py runs this over seeds, and GRPO beside it;
configs/studies/repair.py compares methods with AdamW, whose cold starts take twice as many steps.
"""

from cipo_jax.config import default_config, load_file


def get_config(variant="cipo"):
    c = default_config()
    c.num_steps = 140
    c.mesh.cpu_devices = 2
    c.mesh.data, c.mesh.fsdp = -1, 1
    graphs(c)
    imitate(c)
    c.cold_start.max_steps = 800
    c.cold_start.check_every = 50
    c.cold_start.learning_rate = 0.01
    c.optimizer.name = "muon"
    c.model.unroll = c.model.num_layers
    c.optimizer.learning_rate = 1.6e-3
    c.optimizer.schedule = "linear"
    c.optimizer.warmup_steps = 10
    c.optimizer.decay_steps = c.num_steps
    c.optimizer.final_share = 0.1  # so that a run with more steps goes on learning
    c.rollout.problems_per_step = 32
    c.eval.every = 70
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
    c.cold_start.correction_share = 0.5
    c.cold_start.practice_share = 0.5
