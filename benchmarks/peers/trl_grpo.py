"""The peer: GRPO steps by TRL's GRPOTrainer in torch on CPU, in turns (see `turns`).

    python benchmarks/peers/trl_grpo.py '{"shape": {...}, "problems": 8, ...}'

Runs in an environment that has trl, without cipo_jax. A turn is one step of `trainer.train()`:
sampling by transformers, a trivial reward, loss, backward pass, AdamW. With "update_only",
ready-made sequences of random tokens replace the sampling. Settings are TRL's defaults, except
float32 and no gradient checkpointing, so that both sides compute the same.
"""

import json
import sys
import tempfile

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from trl import GRPOConfig, GRPOTrainer
from turns import Turns

STOP = 0  # also fills rows; never sampled


def main() -> None:
    turns, work = Turns(), json.loads(sys.argv[1])
    torch.set_num_threads(work["threads"])
    torch.manual_seed(0)
    shape, sequences = work["shape"], work["problems"] * work["group"]
    tokens = work["prompt"] + work["response"]
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=shape["vocab_size"],
            hidden_size=shape["d_model"],
            intermediate_size=shape["mlp_dim"],
            num_hidden_layers=shape["num_layers"],
            num_attention_heads=shape["num_heads"],
            num_key_value_heads=shape["num_kv_heads"],
            head_dim=shape["head_dim"],
            tie_word_embeddings=shape["tie_embeddings"],
            max_position_embeddings=2 * tokens,
            bos_token_id=STOP,
            eos_token_id=STOP,
            pad_token_id=STOP,
        )
    )
    vocabulary = {str(i): i for i in range(shape["vocab_size"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="1"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    random = torch.randint(1, shape["vocab_size"], (work["problems"], work["prompt"])).tolist()
    prompts = [" ".join(map(str, ids)) for ids in random]

    class OnReadyMade(GRPOTrainer):
        def _generate_and_score_completions(self, inputs: list) -> dict:
            del inputs
            long = {"dtype": torch.long}
            prompts = torch.randint(shape["vocab_size"], (work["problems"], work["prompt"]))
            return {
                "prompt_ids": prompts.repeat_interleave(work["group"], dim=0),
                "prompt_mask": torch.ones(sequences, work["prompt"], **long),
                "completion_ids": torch.randint(shape["vocab_size"], (sequences, work["response"])),
                "completion_mask": torch.ones(sequences, work["response"], **long),
                "advantages": torch.randn(sequences),
                "num_items_in_batch": torch.tensor(sequences * work["response"]),
            }

    class OneStepATurn(transformers.TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            turns.begin()

        def on_step_end(self, *_: object, **__: object) -> None:
            trained = sequences * work["response"]
            turns.end(trained_tokens=trained, sampled_tokens=0 if work["update_only"] else trained)

    with tempfile.TemporaryDirectory() as directory:
        (OnReadyMade if work["update_only"] else GRPOTrainer)(
            model=model,
            reward_funcs=_reward,
            args=GRPOConfig(
                output_dir=directory,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                per_device_train_batch_size=work["microbatch"],
                gradient_accumulation_steps=sequences // work["microbatch"],
                num_generations=work["group"],
                max_completion_length=work["response"],
                generation_kwargs={"min_new_tokens": work["response"]},
                learning_rate=1e-4,
                max_steps=10**6,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=transformers.PreTrainedTokenizerFast(
                tokenizer_object=words, eos_token=str(STOP), pad_token=str(STOP)
            ),
            callbacks=[OneStepATurn()],
        ).train()


def _reward(completion_ids: list[list[int]], **_: object) -> list[float]:
    """Half of the completions are right."""
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


if __name__ == "__main__":
    main()
