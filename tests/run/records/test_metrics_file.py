"""metrics.jsonl and event files, through kill and resume."""

import json
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from cipo_jax.run.records.metrics_file import (
    MetricWriter,
    chart_tag,
    check_metrics,
    read_metrics,
)
from cipo_jax.types import CipoError


def write_run(writer: MetricWriter, train: range) -> None:
    for step in train:
        writer.write(step, {"loss/total": 1 / (1 + step)}, "train")
        if step % 4 == 0:
            writer.write(step, {"eval/pass@1": step / 10}, "eval")


def test_file_after_kill_and_resume_equals_an_uninterrupted_one(tmp_path):
    whole = MetricWriter(tmp_path / "whole", tensorboard=False)
    whole.write(5, {"loss/demonstration": 2.0}, "cold_start")
    write_run(whole, range(1, 11))
    whole.close()

    killed = MetricWriter(tmp_path / "killed", tensorboard=False)
    killed.write(5, {"loss/demonstration": 2.0}, "cold_start")
    write_run(killed, range(1, 9))
    killed.close()
    path = tmp_path / "killed" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"phase": "train", "step": 9, "loss/to')  # killed while writing

    resumed = MetricWriter(tmp_path / "killed", tensorboard=False)
    assert path.read_text().endswith("}\n")
    for phase in ("train", "eval"):
        resumed.rewind(phase, 6)  # the last checkpoint
    write_run(resumed, range(7, 11))
    resumed.close()
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def test_rewind_touches_its_phase_only(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    for phase in ("cold_start", "train", "eval"):
        writer.write(30, {"x": 1.0}, phase)
    writer.rewind("train", 30)
    assert len(read_metrics(tmp_path)) == 3
    writer.rewind("train", -1)
    assert [r["phase"] for r in read_metrics(tmp_path)] == ["cold_start", "eval"]


def test_lines_can_be_read_while_the_writer_is_open(tmp_path):
    assert read_metrics(tmp_path) == []
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"a": np.float32(0.5), "n": 3}, "train")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "tr')  # what a reader may see of a line in the making
    assert read_metrics(tmp_path) == [{"phase": "train", "step": 1, "a": 0.5, "n": 3.0}]


def test_values_that_are_not_finite_survive_as_valid_json(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"a": math.nan, "b": -math.inf, "c": 1.0}, "train")
    writer.close()
    line = (tmp_path / "metrics.jsonl").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not json")

    raw = json.loads(line, parse_constant=refuse)
    assert raw["a"] is None and raw["non_finite"] == {"a": "nan", "b": "-inf"}
    (record,) = read_metrics(tmp_path)
    assert math.isnan(record["a"]) and record["b"] == -math.inf and record["c"] == 1.0
    assert "non_finite" not in record


def test_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"phase": "train", "step": 1}\n{"phase": \n')
    with pytest.raises(CipoError, match=r"metrics\.jsonl:2: not json"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"phase": "train"}\n')
    with pytest.raises(CipoError, match=r'metrics\.jsonl:1: .*wanted an object with "phase"'):
        read_metrics(tmp_path)


def lines_of(*places):
    return [json.dumps({"phase": phase, "step": step, "x": 1.0}) for phase, step in places]


GOOD = (("train", 3), ("eval", 3), ("train", 4), ("health", 4), ("health", 4), ("train", 5))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines_of(*GOOD), None),
        (["", *lines_of(*GOOD)], r":1: not json"),
        (
            [*lines_of(*GOOD), *lines_of(("train", 5))],
            r":7: train step 5 comes after step 5 in .* 6",
        ),
        (
            [*lines_of(*GOOD), *lines_of(("eval", 3))],
            r":7: eval step 3 comes after step 3 in line 2",
        ),
        (
            [*lines_of(*GOOD), *lines_of(("train", 8))],
            r":7: train step 8 .* are missing\. Put them",
        ),
        ([*lines_of(*GOOD), "\x00\xff\x80"], r":7: not json"),
        (['{"phase": "train", "step": "1"}'], r":1: got .* numbers; remove the line"),
        (['{"phase": "train", "step": 1, "x": "much"}'], r":1: got .* numbers"),
        (['{"phase": "train", "step": 1, "non_finite": 3}'], r":1: got .* numbers"),
        (["[" * 100_000], r":1: not json"),
    ],
)
def test_damage_is_found_with_its_line(tmp_path, content, message):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes("".join(f"{line}\n" for line in content).encode("latin-1"))
    with path.open("a") as file:
        file.write('{"phase": "tr')  # not finished, which is no damage
    if message is None:
        check_metrics(tmp_path)
    else:
        with pytest.raises(CipoError, match=r"metrics\.jsonl" + message):
            check_metrics(tmp_path)


