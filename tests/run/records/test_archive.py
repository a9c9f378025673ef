"""The attempts archive: what goes in comes out, byte for byte the same each time."""

import dataclasses
import gzip
import json
import math
from fractions import Fraction

import numpy as np
import pytest

from cipo_jax.config.keys import Data
from cipo_jax.data.plain_tokenizers import ByteTokenizer
from cipo_jax.data.prompts import PromptWriter
from cipo_jax.run.records.archive import (
    AttemptArchive,
    archived_problem,
    archived_quote,
    check_archive,
    read_attempts,
)
from cipo_jax.types import Attempt, CipoError, Completion, Outcome, Problem, Prompt, Verdict

PROBLEM = Problem("p-1", "What is 1+1?", "2")


def attempt(text="2", outcome=Outcome.CORRECT, anchor=None, seconds=0.0, logprobs=(-0.5, -0.25)):
    return Attempt(
        Prompt(PROBLEM, np.zeros(5, np.int32), anchor, kept=(1, 0) if anchor else None),
        Completion(
            np.zeros(len(logprobs), np.int32), np.array(logprobs, np.float32), finished=True
        ),
        text,
        Verdict(outcome, extracted=text, detail="equal", seconds=seconds),
    )


def test_every_field_can_be_read_back(tmp_path):
    first = attempt()
    wrong = attempt("3", Outcome.WRONG)
    fixed = attempt("2", anchor=wrong)
    path = AttemptArchive(tmp_path).write("train", 7, [first, wrong, fixed])
    assert path == tmp_path / "attempts" / "train-000007.jsonl.gz"
    records = list(read_attempts(tmp_path))
    assert records[0] == {
        "phase": "train",
        "step": 7,
        "index": 0,
        "stream": "base",
        "round": 0,
        "problem_id": "p-1",
        "question": "What is 1+1?",
        "answer": "2",
        "tests": None,
        "meta": {},
        "text": "2",
        "opening": "",
        "outcome": "correct",
        "extracted": "2",
        "detail": "equal",
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "logprob_sum": -0.75,
        "finished": True,
        "trimmed": False,
        "kept": None,
        "anchor": None,
    }
    assert records[2]["stream"] == "correction" and records[2]["trimmed"] is True
    assert [record["round"] for record in records] == [0, 0, 1]
    # The anchor is the same object, not an equal one: records 0 and 2 have the same text.
    assert records[2]["anchor"] == {"index": 1, "outcome": "wrong", "extracted": "3", "text": "3"}


def test_what_is_known_of_a_problem_is_written_once(tmp_path):
    meta = {"level": 3, "tolerance": {"absolute": Fraction(1, 3)}, "nan": math.nan, 1: (None, "é")}
    problem = Problem("p", "?", tests={"type": "stdin"}, meta=meta)
    attempts = [dataclasses.replace(attempt(), prompt=Prompt(problem, np.array([1])))] * 2
    path = AttemptArchive(tmp_path).write("train", 1, attempts)
    assert gzip.decompress(path.read_bytes()).count(b"level") == 1
    read = [archived_problem(record) for record in read_attempts(tmp_path)]
    plain = {"level": 3, "tolerance": {"absolute": "1/3"}, "nan": "nan", "1": [None, "é"]}
    assert read == [dataclasses.replace(problem, meta=plain)] * 2


def test_anchor_from_elsewhere_has_no_index_but_its_text(tmp_path):
    AttemptArchive(tmp_path).write("eval", 0, [attempt(anchor=attempt("9", Outcome.NO_ANSWER))])
    (record,) = read_attempts(tmp_path)
    assert record["anchor"]["index"] is None
    assert record["anchor"]["text"] == "9" and record["anchor"]["outcome"] == "no_answer"


def test_corrections_of_the_first_evaluation_come_last_and_say_so(tmp_path):
    own, earlier = attempt("1"), attempt("2")
    corrections = [attempt("3", anchor=own)], [attempt("4", anchor=earlier)]
    AttemptArchive(tmp_path).write("eval", 9, [own, *corrections[0]], corrections[1])
    _, of_own, of_first = read_attempts(tmp_path)
    assert (of_own["anchor"]["index"], "first" in of_own["anchor"]) == (0, False)
    assert (of_first["text"], of_first["anchor"]["index"]) == ("4", None)
    assert of_first["anchor"]["first"] is True


