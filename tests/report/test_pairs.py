"""Which pairs the report shows: spread over the run, bounded in reading and in size."""

import dataclasses
import gzip
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from invented_run import Page, make_attempt, make_run, make_step

from cipo_jax.report import pairs as report_pairs
from cipo_jax.report.page import write_report
from cipo_jax.report.pairs import choose_pairs, look_up_archive
from cipo_jax.run.records.archive import AttemptArchive
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.types import Problem


def choose(run: Path, max_pairs: int, first=()) -> list[dict]:
    return choose_pairs(run, look_up_archive(run, read_metrics(run)).places, max_pairs, first)


def test_chosen_pairs_cover_steps_and_transitions(tmp_path):
    run = make_run(tmp_path / "run", steps=30)
    pairs = choose(run, max_pairs=24)
    assert len(pairs) == 24
    steps = sorted({p["step"] for p in pairs})
    assert steps[0] == 1 and steps[-1] == 30 and max(np.diff(steps)) <= 3
    assert {p["transition"] for p in pairs} == {"r2r", "r2w", "w2r", "w2w"}
    for pair in pairs:
        before, after = (p["outcome"] == "correct" for p in (pair["anchor"], pair))
        assert pair["transition"] == f"{'wr'[before]}2{'wr'[after]}"
    assert len(choose(run, max_pairs=1)) == 1
    assert choose(run, max_pairs=0) == []


