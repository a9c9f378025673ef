"""The contenders of `generation.py --model`, with a tiny model and in this process."""

import sys
from pathlib import Path

import pytest
import tiny_hf
import tiny_models
from places import ROOT

from cipo_jax.data.tokenizer import load_tokenizer

pytestmark = pytest.mark.slow

sys.path.append(str(ROOT / "benchmarks"))

from pretrained import LENGTHS, SHORTEST, Work, engine_turn, make_prompts  # noqa: E402
from pretrained import transformers_turn as peer_turn  # noqa: E402


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="the peer needs torch: pip install cipo_jax[test]")
    directory = tmp_path_factory.mktemp("model")
    size = tiny_hf.make_tokenizer(directory)
    tiny_models.save_tiny_model(directory, vocab_size=size)
    return directory


def test_prompts_have_the_frame_of_the_template_and_unequal_lengths(directory: Path) -> None:
    prompts = make_prompts(directory, 12)
    lengths = [len(prompt) for prompt in prompts]
    assert len(set(lengths)) > 6 and max(lengths) <= LENGTHS[1]
    tokenizer = load_tokenizer(str(directory))
    before, after = tokenizer.frame(chat=True)
    for prompt in prompts:
        assert prompt[: len(before)] == before and prompt[-len(after) :] == after
        assert len(prompt) >= len(before) + SHORTEST + len(after)
    assert make_prompts(directory, 12) == prompts


def test_both_contenders_say_the_same(directory: Path) -> None:
    work = Work(str(directory), make_prompts(directory, 3), new=6, temperature=0.0, threads=1)
    ours = engine_turn(work)
    first = ours()
    assert first["tokens"] == 18 and len(set(first["digests"])) > 1
    assert ours() == first == peer_turn(work)()
