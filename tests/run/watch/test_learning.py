"""What keeps a step from teaching anything is named, with its share and the key to change."""

import pytest

from cipo_jax.run.records.terminal import format_step_line, print_findings
from cipo_jax.run.watch.learning import findings, teaches_nothing

HEALTHY = {
    "base/group/informative": 0.4,
    "base/group/all_wrong": 0.5,
    "base/group/all_right": 0.1,
    "base/outcome/no_answer": 0.1,
    "base/truncated": 0.1,
    "time/step": 1.0,
}


@pytest.mark.parametrize(
    ("changed", "mark", "said"),
    [
        ({"base/outcome/no_answer": 0.93}, "no answer 93%", "config.verifier.extraction"),
        ({"base/truncated": 0.8}, "cut 80%", "config.data.max_completion_tokens"),
        (
            {"base/group/informative": 0.0, "base/group/all_wrong": 0.9},
            "no mixed group",
            "90% are all wrong, 10% all right; easier problems",
        ),
        # One was cut, and takes no part: both outcomes are there, but no reward differs.
        (
            {"base/group/informative": 0.0, "base/group/mixed": 1.0},
            "no mixed group",
            "no group has rewards that differ",
        ),
        (
            {"base/group/informative": 0.0, "base/group/all_wrong": 0.0}
            | {"base/group/all_right": 1.0},
            "no mixed group",
            "100% all right; harder problems",
        ),
        # Neither easier problems nor harder ones would help.
        (
            {"base/group/informative": 0.0, "base/group/all_wrong": 0.0}
            | {"base/group/all_right": 0.0, "base/outcome/error": 1.0},
            "no verdict 100%",
            "at fault, not the policy",
        ),
        # What dynamic sampling has kept says less than what it has seen.
        ({"sampled/outcome/no_answer": 0.7}, "no answer 70%", "70% of the completions"),
    ],
)
def test_each_cause_is_named_in_full_and_on_the_step_line(
    changed: dict[str, float], mark: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scalars = HEALTHY | changed
    [finding] = findings(scalars)
    assert finding.mark == mark and said in finding.message
    assert format_step_line(3, 10, scalars, 5.0).endswith(f"eta 0:05  ! {mark}")
    print_findings(scalars)
    assert capsys.readouterr().out == f"learning  {finding.message}\n"


def test_a_step_that_teaches_something_has_no_mark() -> None:
    assert findings(HEALTHY) == [] and "!" not in format_step_line(3, 10, HEALTHY, 5.0)
    # Corrections teach something where the base stream does not.
    assert not teaches_nothing(
        HEALTHY | {"base/group/informative": 0.0, "correction/group/informative": 0.1}
    )
    assert not teaches_nothing({})
    assert teaches_nothing({"base/group/mixed": 0.0})  # of older runs
