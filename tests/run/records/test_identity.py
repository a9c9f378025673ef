"""Whose checkpoints are in a directory, and whether they are those that a run needs."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cipo_jax.config.keys import Checkpoint, Config
from cipo_jax.config.resolve import provenance
from cipo_jax.run.records.files import write_json
from cipo_jax.run.records.identity import claim_run
from cipo_jax.run.records.origin import origin
from cipo_jax.types import CipoError

EVERY = 5


def at(directory: Path | str = "", **values: object) -> Config:
    """A config whose checkpoints go to `directory`, every `EVERY` steps."""
    return Config(checkpoint=Checkpoint(every=EVERY, directory=f"{directory}"), **values)


def claim(workdir: Path, config: Config | None = None) -> bool:
    config = config or at()
    return claim_run(workdir, config, provenance(config, config, set()), {})


def record(workdir: Path, step: int) -> None:
    """A run that has done `step` steps."""
    lines = [{"phase": "train", "step": n} for n in range(1, step + 1)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def save(root: Path, step: int, config: Config | None = None, phase: str = "checkpoints") -> None:
    """The directory of a finished checkpoint."""
    place = root / phase / f"step_{step}" / "origin"
    place.mkdir(parents=True)
    (place / "metadata").write_text(json.dumps(origin(config or at())))


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {f"{path.relative_to(directory)}": path.read_bytes() for path in files}


def run_of(directory: Path) -> str:
    return json.loads((directory / "run.json").read_text())["run"]


def refused(workdir: Path, config: Config, message: str) -> None:
    """The start is refused, and changes nothing."""
    before = content(workdir.parent)
    with pytest.raises(CipoError, match=message):
        claim(workdir, config)
    assert content(workdir.parent) == before


@pytest.fixture(params=["", "bucket"], ids=["in the run directory", "elsewhere"])
def begun(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Config, Path]]:
    """A run of 12 steps with a checkpoint of step 10: its directory, config, and checkpoints."""
    root = tmp_path / (request.param or "run")
    config = at(root if request.param else "")
    assert not claim(tmp_path / "run", config)
    record(tmp_path / "run", 12)
    save(root, 10, config)
    yield tmp_path / "run", config, root


def test_a_run_goes_on_with_its_checkpoints(begun: tuple[Path, Config, Path]) -> None:
    workdir, config, root = begun
    run = run_of(workdir)
    assert claim(workdir, config) and run_of(workdir) == run_of(root) == run


def test_the_identity_is_replaced_whole(begun: tuple[Path, Config, Path]) -> None:
    workdir, config, root = begun
    checkpoint = dataclasses.replace(config.checkpoint, every=2 * EVERY)
    with (root / "run.json").open() as before:
        assert claim(workdir, dataclasses.replace(config, checkpoint=checkpoint))
        assert json.load(before)["every"] == EVERY
    assert json.loads((root / "run.json").read_text())["every"] == 2 * EVERY


def test_a_copy_of_a_run_directory_goes_on(
    begun: tuple[Path, Config, Path], tmp_path: Path
) -> None:
    workdir, config, _ = begun
    shutil.copytree(workdir, tmp_path / "other disk" / "run")
    assert claim(tmp_path / "other disk" / "run", config)
    assert run_of(tmp_path / "other disk" / "run") == run_of(workdir)


def test_a_moved_directory_of_checkpoints_goes_on(
    begun: tuple[Path, Config, Path], tmp_path: Path
) -> None:
    workdir, _, root = begun
    shutil.copytree(root, tmp_path / "copy")
    assert claim(workdir, at(tmp_path / "copy"))
    # The same without run.json: its config says that it is this run's.
    shutil.copytree(root / "checkpoints", tmp_path / "copy2" / "checkpoints")
    assert claim(workdir, at(tmp_path / "copy2"))


def test_a_directory_without_the_run_s_checkpoints_is_refused(
    begun: tuple[Path, Config, Path], tmp_path: Path
) -> None:
    workdir, _, root = begun
    both = f"{root}/checkpoints, and now looks in {tmp_path}/new/checkpoints"
    refused(workdir, at(tmp_path / "new"), f"step 10, is not where .*{both}")
    # An older state of this run is there.
    shutil.copytree(root, tmp_path / "new")
    (tmp_path / "new" / "checkpoints" / "step_10").rename(tmp_path / "new/checkpoints/step_5")
    refused(workdir, at(tmp_path / "new"), f"step 10, is not where .*{both}")


@pytest.mark.parametrize("left", ["nothing", "damaged", "an old one"])
def test_checkpoints_that_are_gone_are_missed(begun: tuple[Path, Config, Path], left: str) -> None:
    workdir, config, root = begun
    steps = root / "checkpoints"
    if left == "nothing":
        shutil.rmtree(steps)
    elif left == "damaged":
        (steps / "step_10").rename(steps / "unreadable-step_10")
    else:
        (steps / "step_10").rename(steps / "step_1")
    message = "12 steps are recorded, but the newest checkpoint is that of step [01]"
    if left == "damaged":
        message = "steps .10. have been set aside as damaged, and no other is left"
        (workdir / "metrics.jsonl").unlink()  # as on another machine
    refused(workdir, config, message)


def test_only_the_archive_is_left(begun: tuple[Path, Config, Path]) -> None:
    workdir, config, root = begun
    (workdir / "metrics.jsonl").unlink()
    (workdir / "attempts").mkdir()
    (workdir / "attempts" / "train-000007.jsonl.gz").write_bytes(b"")
    shutil.rmtree(root / "checkpoints")
    refused(workdir, config, "7 steps are recorded")


def test_an_older_one_is_used_where_the_newer_was_set_aside(
    begun: tuple[Path, Config, Path],
) -> None:
    workdir, config, root = begun
    record(workdir, 30)
    save(root, 30, config)
    (root / "checkpoints" / "step_30").rename(root / "checkpoints" / "unreadable-step_30")
    assert claim(workdir, config)


@pytest.mark.parametrize(("steps", "fine"), [(2 * EVERY, True), (2 * EVERY + 1, False)])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(
    tmp_path: Path, steps: int, fine: bool
) -> None:
    claim(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir()
    record(tmp_path / "run", steps)
    if fine:
        assert claim(tmp_path / "run")
    else:
        refused(tmp_path / "run", at(), f"{steps} steps are recorded")


def test_a_shorter_period_does_not_make_older_steps_missing(
    begun: tuple[Path, Config, Path],
) -> None:
    workdir, config, root = begun
    record(workdir, 20)  # killed before the checkpoint of step 15 was finished
    shorter = dataclasses.replace(
        config, checkpoint=dataclasses.replace(config.checkpoint, every=1)
    )
    assert claim(workdir, shorter) and claim(workdir, shorter)


def test_another_run_s_directory_is_refused(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    claim(tmp_path / "one", at(bucket))
    # Another config, and a run directory that is new: as after a change of machines, but not.
    other = at(bucket, seed=3)
    refused(tmp_path / "two", other, r"another run with another config:\n  config.seed: 0 there, 3")
    # A run that has begun elsewhere, even with the same config.
    claim(tmp_path / "three", at())
    refused(tmp_path / "three", at(bucket), "another run than that in --workdir=.*three")
    # The same config and a new run directory: the run goes on without its metrics.
    assert not claim(tmp_path / "four", at(bucket))
    assert run_of(tmp_path / "four") == run_of(tmp_path / "one")


@pytest.mark.parametrize("phase", ["reference", "cold_start"])
def test_what_an_earlier_version_left_there_is_not_taken_for_another_run(
    tmp_path: Path, phase: str
) -> None:
    bucket = tmp_path / "bucket"
    save(bucket, 0, phase=phase)
    refused(tmp_path / "run", at(bucket), "another run .its cold start or its KL reference")


def test_checkpoints_of_an_earlier_version(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    save(bucket, 4, at(seed=3))
    refused(tmp_path / "run", at(bucket), r"another config:\n  config.seed: 3 there, 0 now")
    file = bucket / "checkpoints" / "step_4" / "origin" / "metadata"
    file.write_text(json.dumps({"config_hash": "of fewer keys", "versions": {}}))
    refused(tmp_path / "run", at(bucket), "its config cannot be compared")
    # Beside the run directory that has saved there, config.json decides.
    config = at(bucket)
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.json", provenance(config, config, set()))
    record(tmp_path / "run", 5)
    assert claim(tmp_path / "run", config)
    assert run_of(tmp_path / "run") == run_of(bucket)


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    claim(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("[]")
    refused(tmp_path / "run", at(), "run.json: cannot be read")


def test_a_config_that_differs_is_told_first(tmp_path: Path) -> None:
    claim(tmp_path / "run")
    refused(tmp_path / "run", dataclasses.replace(at(), seed=3), "seed: 0 there, 3 now")
