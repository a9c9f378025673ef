"""What the end of a prompt opens, and the completion goes on in: a thought, or a code block.

Verifiers are given the completion with it in front, so that they see the whole thought or block and
need to know nothing else. What a thought is, is decided in `thoughts.py`; what a code block is, in
`code/blocks.py`.
"""

from cipo_jax.verifiers.code.blocks import opened_fence
from cipo_jax.verifiers.thoughts import opened_by


def opening_of(prompt_end: str) -> str:
    """The tag of a thought, or the fence of a code block with its line break; "" for neither."""
    return opened_by(prompt_end) or opened_fence(prompt_end)