def test_a_pair_without_a_verdict_is_no_transition(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    for path in (run / "attempts").iterdir():
        text = gzip.decompress(path.read_bytes()).decode()
        path.write_bytes(gzip.compress(text.replace('"wrong"', '"error"').encode()))
    assert {p["transition"] for p in choose(run, max_pairs=24)} <= {"r2r"}


def test_steps_at_which_health_fired_come_first(tmp_path):
    run = make_run(tmp_path / "run", steps=30)
    usual = {p["step"] for p in choose(run, max_pairs=12)}
    ill = {("train", step) for step in (4, 9, 14)}
    pairs = choose(run, max_pairs=12, first=ill)
    steps = {p["step"] for p in pairs}
    assert not usual & {4, 9, 14} and {4, 9, 14} < steps and {1, 30} < steps
    assert len(pairs) == 12


def test_reading_does_not_grow_with_the_run(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", steps=30)
    places = look_up_archive(run, read_metrics(run)).places
    assert len(places) == 30 and min(places.values()) > 100
    monkeypatch.setattr(report_pairs, "MAX_READ_BYTES", 3 * max(places.values()))
    steps = sorted({p["step"] for p in choose(run, max_pairs=1000)})
    assert 3 <= len(steps) <= 4 and steps[0] == 1 and steps[-1] == 30


def test_steps_without_corrections_are_not_read(tmp_path):
    run = make_run(tmp_path / "run", steps=5, corrections=False)
    archive = look_up_archive(run, read_metrics(run))
    assert archive.num_files == 5 and archive.places == {}
    (run / "metrics.jsonl").unlink()
    assert len(look_up_archive(run, []).places) == 5


@pytest.mark.parametrize("kind", ["correction", "given", "first_wrong"])
def test_corrections_of_an_evaluation_are_read_whatever_they_quote(tmp_path, kind):
    quoted = make_attempt(Problem("p", "2+2?"), "5", right=False)
    attempts = [make_attempt(quoted.problem, "4", True, quoted)]
    AttemptArchive(tmp_path).write("eval", 3, attempts)
    line = {"phase": "eval", "step": 3, "eval/pass@1": 0.5, f"eval/{kind}/w2r": 1.0}
    archive = look_up_archive(tmp_path, [line])
    assert [pair["transition"] for pair in choose_pairs(tmp_path, archive.places, 4)] == ["w2r"]


def test_a_pair_has_what_its_correction_prompt_is_made_of(tmp_path):
    problem = Problem("p", "2+2?")
    plain = make_attempt(problem, "5", right=False)
    thinking = make_attempt(problem, "<think>so 5</think>\n5", right=False)
    attempts = [plain, thinking, *(make_attempt(problem, "4", True, a) for a in (plain, thinking))]
    long = make_attempt(problem, "0123456789", right=False)
    cut = make_attempt(problem, "4", True, long)
    attempts += [
        long,
        dataclasses.replace(cut, prompt=dataclasses.replace(cut.prompt, kept=(2, 1))),
    ]
    AttemptArchive(tmp_path).write("train", 1, attempts)
    config = {"data.correction_template": "{question} <b> {attempt}", "data.quote_thoughts": False}
    config |= {"data.chat_template": True, "data.max_attempt_tokens": 64}
    (tmp_path / "config.json").write_text(
        json.dumps({key: {"value": value, "source": "file"} for key, value in config.items()})
    )
    page = Page(write_report(tmp_path, max_pairs=9))
    assert [(pair["before"][2], pair["quote"]) for pair in page.pairs] == [
        ("5", None),
        ("<think>so 5</think>\n5", "5"),
        ("0123456789", "01\n...\n9"),
    ]
    assert [(pair["trimmed"], pair["whole"]) for pair in page.pairs][1:] == [
        (False, False),
        (True, False),
    ]
    told = {name: value for _, name, value in page.attributes}
    assert told["data-template"] == "{question} <b> {attempt}"
    assert told["data-framing"] == "in a turn of the chat template"
    assert told["data-budget"] == "64 tokens"


def test_the_filters_know_steps_lengths_and_changes(tmp_path):
    page = Page(write_report(make_run(tmp_path / "run", steps=3), max_pairs=30))
    fields = {value for _, name, value in page.attributes if name == "id"}
    assert {"kind", "step", "words", "least", "most"} <= fields
    options = [value for tag, name, value in page.attributes if tag == "option" and name == "value"]
    assert options == ["", "r2r", "r2w", "w2r", "w2w", ""]
    assert all(isinstance(pair["tokens"], int) for pair in page.pairs)


def test_texts_that_do_not_compress_are_cut_until_the_page_is_small(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    attempts = []
    for i in range(20):
        text = "".join(map(chr, rng.integers(33, 126, 8_000)))
        attempts.append(make_attempt(Problem(f"p{i}", "?"), text, False))
        attempts.append(make_attempt(Problem(f"p{i}", "?"), text[::-1], True, attempts[-1]))
    AttemptArchive(tmp_path).write("train", 1, attempts)
    monkeypatch.setattr(report_pairs, "MAX_PACKED_BYTES", 150_000)
    page = Page(write_report(tmp_path, max_pairs=200))
    assert len(page.pairs) == 20 and 75_000 < len(page.scripts[0]) <= 150_000
    assert "characters left out" in page.pairs[0]["after"][2]


def test_long_texts_lose_their_middle(tmp_path, monkeypatch):
    problem = Problem("p", "<" * 5_000)
    attempts = []
    for i in range(100):
        attempts.append(make_attempt(problem, f"{i} head " + "<é" * 30_000 + " tail", False))
        attempts.append(make_attempt(problem, attempts[-1].text, True, attempts[-1]))
    AttemptArchive(tmp_path).write("train", 1, attempts)
    monkeypatch.setattr(report_pairs, "MAX_JSON_BYTES", 4_500_000)
    path = write_report(tmp_path, max_pairs=200)
    assert path.stat().st_size < 10_000_000
    page = Page(path)
    assert len(page.pairs) == 100
    text = page.pairs[0]["after"][2]
    assert text.startswith("0 head <é") and text.endswith("<é tail")
    left_out = int(re.search(r"\[… (\d+) characters left out …\]", text).group(1))
    assert left_out + len(text) - len(f"\n[… {left_out} characters left out …]\n") == 60_012


@pytest.mark.slow
def test_hundred_thousand_attempts_fit_in_ten_megabytes(tmp_path):
    rng, archive = np.random.default_rng(0), AttemptArchive(tmp_path)
    for step in range(260):
        base, corrections = make_step(rng, step, 0.5, problems=65, text="and so on " * 60)
        archive.write("train", step, base + corrections)
    began = time.process_time()
    path = write_report(tmp_path, max_pairs=2000)
    assert time.process_time() - began < 10  # about 1 s
    page = Page(path)
    assert "The archive has 260 files" in page.source
    assert len(page.pairs) == 260 * 7
    assert path.stat().st_size < 1_000_000


def test_a_small_archive_has_a_size() -> None:
    assert report_pairs.Archive(1, 31_400, {}).size == "1 file, 31.4 kB"
    assert report_pairs.Archive(85, 1_600_000, {}).size == "85 files, 1.6 MB"