def test_a_repeated_step_is_overwritten_with_the_same_bytes(tmp_path):
    archive = AttemptArchive(tmp_path)
    before = archive.write("train", 3, [attempt(seconds=0.1)]).read_bytes()
    archive.write("train", 3, [attempt("other")])
    # Verification took another time: it is not part of the record.
    after = AttemptArchive(tmp_path).write("train", 3, [attempt(seconds=0.9)]).read_bytes()
    assert after == before
    assert before[4:8] == b"\0\0\0\0"  # gzip's own time stamp
    assert [p.name for p in (tmp_path / "attempts").iterdir()] == ["train-000003.jsonl.gz"]


def test_failed_write_leaves_the_earlier_file(tmp_path):
    archive = AttemptArchive(tmp_path)
    archive.write("train", 3, [attempt()])
    with pytest.raises(TypeError):
        archive.write("train", 3, [attempt("second"), attempt(text=object())])
    assert [r["text"] for r in read_attempts(tmp_path)] == ["2"]


def test_phase_and_steps_select_files_in_numeric_order(tmp_path):
    archive = AttemptArchive(tmp_path)
    for step in (2, 10, 1_000_000):
        archive.write("train", step, [attempt()])
    archive.write("eval", 2, [attempt(), attempt()])

    def places(**selection):
        return [(r["phase"], r["step"]) for r in read_attempts(tmp_path, **selection)]

    train = [("train", 2), ("train", 10), ("train", 1_000_000)]
    assert places() == [("eval", 2), ("eval", 2), *train]
    assert places(phase="train") == train
    assert places(phase="train", steps=[10, 11]) == [("train", 10)]
    assert places(steps={2}) == [("eval", 2), ("eval", 2), ("train", 2)]


def test_text_of_any_kind_and_logprobs_that_are_not_finite(tmp_path):
    text = "é\u2028\n\ud800 </script> \0"
    AttemptArchive(tmp_path).write("train", 1, [attempt(text, logprobs=(-math.inf, -1.0))])
    (record,) = read_attempts(tmp_path)
    assert record["text"] == text and record["logprob_sum"] is None
    line = gzip.decompress((tmp_path / "attempts" / "train-000001.jsonl.gz").read_bytes())
    assert line.count(b"\n") == 1 and json.loads(line) == record


def test_tests_are_stored_once_a_problem_and_read_at_each_attempt(tmp_path):
    tests = {"type": "stdin", "cases": [{"input": "UNIQUE", "output": "2"}]}
    code = Problem("c-1", "Print it.", tests=tests, meta={"entry_point": "f"})
    of_code = dataclasses.replace(attempt(), prompt=Prompt(code, np.zeros(1, np.int32)))
    path = AttemptArchive(tmp_path).write("train", 1, [of_code, attempt(), of_code])
    assert gzip.decompress(path.read_bytes()).count(b"UNIQUE") == 1
    wanted = {"entry_point": "f", **tests}
    assert [r["tests"] for r in read_attempts(tmp_path)] == [wanted, None, wanted]


def test_logprobs_are_summed_beyond_float32(tmp_path):
    AttemptArchive(tmp_path).write("train", 1, [attempt(logprobs=(-16777216.0, -1.0, -1.0))])
    (record,) = read_attempts(tmp_path)
    assert record["logprob_sum"] == -16777218.0


def test_run_without_archive_gives_nothing(tmp_path):
    assert list(read_attempts(tmp_path)) == []


