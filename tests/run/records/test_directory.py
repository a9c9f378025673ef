"""A run directory belongs to one config and one set of problems."""

import dataclasses
import json
from pathlib import Path

import pytest

from cipo_jax.config.keys import Config, Data
from cipo_jax.config.resolve import provenance, resolve
from cipo_jax.run.records.directory import claim_workdir, config_differences, model_differences
from cipo_jax.types import CipoError

VALUES = provenance(Config(), Config(), set())
DATA = {
    "data.train": {"a.jsonl": {"problems": 7, "fingerprint": "11"}},
    "data.eval": {"arithmetic": {"problems": None, "fingerprint": "22"}},
}


def claim(workdir: Path, data: dict | None) -> None:
    claim_workdir(workdir, Config(), VALUES, data)


def test_the_same_problems_may_continue(tmp_path: Path) -> None:
    claim(tmp_path / "run", DATA)
    claim(tmp_path / "run", DATA)
    assert json.loads((tmp_path / "run" / "data.json").read_text()) == DATA


def test_a_run_without_a_record_of_its_data_gets_one(tmp_path: Path) -> None:
    claim(tmp_path, None)
    assert not (tmp_path / "data.json").exists()
    claim(tmp_path, DATA)
    assert (tmp_path / "data.json").exists()


@pytest.mark.parametrize(
    ("key", "source", "now", "message"),
    [
        (
            "data.train",
            "a.jsonl",
            (6, "33"),
            "a.jsonl: 7 problems .*11. then, 6 problems .*33. now",
        ),
        (
            "data.train",
            "a.jsonl",
            (7, "33"),
            "a.jsonl: 7 problems .*11. then, 7 problems .*33. now",
        ),
        (
            "data.eval",
            "arithmetic",
            (None, "3"),
            "config.data.eval: arithmetic: unlimited problems",
        ),
    ],
)
def test_other_problems_may_not(
    tmp_path: Path, key: str, source: str, now: tuple[int | None, str], message: str
) -> None:
    claim(tmp_path, DATA)
    before = (tmp_path / "config.json").stat().st_mtime_ns
    changed = DATA | {key: {source: {"problems": now[0], "fingerprint": now[1]}}}
    with pytest.raises(CipoError, match=f"began with other data:\n.*{message}") as caught:
        claim(tmp_path, changed)
    assert f"--config.init_from={tmp_path}" in str(caught.value)
    assert (tmp_path / "config.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "data.json").read_text()) == DATA


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    claim(tmp_path, DATA)
    (tmp_path / "data.json").write_text("[]")
    with pytest.raises(CipoError, match="data.json: is not a run's data.json"):
        claim(tmp_path, DATA)


def test_a_run_that_is_older_than_a_key_continues_at_its_default(tmp_path: Path) -> None:
    claim(tmp_path, None)
    file = tmp_path / "config.json"
    saved = json.loads(file.read_text())
    del saved["data.train_problems"], saved["data.max_operations"]
    file.write_text(json.dumps(saved))
    assert not config_differences(file, Config())
    more = dataclasses.replace(Config(), data=dataclasses.replace(Data(), train_problems=9))
    assert config_differences(file, more) == {"data.train_problems": (0, 9)}


def test_only_the_model_keeps_parameters_from_fitting(tmp_path: Path) -> None:
    def differences(there: dict, here: dict) -> list[str]:
        old, new = resolve(there), resolve(here)
        claim_workdir(tmp_path, old, provenance(old, old, set()))
        found = list(model_differences(tmp_path / "config.json", new))
        (tmp_path / "config.json").unlink()
        return found

    others = {"seed": 3, "data": {"max_prompt_tokens": 9}, "mesh": {"data": 3}, "num_steps": 8}
    assert differences({}, others | {"model": {"remat": "none"}}) == []
    assert differences({}, {"model": {"num_layers": 5}}) == ["model.num_layers"]
    assert differences({}, {"data": {"tokenizer": "char_code"}}) == ["data.tokenizer"]
    # A checkpoint that was moved; the config's sizes say nothing then.
    assert differences({"model": {"source": "a"}}, {"model": {"source": "b", "d_model": 8}}) == []
    assert differences({}, {"model": {"source": "b"}}) == ["model.source"]
    assert differences({"model": {"source": "b"}}, {}) == ["model.source"]
