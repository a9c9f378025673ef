"""Traces of the steps that were asked for, and of no others."""

from pathlib import Path

import jax
import pytest

from cipo_jax.config.resolve import resolve
from cipo_jax.run.watch.profiling import Profile
from cipo_jax.types import CipoError


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of JAX's profiler, and the steps gone through."""
    events: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: events.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))
    return events


def go_through(steps: range, profile: Profile, events: list[str]) -> None:
    for step in steps:
        profile.before(step)
        events.append(f"{step}")
        profile.after(step)


@pytest.mark.parametrize(
    ("wanted", "steps", "events"),
    [
        ((2, 3), range(1, 6), "1 start 2 3 stop 4 5"),
        ((2, 2), range(1, 4), "1 start 2 stop 3"),
        # Continued within the range, and ended within it.
        ((1, 4), range(3, 6), "start 3 4 stop 5"),
        ((2, 9), range(1, 4), "1 start 2 3 stop"),
        ((7, 9), range(1, 3), "1 2"),
        ((), range(1, 3), "1 2"),
    ],
)
def test_exactly_these_steps(
    wanted: tuple[int, ...], steps: range, events: str, traced: list[str], tmp_path: Path
) -> None:
    with Profile(tmp_path, wanted) as profile:
        go_through(steps, profile, traced)
    assert traced == events.split()


def test_a_step_that_fails_ends_its_trace(traced: list[str], tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Profile(tmp_path, (1, 5)) as profile:
        profile.before(1)
        raise ZeroDivisionError
    assert traced == ["start", "stop"]


def test_a_host_that_does_not_write_traces_nothing(traced: list[str]) -> None:
    with Profile(None, (1, 2)) as profile:
        go_through(range(1, 4), profile, traced)
    assert traced == ["1", "2", "3"]


def test_what_is_left_is_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with Profile(tmp_path / "profile", (1, 1)) as profile:
        profile.before(1)
        jax.block_until_ready(jax.numpy.ones(3) + 1)
        profile.after(1)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert f"are in {tmp_path / 'profile'}" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [(0, 1), (3, 2), (3,), (1, 2, 3)])
def test_a_range_that_is_none_is_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(CipoError, match=r"config\.log\.profile_steps: got .* \(first, last\)"):
        resolve({"log": {"profile_steps": steps}})
    assert resolve({"log": {"profile_steps": (2, 3)}}).log.profile_steps == (2, 3)