@pytest.mark.parametrize("damage", ["cut", "garbage", "flipped", "empty", "half of the last byte"])
def test_damaged_file_is_named(tmp_path, damage):
    path = AttemptArchive(tmp_path).write("train", 4, [attempt(str(i)) for i in range(200)])
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "garbage":
        content = bytearray(b"not gzip at all")
    elif damage == "empty":
        content = bytearray()
    elif damage == "half of the last byte":
        content[-1] &= 0x0F
        content[-5] ^= 0xFF
    else:
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    message = r"train-000004\.jsonl\.gz: .* cannot be read .*remove the file, or restore it"
    with pytest.raises(CipoError, match=message):
        check_archive(tmp_path)
    with pytest.raises(CipoError, match=message):
        list(read_attempts(tmp_path))


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda record: [record], "line 2 is not a json object"),
        (lambda record: {k: v for k, v in record.items() if k != "outcome"}, "2 has no outcome"),
        (lambda record: record | {"outcome": "right"}, "the outcome 'right', wanted one of corr"),
        (lambda record: record | {"outcome": None}, "line 2 has the outcome None"),
        (lambda record: record | {"anchor": "2"}, "line 2 has the anchor '2'"),
        (lambda record: record | {"anchor": {"outcome": 1}}, "line 2 has the outcome 1"),
    ],
)
def test_a_line_that_is_no_attempt_is_named(tmp_path, change, wrong):
    path = AttemptArchive(tmp_path).write("train", 4, [attempt("2"), attempt("3")])
    first, second = gzip.decompress(path.read_bytes()).splitlines()
    changed = json.dumps(change(json.loads(second))).encode()
    path.write_bytes(gzip.compress(b"\n".join((first, changed, b""))))
    with pytest.raises(CipoError, match=rf"train-000004\.jsonl\.gz: .*\(.*{wrong}.*restore it"):
        list(read_attempts(tmp_path))


def test_the_newest_files_are_checked_first(tmp_path):
    archive = AttemptArchive(tmp_path)
    old, new = (archive.write("train", step, [attempt()]) for step in (99, 100))
    check_archive(tmp_path)
    old.write_bytes(b"damaged")
    check_archive(tmp_path, most_bytes=new.stat().st_size + 6)
    with pytest.raises(CipoError, match="train-000099"):
        check_archive(tmp_path, most_bytes=new.stat().st_size + 7)


def test_a_file_without_room_leaves_the_earlier_one(tmp_path, full_disk):
    archive = AttemptArchive(tmp_path)
    path = archive.write("train", 3, [attempt()])
    before = path.read_bytes()
    with full_disk(100), pytest.raises(CipoError, match=r"000003\.jsonl\.gz: cannot be written"):
        archive.write("train", 3, [attempt(f"text {i}") for i in range(200)])
    assert [p.read_bytes() for p in path.parent.iterdir()] == [before]


def test_stranger_in_the_directory_is_named(tmp_path):
    AttemptArchive(tmp_path)
    (tmp_path / "attempts" / "notes.jsonl.gz").write_bytes(b"")
    with pytest.raises(CipoError, match="notes.*wanted PHASE-STEP"):
        list(read_attempts(tmp_path))


@pytest.mark.parametrize("text", ["so 5</think>\n5", "so 5</think>\n" + "4+1=5\n" * 30 + "end"])
@pytest.mark.parametrize("quote_thoughts", [True, False])
@pytest.mark.parametrize("show_failed_test", [True, False])
def test_what_a_correction_quotes_can_be_told_from_the_archive(
    tmp_path, text, quote_thoughts, show_failed_test
):
    problem = Problem("p-2", "What is 2+2?", tests={"calls": []})
    base = Prompt(problem, np.zeros(5, np.int32), opening="<think>")
    wrong = dataclasses.replace(attempt(text, Outcome.WRONG), prompt=base)
    data = Data(
        correction_template="{question} {attempt}",
        quote_thoughts=quote_thoughts,
        max_attempt_tokens=40,
    )
    tokenizer = ByteTokenizer()
    prompt = PromptWriter(tokenizer, data, show_failed_test).correction(wrong)
    fixed = dataclasses.replace(attempt("4"), prompt=prompt)
    AttemptArchive(tmp_path).write("train", 1, [wrong, fixed])
    before, after = read_attempts(tmp_path)
    quote = archived_quote(after, before, quote_thoughts, show_failed_test)
    assert tokenizer.decode(prompt.tokens) == f"What is 2+2? {quote}"
    assert ("so 5" in quote, "[equal]" in quote) == (quote_thoughts, show_failed_test)
    assert ("\n...\n" in quote) == prompt.trimmed == (len(text) > 40)
