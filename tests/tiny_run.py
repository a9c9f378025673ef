"""The config of the smallest run that does everything: both streams, evaluations, checkpoints.

Fresh weights and no cold start, so that a process has finished it in seconds.
"""

from pathlib import Path

from cipo_jax.config import load_file
from cipo_jax.types import Outcome, Problem, Verdict

SMOKE = Path(__file__).parents[1] / "configs" / "smoke.py"


def verify(problem: Problem, text: str) -> Verdict:
    """What a fresh network is right about half the time, so that there is something to learn."""
    right = sum(map(ord, text)) % 2 == 0
    return Verdict(Outcome.CORRECT if right else Outcome.WRONG, extracted=text[:1])


def get_config():
    c = load_file(SMOKE.name, beside=str(SMOKE)).get_config()
    c.num_steps = 3
    c.model.num_layers = 1
    c.model.d_model = 32
    c.model.num_heads = 2
    c.model.num_kv_heads = 1
    c.model.mlp_dim = 64
    c.data.eval_problems = 4
    c.cold_start.max_steps = 0
    c.rollout.problems_per_step = 4
    c.rollout.group_size = 2
    c.correction.group_size = 2
    c.correction.cut_anchors = True  # a fresh network seldom stops by itself
    c.sampling.slots = 16
    c.sampling.chunk = 4
    c.batch.microbatch_rows = 4
    c.verifier.kind = f"{__file__}:verify"
    c.verifier.workers = 1
    c.eval.every = 2
    c.eval.samples = 2
    c.eval.pass_at = (1,)
    c.checkpoint.every = 1
    c.log.tensorboard = False
    c.log.show_samples_every = 0
    return c
