"""The package as on a CUDA GPU, without one: programs are made as for a GPU, and only lowered for
CUDA, or run on the CPU with their kernels interpreted. When they are run, JAX's own implementation
of the same call attends in place of cuDNN.

    python tests/as_on_gpu.py ARGUMENTS OF cipo_jax.main
"""

import contextlib
import functools
from collections.abc import Iterator
from unittest import mock

import jax

from cipo_jax import main
from cipo_jax.policy import attention_kernels, model
from cipo_jax.policy.cache import attention, pages
from cipo_jax.run import update
from cipo_jax.sampling import weights


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
    """For what is traced inside, and run."""
    attend = functools.partial(attention_kernels.cudnn_attention, implementation="xla")
    changed = {"INTERPRET": True, "cudnn_attention": attend}
    with _programs_of_a_gpu(), mock.patch.multiple(attention_kernels, **changed):
        yield


@contextlib.contextmanager
def lowered_for_cuda() -> Iterator[None]:
    """For what is traced inside, and lowered: as on a GPU with cuDNN and Triton."""
    lower = functools.partialmethod(jax.stages.Traced.lower, lowering_platforms=("cuda",))
    version = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
    with (
        _programs_of_a_gpu(),
        mock.patch.object(jax.stages.Traced, "lower", lower),
        mock.patch(version, lambda: 91000),
    ):
        yield


@contextlib.contextmanager
def _programs_of_a_gpu() -> Iterator[None]:
    def platform() -> str:
        return "cpu" if attention_kernels._WITHOUT.get() else "gpu"

    with contextlib.ExitStack() as stack:
        for module in (attention_kernels, model, attention, pages):
            stack.enter_context(mock.patch.object(module, "platform", platform))
        changed = {
            "copies_layers": lambda mesh: platform() == "gpu",
            "views_layers": lambda mesh: platform() == "cpu",
        }
        stack.enter_context(mock.patch.multiple(weights, **changed))
        stack.enter_context(mock.patch.object(update, "shares_prompts", lambda mesh: False))
        stack.enter_context(mock.patch.object(pages, "triton_reads_pages", lambda device: True))
        yield


if __name__ == "__main__":
    with as_on_gpu():
        main.main()
