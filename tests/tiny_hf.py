"""A small Hugging Face tokenizer, trained on the spot, shaped like those of chat models.

Byte-level BPE, so every text can be encoded; `<|endoftext|>`, `<|im_start|>`, `<|im_end|>` are
special tokens, `<think>` and `</think>` are added tokens that are not marked special; there is a
ChatML chat template. Nothing is downloaded.
"""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAG_TOKENS = ("<think>", "</think>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_CORPUS = (
    "Compute (((7+2)*3)-5). The answer is \\boxed{22}.",
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "Natalia sold 48 clips in April and half as many in May. How many clips did she sell?",
    "Check the previous attempt above and correct it. Then write the full solution again.",
    "def solve(n):\n    return sum(i for i in range(n))\n",
)


def make_tokenizer(directory: Path) -> int:
    """Writes the tokenizer's files to `directory` (made if missing); returns its vocabulary size.

    Ids are 0 .. size-1; eos is `<|im_end|>`, pad is `<|endoftext|>`.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens(list(TAG_TOKENS))
    tokenizer.chat_template = CHAT_TEMPLATE
    Path(directory).mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)
    return len(tokenizer)
