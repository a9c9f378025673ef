"""CIPO on programming problems with Seed-Coder-8B, the paper's code model.

    python -m cipo_jax.main --config=configs/code.py

Data: one json object per line with "question" and "tests" (see cipo_jax/verifiers/code/tests.py).
A sandbox runs the generated programs (bubblewrap, or Linux namespaces); where neither is available,
the run refuses to start. All settings that are not named here are those of configs/math.py. On 16
TPU v5e chips add --config.mesh.fsdp=4 --config.mesh.context=4: four chips then share a row.
"""

from cipo_jax.config import load_file


def get_config(variant="cipo"):
    c = load_file("math.py", beside=__file__).get_config(variant)
    c.model.source = "ByteDance-Seed/Seed-Coder-8B-Instruct"  # paper: Seed-Coder-8B
    c.data.train = "data/train_code.jsonl"
    c.data.eval = "data/eval_code.jsonl"
    c.data.prompt_template = "{question}\n\nAnswer with one Python program in a code block."
    c.data.correction_template = (
        "{question}\n\nHere is an earlier program for this problem. It may be right or wrong.\n\n"
        "{attempt}\n\nCheck it. Then give the complete, corrected program in one code block."
    )
    c.verifier.kind = "code"
    return c