def test_a_run_is_not_continued_beyond_the_end_of_its_metrics(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.rewind("train", 7)  # a new directory beside the checkpoints of another
    write_run(writer, range(8, 11))
    writer.rewind("train", 10)
    with pytest.raises(CipoError, match=r"ends with train step 10, but .* after step 12"):
        writer.rewind("train", 12)
    assert len(read_metrics(tmp_path)) == 4
    writer.rewind("train", 7)


def test_a_line_without_room_is_said_and_dropped_at_the_next_start(tmp_path, full_disk):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(1, {"x": 1.0}, "train")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with full_disk(len(before) + 10):
        with pytest.raises(CipoError, match=r"metrics\.jsonl: cannot be written .*Make room"):
            writer.write(2, {"x": 1.0}, "train")
        with pytest.raises(CipoError, match=r"metrics\.jsonl: cannot be written"):
            writer.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() != before
    MetricWriter(tmp_path, tensorboard=False).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_line_is_on_the_disk_before_the_next_thing_is_saved(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    MetricWriter(tmp_path, tensorboard=False).write(1, {"x": 1.0}, "train")
    assert synced == [(tmp_path / "metrics.jsonl").stat().st_size]


def test_tags_carry_their_phase_once():
    assert chart_tag("loss/total", "train") == "loss/total"
    assert chart_tag("eval/pass@1", "eval") == "eval/pass@1"
    assert chart_tag("pass_rate", "cold_start") == "cold_start/pass_rate"


def test_tensorflow_is_not_imported_without_tensorboard(tmp_path):
    code = (
        "import sys, pathlib, cipo_jax.run.records.metrics_file as m\n"
        "import cipo_jax.run.records.archive, cipo_jax.report.page\n"
        f"m.MetricWriter(pathlib.Path({str(tmp_path)!r}), tensorboard=False).write(1, {{}}, 'x')\n"
        "print(sorted({'tensorflow', 'clu', 'jax', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_missing_tensorboard_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(CipoError, match=r"config\.log\.tensorboard.*tensorflow.*pip install"):
        MetricWriter(tmp_path, tensorboard=True)


def test_what_fails_while_event_files_are_written_is_raised(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
    writer = MetricWriter(tmp_path, tensorboard=True)
    writer.write(1, {"base/reward/mean": 0.25}, "train")
    with pytest.raises(ImportError, match=r"clu\.metric_writers"):
        writer.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tensorboard")]


def test_without_a_write_there_are_no_event_files(tmp_path):
    MetricWriter(tmp_path, tensorboard=True).close()
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.slow
def test_tensorboard_events_hold_the_scalars(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=True)
    writer.write(3, {"base/reward/mean": 0.25}, "train")
    writer.write(3, {"eval/pass@1": 0.5}, "eval")
    writer.close()
    from tensorflow import make_ndarray
    from tensorflow.compat.v1.train import summary_iterator

    (events,) = (tmp_path / "tensorboard").iterdir()
    found = {
        (value.tag, event.step): float(make_ndarray(value.tensor))
        for event in summary_iterator(str(events))
        for value in event.summary.value
    }
    assert found == {("base/reward/mean", 3): 0.25, ("eval/pass@1", 3): 0.5}


@pytest.mark.slow
def test_event_files_without_room_are_named(tmp_path, full_disk):
    writer = MetricWriter(tmp_path, tensorboard=True)
    with full_disk(300):
        writer.write(1, {f"base/metric{i}": 0.25 for i in range(9)}, "train")
        with pytest.raises(CipoError, match=r"tensorboard: .* make room .*log.tensorboard=False"):
            writer.close()
