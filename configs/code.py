"""CIPO on programming problems with Seed-Coder-8B, the paper's code model.

    hf download ByteDance-Seed/Seed-Coder-8B-Instruct --local-dir checkpoints/Seed-Coder-8B-Instruct
    python -m cipo_jax.main --config=configs/code.py

Data: one json object a line with "question" and "tests" (see cipo_jax/verifiers/code/tests.py).
Generated programs are run in a sandbox (bubblewrap, or Linux namespaces); where none is to be had
the run refuses to start. Settings are those of configs/math.py but for what is named here.
"""

from cipo_jax.config import load_file


def get_config(variant="cipo"):
    c = load_file("math.py", beside=__file__).get_config(variant)
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
