"""CIPO on a small pretrained model and word problems, on one machine.

    python -m cipo_jax.main --config=configs/small.py
    python -m cipo_jax.main --config=configs/small.py --config.model.source=directory/of/a/model
    python -m cipo_jax.main --config=configs/small.py:short      each part once, in minutes

Hardware: two CPU cores and 12 GiB of memory, or one GPU (not tried). The model is
SmolLM2-135M-Instruct (Apache-2.0) from the Hugging Face hub; `make real` fetches it where there is
no hub. Any directory or hub id of a model with a chat template will do.

The program makes the problems: short stories that ask for one or two operations with numbers up to
20. As it comes, SmolLM2 answers them at length and seldom ends with a box, so that most groups
would be without a right one. The cold start shows it the form on worked solutions and corrections.
After it a quarter of the answers is right at temperature 1. docs/laptop.md says what RL made of it.
"""

from cipo_jax.config import default_config, load_file


def get_config(variant="cipo"):
    c = default_config()
    c.num_steps = 20
    c.model.source = "HuggingFaceTB/SmolLM2-135M-Instruct"
    c.model.remat = "none"  # rows are few and short

    c.data.train = c.data.eval = c.cold_start.demonstrations = "word_problems"
    c.data.min_operations, c.data.max_operations = 1, 2
    c.data.tokenizer = ""  # the model's
    c.data.chat_template = True
    c.data.prompt_template = "{question}"
    c.data.correction_template = (
        "{question}\n\nHere is an earlier solution. It may be right or wrong.\n{attempt}\n\n"
        "Check it and give a correct solution."
    )
    c.data.max_prompt_tokens = 96
    c.data.max_attempt_tokens = 64
    c.data.max_completion_tokens = 64
    c.data.eval_problems = 128

    c.cold_start.max_steps = 60
    c.cold_start.batch_size = 8
    c.cold_start.learning_rate = 1e-4
    c.cold_start.right_share = 0.5
    c.cold_start.stop_at_pass_rate = 0.4
    c.cold_start.check_every = 15
    c.cold_start.check_problems = 32

    c.rollout.problems_per_step = 8
    c.correction.replay_fraction = 0.5
    c.optimizer.learning_rate = 2e-5
    c.batch.microbatch_rows = 1  # for the memory of a laptop; 0 derives more

    c.eval.every = 10
    c.eval.samples = 2
    c.eval.pass_at = (1, 2)
    c.checkpoint.every = 10
    c.checkpoint.keep = 1
    c.log.show_samples_every = 2
    if variant == "short":
        shorten(c)
        variant = "cipo"
    return load_file("variants.py", beside=__file__).apply(c, variant)


def shorten(c):
    """Shows that everything works. Two steps are too few to learn anything by RL."""
    c.num_steps = 2
    c.data.eval_problems = 16
    c.cold_start.max_steps = 24
    c.cold_start.check_every = 12
    c.cold_start.check_problems = 16
    c.rollout.problems_per_step = 4
    c.rollout.group_size = 4
    c.correction.group_size = 4
    c.eval.samples = 2
    c.eval.pass_at = (1, 2)
    c.log.show_samples_every = 1
