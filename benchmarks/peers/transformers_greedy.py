"""transformers as it is used to evaluate a model: its chat template, its `generate`, greedy."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm


class Greedy:
    """A model directory, on the CPU. Its weights are loaded when they are first needed, so that
    what comes before has the memory.

    Args:
      dtype: of weights and activations.
      rows: of a batch; shorter prompts are padded on the left.
      threads: of torch.

    Attributes:
      about: the settings, in words. Of generation_config.json the stop tokens alone are used:
        penalties and sampling would not be greedy.
    """

    def __init__(self, directory: str, dtype: str, rows: int, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self._torch, self._rows = torch, rows
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        load = transformers.AutoModelForCausalLM.from_pretrained
        self._read = functools.partial(load, directory, dtype=getattr(torch, dtype))
        if (Path(directory) / "generation_config.json").is_file():
            own = transformers.GenerationConfig.from_pretrained(directory)
        else:
            config = transformers.AutoConfig.from_pretrained(directory)
            own = transformers.GenerationConfig.from_model_config(config)
        stops = self._tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
        self._stops = stops if isinstance(stops, list) else [stops]
        self._pad = own.pad_token_id if own.pad_token_id is not None else self._stops[0]
        self._config: Any = transformers.GenerationConfig
        self.about = f"{transformers.__version__}, torch {torch.__version__}, {dtype}, greedy, "
        self.about += f"{rows} rows, stops at {self._stops}"

    @functools.cached_property
    def _network(self) -> Any:
        return self._read().eval()

    def load(self) -> None:
        """Reads the weights, if they are not here yet."""
        self._network  # noqa: B018

    def prompt(self, text: str, chat: bool) -> list[int]:
        """The tokens of one user turn and the opening of the answer, or of the plain text."""
        if not chat:
            return self._tokenizer(text).input_ids
        turns = [{"role": "user", "content": text}]
        return self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )

    def generate(self, prompts: Sequence[list[int]], new_tokens: int) -> list[list[int]]:
        """Completions in the order of the prompts, a stop token included."""
        torch = self._torch
        settings = self._config(
            do_sample=False,
            eos_token_id=self._stops,
            pad_token_id=self._pad,
            max_new_tokens=new_tokens,
        )
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        done: dict[int, list[int]] = {}
        batches = [order[n : n + self._rows] for n in range(0, len(order), self._rows)]
        for some in tqdm(batches, desc="transformers", unit="batch"):
            width = max(len(prompts[i]) for i in some)
            padding = [width - len(prompts[i]) for i in some]
            pairs = list(zip(some, padding, strict=True))
            ids = torch.tensor([[self._pad] * n + prompts[i] for i, n in pairs])
            mask = torch.tensor([[0] * n + [1] * (width - n) for n in padding])
            out = self._network.generate(ids, attention_mask=mask, generation_config=settings)
            done |= {i: self._cut(row[width:].tolist()) for i, row in zip(some, out, strict=True)}
        return [done[i] for i in range(len(prompts))]

    def logits(self, before: Sequence[int]) -> np.ndarray:
        """[V] float32 logits of the token after `before`, in one pass without a cache."""
        torch = self._torch
        with torch.no_grad():
            out = self._network(torch.tensor([list(before)]), logits_to_keep=1).logits[0, -1]
        return out.float().numpy()

    def decode(self, tokens: Sequence[int]) -> str:
        """The text, without special tokens."""
        return self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def show(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens)

    def _cut(self, tokens: list[int]) -> list[int]:
        ends = [n for n, token in enumerate(tokens, 1) if token in self._stops]
        return tokens[: ends[0]] if ends else tokens
