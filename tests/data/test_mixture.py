"""Proportions hold, order depends on seed and step alone, and content is identified."""

import collections
import json
from pathlib import Path

import pytest

from cipo_jax.data.datasets import Columns
from cipo_jax.data.mixture import Part, TaskSplit, fingerprints, load_parts, open_mixture
from cipo_jax.data.tasks.generated import split_of
from cipo_jax.types import CipoError


def written(path: Path, count: int) -> str:
    rows = [{"question": f"{path.stem} {i}?", "answer": str(i)} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    return written(tmp_path / "a.jsonl", 30), written(tmp_path / "b.jsonl", 50)


def loaded(text: str) -> list[Part]:
    return load_parts(text, Columns(), "data.train")


TRAIN = TaskSplit("train")


def test_one_source_keeps_its_ids_and_several_are_told_apart(files: tuple[str, str]) -> None:
    a, b = files
    [alone] = loaded(a)
    assert alone.placed is not None and alone.placed[0].problem.id == "a:1"
    first, second = loaded(f"{a},{b}")
    assert first.placed and first.placed[0].problem.id == f"{a}/a:1"
    assert first.placed[0].where == f"{a}:1"
    assert second.placed and second.placed[0].problem.id == f"{b}/b:1"


def test_without_weights_every_problem_comes_once_an_epoch(files: tuple[str, str]) -> None:
    source = open_mixture(loaded(",".join(files)), 0, TRAIN)
    ids = [p.id for step in range(10) for p in source.batch(step, 8)]
    assert len(set(ids)) == 80
    assert open_mixture(loaded(",".join(files)), 1, TRAIN).batch(0, 8) != source.batch(0, 8)
    assert [p.question for p in source.first(32)][29:] == ["a 29?", "b 0?", "b 1?"]


def test_weights_hold_exactly_in_each_thousand(files: tuple[str, str]) -> None:
    a, b = files
    source = open_mixture(loaded(f"{a}=0.6,{b}=0.15,arithmetic=0.25"), 3, TRAIN)
    for block in range(2):
        problems = source.batch(block, 1000)
        of = collections.Counter(p.question[0] for p in problems)
        assert of == {"a": 600, "b": 150, "C": 250}  # "Compute ..."
        assert all(split_of(p.id) == "train" for p in problems if p.question[0] == "C")
        assert {n for _, n in collections.Counter(p.id for p in problems).items() if n > 1} == {
            20,  # 600 of 30, each as often as any other
            3,
        }
    small = collections.Counter(p.question[0] for p in source.batch(0, 40))
    assert len(small) == 3  # not one source after the other


def test_a_generator_with_few_different_problems_repeats_them(files: tuple[str, str]) -> None:
    few = TaskSplit("train", 1, 1)
    source = open_mixture(loaded(f"{files[0]}=0.1,programs=0.9"), 3, few)
    problems = source.batch(0, 1000)
    generated = collections.Counter(p.id for p in problems if not p.id.startswith(files[0]))
    assert generated.total() == 900
    assert max(generated.values()) - min(generated.values()) == 1
    assert {split_of(name) for name in generated} == {"train"}
    assert problems == open_mixture(loaded(f"{files[0]}=0.1,programs=0.9"), 3, few).batch(0, 1000)


def test_a_batch_is_a_function_of_seed_and_step(files: tuple[str, str]) -> None:
    text = f"{files[0]}=0.7,{files[1]}=0.3"
    source = open_mixture(loaded(text), 5, TRAIN)
    last_first = [source.batch(step, 33) for step in reversed(range(60))][::-1]
    resumed = open_mixture(loaded(text), 5, TRAIN)
    assert [resumed.batch(step, 33) for step in range(60)] == last_first
    assert open_mixture(loaded(text), 6, TRAIN).batch(0, 33) != last_first[0]
    flat = [p for batch in last_first for p in batch]
    assert flat[:1000] == source.batch(0, 1000)  # the same order for any batch size
    sources = ["a.jsonl" in p.id for p in flat]
    assert sources[:900] != sources[1000:1900]  # blocks differ in their order


def test_evaluation_takes_the_first_of_each_in_proportion(files: tuple[str, str]) -> None:
    a, b = files
    source = open_mixture(loaded(f"{a}=2,{b}=1"), 0, TRAIN)
    chosen = [p.question for p in source.first(7)]
    assert chosen == ["a 0?", "a 1?", "a 2?", "a 3?", "a 4?", "b 0?", "b 1?"]
    assert len(source.first(0)) == 80
    with pytest.raises(CipoError, match="wanted at most the 30"):
        source.first(60)
    with pytest.raises(CipoError, match="b.jsonl has weight 0.0001, less than a thousandth"):
        open_mixture(loaded(f"{a}=1,{b}=0.0001"), 0, TRAIN)


def test_each_source_has_a_fingerprint(files: tuple[str, str], tmp_path: Path) -> None:
    a, b = files
    before = fingerprints(loaded(f"{a}=1,{b}=1,arithmetic=1"), TRAIN)
    assert {name: entry["problems"] for name, entry in before.items()} == {
        a: 30,
        b: 50,
        "arithmetic": None,
    }
    written(Path(b), 49)
    after = fingerprints(loaded(f"{a}=1,{b}=1,arithmetic=1"), TRAIN)
    assert [name for name in before if before[name] != after[name]] == [b]
    harder = fingerprints([Part("arithmetic", None, None)], TaskSplit("train", 3, 6))
    assert harder["arithmetic"] != before["arithmetic"]


def test_mistakes_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(CipoError, match=r"^config.data.train: .*x.jsonl: there is no such file"):
        loaded(str(tmp_path / "x.jsonl"))
