"""CIPO on programming problems with Seed-Coder-8B, the paper's code model.

    python -m cipo_jax.main --config=configs/code.py

Generated programs are judged by running them, in a sandbox; without that verifier the run refuses
to start. Settings are those of configs/math.py but for what is named here.
"""

from cipo_jax.config import load_file


def get_config():
    c = load_file("math.py", beside=__file__)
    c.model.source = "checkpoints/Seed-Coder-8B-Instruct"  # paper: Seed-Coder-8B
    c.data.train = "data/train_code.jsonl"
    c.data.eval = "data/eval_code.jsonl"
    c.data.prompt_template = "{question}\n\nAnswer with one Python program in a code block."
    c.data.correction_template = (
        "{question}\n\nHere is an earlier program for this problem. It may be right or wrong.\n\n"
        "{attempt}\n\nCheck it. Then give the complete, corrected program in one code block."
    )
    c.verifier.kind = "code"
    return c
