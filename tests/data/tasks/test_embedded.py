"""Every embedded task can be written by the tokenizer that it names."""

import pytest

from cipo_jax.data.tasks.embedded import GENERATED
from cipo_jax.data.tasks.generated import GeneratedDemonstrations
from cipo_jax.data.tokenizer import load_tokenizer


@pytest.mark.parametrize("name", GENERATED)
def test_its_tokenizer_writes_its_texts(name):
    task = GENERATED[name]
    tokenizer = load_tokenizer(task.tokenizer)
    for d in GeneratedDemonstrations(task, 0, 1.0, 0.0).batch(0, 50):
        for text in (d.problem.question, d.solution, d.previous_attempt or ""):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tasks_with_one_tokenizer_need_the_same_pieces():
    pieces = {(t.tokenizer, t.characters, t.phrases) for t in GENERATED.values()}
    assert len(pieces) == len({t.tokenizer for t in GENERATED.values()})


def test_random_streams_are_apart():
    assert len({task.first_stream // 10 for task in GENERATED.values()}) == len(GENERATED)
