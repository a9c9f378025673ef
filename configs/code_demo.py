"""A small transformer learns to write one-line functions, which are judged by running them.

    python -m cipo_jax.main --config=configs/code_demo.py

Hardware: two CPU cores. No download. The sandbox needs bubblewrap or Linux namespaces, see
cipo_jax/verifiers/sandbox/layers.py.
"""

from cipo_jax.config import load_file


def get_config(variant="cipo"):
    c = load_file("arithmetic.py", beside=__file__).get_config(variant)
    c.data.train = "programs"
    c.data.eval = "programs"
    c.cold_start.demonstrations = "programs"
    c.data.tokenizer = "char_code"
    c.data.min_operations = 1
    c.data.max_operations = 4
    c.verifier.kind = "code"
    return c
