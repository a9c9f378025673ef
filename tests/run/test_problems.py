"""Bad problems are found at the start, and left out only where the config says so."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import FIXTURES

from cipo_jax.config import default_config
from cipo_jax.config.keys import Config, Verifier
from cipo_jax.config.resolve import resolve
from cipo_jax.data.prompts import PromptWriter
from cipo_jax.data.tasks.generated import split_of
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.run import problems as problem_sets
from cipo_jax.types import CipoError, Prompt


def prompts_of(c: Config, tokenizer: str = "bytes") -> PromptWriter:
    return PromptWriter(load_tokenizer(tokenizer), c.data)


EVALUATED = "A farmer has 3 hens and each of them lays 2 eggs on every day of the week."
ROWS = [
    "What is 1+1?",
    EVALUATED + " How many eggs?",  # overlaps by its words
    "What is 2+2?",
    "WHAT is 1 + 1?",  # repeats the first
    "What is 7*8?",  # is in the evaluation data
    "What is " + "+".join("12345") * 30 + "?",  # is long
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    rows = [{"question": text, "answer": str(i)} for i, text in enumerate(ROWS)]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"question": text, "answer": "1"} for text in (EVALUATED, "what is 7*8?")]
    test.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return train, test


def config(files: tuple[Path, Path], **keys: Any) -> Config:
    raw = default_config()
    raw.data.train, raw.data.eval = map(str, files)
    raw.data.update({"tokenizer": "bytes", "max_prompt_tokens": 200} | keys)
    return resolve(raw)


def kept(c: Config) -> list[int]:
    opened = problem_sets.open_training(c, prompts_of(c))
    return [ROWS.index(p.question) for p in opened.source.first(0)]


@pytest.mark.parametrize(
    ("drop", "left"),
    [
        (("too_long",), [0, 1, 2, 3, 4]),
        (("too_long", "duplicates"), [0, 1, 2, 4]),
        (("too_long", "overlap"), [0, 2, 3]),
        (("too_long", "duplicates", "overlap"), [0, 2]),
    ],
)
def test_each_reason_leaves_out_its_own(
    files: tuple[Path, Path], drop: tuple[str, ...], left: list[int]
) -> None:
    assert kept(config(files, drop=drop)) == left


def test_what_is_left_out_is_counted_and_said(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    c = config(files, drop=("overlap", "duplicates", "too_long"))
    opened = problem_sets.open_training(c, prompts_of(c))
    assert opened.dropped == {"overlap": 2, "duplicates": 1, "too_long": 1}
    assert "2 problems to train on; left out: 2 overlap, 1 dup" in capsys.readouterr().out
    assert opened.fingerprints[c.data.train]["problems"] == 2
    longer = config(files, max_prompt_tokens=2000)
    whole = problem_sets.open_training(longer, prompts_of(longer))
    assert whole.fingerprints != opened.fingerprints and not whole.dropped
    assert capsys.readouterr().out == ""


def test_a_long_prompt_is_refused_at_the_start(files: tuple[Path, Path]) -> None:
    c = config(files)
    with pytest.raises(
        CipoError, match=r"config.data.train: .*train.jsonl:6: .* tokens.*max_prompt_tokens = 200"
    ):
        problem_sets.open_training(c, prompts_of(c))


def test_a_prompt_that_cannot_be_written_is_refused_with_its_line(files: tuple[Path, Path]) -> None:
    c = config(files)
    with pytest.raises(CipoError, match=r"train.jsonl:1: tokenizer 'char' cannot write"):
        problem_sets.open_training(c, prompts_of(c, "char"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("lists", r"lists:.*: tokenizer 'char' cannot write the character ':'"),
        ("lists=0.1,arithmetic=0.9", r"lists:.*: tokenizer 'char' cannot write"),
        ("arithmetic", r"arithmetic:.* tokens.*max_prompt_tokens = 20.*max_operations"),
    ],
)
def test_a_generator_is_looked_at_as_well(source: str, message: str) -> None:
    """Else the run would end at the step that draws such a problem."""
    raw = default_config()
    raw.data.train, raw.data.max_prompt_tokens = source, 20
    c = resolve(raw)
    with pytest.raises(CipoError, match=f"config.data.train: {message}"):
        problem_sets.open_training(c, prompts_of(c, "char"))


def test_a_generator_of_few_problems_is_looked_at_as_far_as_they_go() -> None:
    raw = default_config()
    raw.data.train, raw.data.tokenizer = "programs", "char_code"
    raw.data.min_operations = raw.data.max_operations = 1
    raw.verifier.kind = "code"
    c = resolve(raw)
    parts = problem_sets.load_training(c.data, c.seed)
    looked_at = problem_sets.first_generated(c.data, c.seed, parts, "train")
    assert 20 < len(looked_at) < problem_sets.GENERATED_CHECKED
    problem_sets.open_training(c, prompts_of(c, "char_code"))


@pytest.mark.parametrize(
    ("tests", "wrong"),
    [
        ({"type": "stdio", "cases": []}, "tests.type: got 'stdio', wanted one of check_fn, assert"),
        ({"type": "stdin", "cases": [{"in": "1"}]}, "wanted an input .text. and an output"),
        ({"type": "call", "cases": ["1"]}, "wanted an input .a list of arguments. and an output"),
    ],
)
def test_tests_that_cannot_be_run_are_refused_with_their_line(
    files: tuple[Path, Path], tests: dict[str, Any], wrong: str
) -> None:
    rows = [{"question": text, "tests": tests, "answer": "1"} for text in "ab"]
    files[0].write_text("".join(json.dumps(row) + "\n" for row in rows))
    c = config(files)
    problem_sets.open_training(c, prompts_of(c))  # "math" runs none
    c = dataclasses.replace(c, verifier=Verifier(kind="code"))
    with pytest.raises(CipoError, match=rf"config.data.train: .*train.jsonl:1: problem .*{wrong}"):
        problem_sets.open_training(c, prompts_of(c))


@pytest.mark.parametrize("sources", ["programs", "arithmetic=0.5,programs=0.5", "{}=1,programs=1"])
def test_each_generator_must_be_what_the_verifier_judges(
    files: tuple[Path, Path], sources: str
) -> None:
    raw = default_config()
    raw.data.train = raw.data.eval = sources.format(files[0])
    raw.data.min_operations = raw.data.max_operations = 1
    raw.data.tokenizer, raw.verifier.kind = "bytes", "math"
    with pytest.raises(CipoError, match="in config.data.eval the first problem of programs has no"):
        problem_sets.open_evaluation(resolve(raw))


def test_nothing_left_is_refused(files: tuple[Path, Path]) -> None:
    train, _ = files
    c = config((train, train), drop=("overlap",))
    with pytest.raises(CipoError, match=r"leaves none of the 6 problems of .*\(6 overlap\)"):
        problem_sets.open_training(c, prompts_of(c))


def test_suites_count_as_evaluation_data(files: tuple[Path, Path], tmp_path: Path) -> None:
    row = {"id": "1", "problem": "What is 2+2?", "answer": "4"}
    (tmp_path / "aime24.jsonl").write_text(json.dumps(row) + "\n")
    raw = default_config()
    raw.data.train, raw.data.eval = map(str, files)
    raw.eval.suites, raw.eval.data_dir = ("aime24",), str(tmp_path)
    c = resolve(raw)
    placed = problem_sets.all_placed(problem_sets.load_training(c.data, c.seed))
    assert [m.position for m in problem_sets.overlap(c.data, c.eval, placed)] == [1, 2, 4]


def test_a_suite_s_question_is_found_without_what_the_suite_adds(
    files: tuple[Path, Path],
) -> None:
    asked = [
        ("mbpp", "Write a function for: double."),
        ("debugbench", "Write the method double."),
        ("livecodebench", "Print the sum of the two numbers on the line."),
        ("criticbench_math_critique", "What is half of $\\frac{3}{4}$?"),
    ]
    rows = [{"question": question, "answer": "1"} for _, question in asked]
    files[0].write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = default_config()
    raw.data.train, raw.data.eval = map(str, files)
    raw.data.overlap_words = 0
    raw.eval.suites, raw.eval.data_dir = tuple(name for name, _ in asked), str(FIXTURES / "suites")
    c = resolve(raw)
    placed = problem_sets.all_placed(problem_sets.load_training(c.data, c.seed))
    matches = problem_sets.overlap(c.data, c.eval, placed)
    assert [(m.position, m.words) for m in matches] == [(n, "") for n in range(4)]


def test_a_generator_keeps_its_splits_apart() -> None:
    c = resolve(default_config())
    for split in ("train", "dev"):
        source = problem_sets.open_training(c, prompts_of(c, "char"), split).source
        assert {split_of(p.id) for p in source.batch(0, 50)} == {split}
    assert {split_of(p.id) for p in problem_sets.open_evaluation(c).source.first(50)} == {"test"}


# Attempts that an embedded task makes.


def test_given_attempts_are_a_property_of_the_problem() -> None:
    raw = default_config()
    problems = problem_sets.open_evaluation(resolve(raw)).source.first(5)
    prompts = [Prompt(problem, np.zeros(1, np.int32)) for problem in problems]
    given = problem_sets.given_attempts("arithmetic", 3, prompts)
    assert [a.correct for a in given] == [False, False, False, True] * 5
    for attempt in given:
        assert attempt.text.endswith(f"{{{attempt.problem.answer}}}") == attempt.correct
    assert len({a.text for a in given[:3]}) > 1
    # Whoever else is asked.
    again = problem_sets.given_attempts("arithmetic", 3, prompts[2:3])
    assert [a.text for a in again] == [a.text for a in given[8:12]]
    assert problem_sets.given_attempts("arithmetic", 0, prompts) == []


def test_given_attempts_need_an_embedded_task(files: tuple[Path, Path]) -> None:
    with pytest.raises(CipoError, match="config.eval.given_attempts: got 1, wanted 0 with"):
        problem_sets.given_attempts(str(files[1]), 1, [])


def test_a_generator_may_be_limited_to_some_problems() -> None:
    raw = default_config()
    raw.data.train_problems = 20
    c = resolve(raw)
    pool = problem_sets.open_training(c, prompts_of(c, "char")).source
    ids = [problem.id for problem in pool.first(0)]
    assert len(set(ids)) == 20 and all(split_of(i) == "train" for i in ids)
    # An epoch has each once; the next goes on with the same.
    drawn = [problem.id for step in range(4) for problem in pool.batch(step, 10)]
    assert sorted(drawn[:20]) == sorted(drawn[20:]) == sorted(ids) and drawn[:20] != drawn[20:]
    # Seeds differ in the order alone, and what the cold start is watched with has no limit.
    raw.seed = 1
    other = problem_sets.open_training(resolve(raw), prompts_of(c, "char")).source
    assert [p.id for p in other.first(0)] == ids
    dev = problem_sets.open_training(c, prompts_of(c, "char"), "dev").source
    assert all(split_of(problem.id) == "dev" for problem in dev.first(100))


def test_a_limit_without_a_generator_is_refused(files: tuple[Path, Path]) -> None:
    c = config(files, train_problems=5)
    with pytest.raises(CipoError, match="data.train_problems: got 5, wanted 0 with"):
        problem_sets.open_training(c, prompts_of(c))
