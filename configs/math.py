"""CIPO on math problems with Qwen3-4B, the paper's math model, on a TPU slice.

    python -m cipo_jax.main --config=configs/math.py \
        --config.data.train=data/train.jsonl --config.data.eval=data/math500.jsonl

Data: one json object per line with "question" (or "problem") and "answer".

Hardware: 16 TPU v5e chips or as much memory (docs/scaling.md says what fits where). Compiled for
them, not run on a TPU yet. Sizes that depend on the devices are derived from them; --mode=explain
shows each. configs/small.py is for one machine.

Values marked "paper" come from arXiv 2605.14539 or summaries of it; the others are ours. The
controller is the program's; `configs/math.py:paper_controller` has the paper's, as far as known.
"""

from cipo_jax.config import default_config, load_file


def get_config(variant="cipo"):
    c = default_config()
    c.num_steps = 300  # ours

    c.model.source = "Qwen/Qwen3-4B"  # paper: Qwen3-4B; a hub id or a directory
    c.model.param_dtype = "float32"  # ours: master weights and Adam moments
    c.model.compute_dtype = "bfloat16"  # ours
    c.model.remat = "full"  # ours

    c.data.train = "data/train.jsonl"
    c.data.eval = "data/math500.jsonl"
    c.data.eval_problems = 0  # all
    c.data.tokenizer = ""  # the model's
    c.data.chat_template = True
    c.data.prompt_template = (  # ours
        "{question}\n\nReason step by step, and put the final answer within \\boxed{}."
    )
    c.data.correction_template = (  # ours
        "{question}\n\nHere is an earlier attempt at this problem. It may be right or wrong.\n\n"
        "--- attempt ---\n{attempt}\n--- end of attempt ---\n\n"
        "Check the attempt step by step. Then give a complete, corrected solution, and put the "
        "final answer within \\boxed{}."
    )
    c.data.max_prompt_tokens = 1024  # ours
    c.data.max_attempt_tokens = 8192  # ours: an attempt is quoted whole
    c.data.max_completion_tokens = 8192  # ours

    c.cold_start.max_steps = 0  # the checkpoint already answers

    c.sampling.chunk = 64  # ours
    c.sampling.page_size = 64  # ours
    c.sampling.dispatch_ahead = True  # ours

    c.rollout.problems_per_step = 128  # ours
    c.rollout.group_size = 8  # paper
    c.correction.replay_fraction = 0.5  # ours
    c.correction.group_size = 8  # ours

    c.optimizer.learning_rate = 1e-6  # ours
    c.optimizer.warmup_steps = 10  # ours
    c.optimizer.b2 = 0.999  # ours

    c.verifier.kind = "math"

    c.eval.every = 25
    c.eval.samples = 8
    c.checkpoint.every = 10
    return load_file("variants.py", beside=__file__).apply(c, variant)
