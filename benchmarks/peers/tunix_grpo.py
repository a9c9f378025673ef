"""A second peer: GRPO steps by google-tunix's GRPOLearner in JAX on CPU, in turns (see `turns`).

    python benchmarks/peers/tunix_grpo.py '{"shape": {...}, "problems": 8, ...}'

Runs in an environment that has google-tunix, without cipo_jax. A turn is one step of
`learner.train()`: its "vanilla" sampler, a trivial reward, loss, backward pass, and AdamW after
clipping of gradients. With "update_only", ready-made sequences of random tokens replace the
sampling. Settings are tunix's defaults, except temperature 1, no KL term, and sizes that suit it:
one batch samples all answers, and the cache just holds them. "threads" is ignored: XLA has one
device here, on the cores that the process may use. "microbatch" has to be a multiple of "group",
because tunix counts prompts.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from tunix.models.llama3.model import Llama3, ModelConfig
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner, TrainExample
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig
from turns import Turns

jax.config.update("jax_platforms", "cpu")
NO_TOKEN = -1  # a stop and padding token that never occurs: every row is full


class Numbers:
    """A tokenizer whose texts are ids: "17 4 256"."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> None:
        return None

    def eos_id(self) -> int:
        return NO_TOKEN

    pad_id = eos_id


def main() -> None:
    turns, work = Turns(), json.loads(sys.argv[1])
    problems, group, response = work["problems"], work["group"], work["response"]
    sequences, vocabulary = problems * group, work["shape"]["vocab_size"]
    if work["microbatch"] % group:
        raise SystemExit(f"microbatch: {work['microbatch']} is not a multiple of {group=}")
    rng = np.random.default_rng(0)
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), 2 * (jax.sharding.AxisType.Auto,))
    cluster = RLCluster(
        actor=_make_model(work["shape"]),
        tokenizer=Numbers(),
        cluster_config=ClusterConfig(
            role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
            training_config=RLTrainingConfig(
                actor_optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4)),
                eval_every_n_steps=10**6,
                max_steps=10**6,
                mini_batch_size=problems,
                train_micro_batch_size=work["microbatch"] // group,
                rollout_micro_batch_size=problems,
            ),
            rollout_config=RolloutConfig(
                max_prompt_length=work["prompt"],
                max_tokens_to_generate=response,
                kv_cache_size=work["prompt"] + response,
                temperature=1.0,
            ),
        ),
    )
    trained = 0

    class Counting(GRPOLearner):
        def _generate_and_compute_advantage(self, *args: Any, **options: Any) -> TrainExample:
            nonlocal trained
            if work["update_only"]:
                example = ready_made()
            else:
                example = super()._generate_and_compute_advantage(*args, **options)
            trained += int(np.asarray(example.completion_mask).sum())
            return example

    def ready_made() -> TrainExample:
        prompts = rng.integers(vocabulary, size=(problems, work["prompt"]))
        return TrainExample(
            prompt_ids=jax.device_put(np.repeat(prompts, group, axis=0)),
            prompt_mask=jax.device_put(np.ones((sequences, work["prompt"]), bool)),
            completion_ids=jax.device_put(rng.integers(vocabulary, size=(sequences, response))),
            completion_mask=jax.device_put(np.ones((sequences, response), bool)),
            advantages=jax.device_put(rng.normal(size=sequences).astype(np.float32)),
            ref_per_token_logps=None,
            old_per_token_logps=None,
        )

    def batches() -> Iterator[dict[str, np.ndarray]]:
        """Prompts of the next step. A request for them means that the previous step has ended."""
        nonlocal trained
        while True:
            prompts = rng.integers(vocabulary, size=(problems, work["prompt"]))
            turns.begin()
            yield {"prompts": np.array([Numbers().decode(ids) for ids in prompts])}
            jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
            turns.end(trained_tokens=trained, sampled_tokens=0 if work["update_only"] else trained)
            trained = 0

    Counting(
        rl_cluster=cluster,
        algo_config=GRPOConfig(num_generations=group, beta=0.0),
        reward_fns=_reward,
    ).train(batches())


def _make_model(shape: dict[str, Any]) -> Llama3:
    """Random float32 weights. All of them: tunix leaves MLPs at zero, for a checkpoint to fill."""
    config = ModelConfig(
        num_layers=shape["num_layers"],
        vocab_size=shape["vocab_size"],
        embed_dim=shape["d_model"],
        hidden_dim=shape["mlp_dim"],
        num_heads=shape["num_heads"],
        head_dim=shape["head_dim"],
        num_kv_heads=shape["num_kv_heads"],
        rope_theta=10_000,
        norm_eps=1e-6,
        weight_tying=shape["tie_embeddings"],
    )
    model = Llama3(config, rngs=nnx.Rngs(0))
    keys = nnx.Rngs(1)

    def drawn(x: jax.Array) -> jax.Array:
        return 0.02 * jax.random.normal(keys(), x.shape) if x.ndim > 1 else x

    nnx.update(model, jax.tree.map(drawn, nnx.state(model)))
    return model


def _reward(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """Half of the completions are right."""
    del prompts
    return [float(sum(map(int, text.split())) % 2 == 0) for text in completions]


if __name__ == "__main__":
    main()
