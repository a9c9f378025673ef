"""How a command line is read. Mistakes as the command answers them are in test_errors.py."""

import dataclasses
from pathlib import Path

import pytest
from places import ROOT

from cipo_jax.config.command_line import Invocation, parse
from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import provenance
from cipo_jax.main import MODES
from cipo_jax.run.records.files import write_json
from cipo_jax.types import CipoError

SMOKE = f"--config={ROOT / 'configs' / 'smoke.py'}"


def read(*arguments: str) -> Invocation:
    return parse(["cipo_jax", *arguments], MODES)


@pytest.mark.parametrize("mode", [mode.name for mode in MODES])
def test_a_run_directory_is_given_with_a_blank_or_an_equals_sign(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = next(m for m in MODES if m.name == mode)
    if chosen.takes_run:  # and its config is read from there
        run = dataclasses.replace(Config(), seed=7)
        (tmp_path / "runs" / "x").mkdir(parents=True)
        write_json(tmp_path / "runs" / "x" / "config.json", provenance(run, run, set()))
    config = [] if chosen.takes_run or chosen.takes_paths else [SMOKE]
    for given in (["--workdir", "runs/x"], ["--workdir=runs/x"], ["--workdir=runs/x/"]):
        invocation = read("--mode", mode, *config, *given)
        assert invocation.workdir == Path("runs/x") and invocation.workdir_given
        assert invocation.paths == () and invocation.config.seed == 7 * chosen.takes_run


def test_a_home_directory_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert read(SMOKE, "--workdir=~/x").workdir == Path("/home/me/x")
    exported = read(SMOKE, "--mode=export", "--output=~/x")
    assert exported.flags["output"] == "/home/me/x"
    assert read("--mode=compare", "~/a", "b").paths == ("/home/me/a", "b")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--config.eval.pass_at=(1,)", "--config.eval.pass_at=(1,4)"], (1, 4)),
        (["--config.eval.pass_at", "(1,)", "--config.eval.pass_at=(1,4)"], (1, 4)),
        (["--config.eval.pass_at=(1,)", "--config.eval.pass_at", "(1,4)"], (1, 4)),
        (["-config.eval.pass_at=(1,2,4)", "--config.seed=3", "--config.eval.pass_at=4"], (4,)),
        (["--config.eval.pass_at=(1,2)"], (1, 2)),
    ],
)
def test_of_several_tuples_the_last_is_meant(arguments: list[str], wanted: tuple[int, ...]) -> None:
    invocation = read(SMOKE, *arguments)
    assert invocation.config.eval.pass_at == wanted
    again = read(*invocation.config_arguments)
    assert again.config == invocation.config
    cleared = read(SMOKE, "--config.eval.suites=('math500',)", "--config.eval.suites=()")
    assert cleared.config.eval.suites == ()


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--num_steps=3", "--config.num_steps=..."),
        ("--num-steps=3", "--config.num_steps=..."),
        ("--seed", "--config.seed=..."),
        ("--microbatch_rows=4", "--config.batch.microbatch_rows=..."),
        ("--group_size=4", "--config.rollout.group_size=... or --config.correction.group_size="),
    ],
)
def test_a_key_given_as_a_flag_gets_its_name(argument: str, hint: str) -> None:
    with pytest.raises(CipoError, match="is a key of the config; set it by") as caught:
        read(SMOKE, argument)
    assert hint in str(caught.value)


@pytest.mark.parametrize("name", ["smoke", "smoke.py", "configs/smok.py", "config/smoke.py"])
def test_the_nearest_config_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(CipoError, match=r"did you mean configs/smoke\.py\?"):
        read(f"--config={name}")


def test_a_bucket_is_no_run_directory() -> None:
    with pytest.raises(CipoError, match=r"wanted a directory; .*checkpoint\.directory=gs://"):
        read(SMOKE, "--workdir=gs://bucket/run")


def test_where_no_config_is_near_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CipoError, match=f"is in {tmp_path} or {tmp_path}/configs; start in a"):
        read("--config=demo.py")
    with pytest.raises(CipoError, match=f"is in {tmp_path}/configs; start in a"):
        read("--config=configs/demo.py")
    (tmp_path / "mine.py").touch()
    with pytest.raises(CipoError, match="no such file; there are mine.py"):
        read("--config=demo.py")


def test_what_a_file_sets_to_its_default_is_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import copy\n"
        "from cipo_jax.config import default_config\n"
        "def get_config():\n"
        "    c = default_config()\n"
        f"    c.num_steps = {Config().num_steps}\n"
        f"    c.eval.update(every={Config().eval.every})\n"
        "    return copy.deepcopy(c)\n"
    )
    file = f"--config={tmp_path / 'mine.py'}"
    sources = {key: entry["source"] for key, entry in read(file).provenance().items()}
    assert {key for key, source in sources.items() if source == "file"} == {
        "num_steps",
        "eval.every",
    }
    values = read(file, "--config.num_steps=3").provenance()
    assert values["num_steps"] == {"value": 3, "source": "command line"}
