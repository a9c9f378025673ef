"""Many completions judged in order, with a bounded number on the way."""

from collections.abc import Iterator

import pytest

from cipo_jax.config.keys import Verifier
from cipo_jax.types import CipoError, Outcome, Problem
from cipo_jax.verifiers import judge
from cipo_jax.verifiers.judge import open_pool, verdicts

OBEY = "misbehaving_verifiers:obey"
PROBLEM = Problem("p", "?", answer="yes")


def test_verdicts_come_in_order_and_items_are_taken_as_needed(monkeypatch):
    monkeypatch.setattr(judge, "_IN_FLIGHT", 3)
    taken = []

    def items() -> Iterator[str]:
        for number in range(20):
            taken.append(number)
            yield "sleep 0.1" if number % 7 == 0 else "yes" if number % 2 else "no"

    with open_pool(Verifier(workers=2), OBEY) as pool:
        judged = verdicts(pool, items(), lambda text: (PROBLEM, text))
        first = next(judged)
        assert len(taken) == 3
        results = [first, *judged]
    assert len(results) == len(taken) == 20
    assert all(verdict.correct == (text != "no") for text, verdict in results)


def test_nothing_to_judge_gives_no_verdicts():
    with open_pool(Verifier(workers=1), OBEY) as pool:
        assert list(verdicts(pool, [], lambda text: (PROBLEM, text))) == []


def test_the_section_s_settings_reach_the_pool_and_a_kind_replaces_its_own():
    section = Verifier(kind="math", workers=1, extraction=("last_number",))
    with open_pool(section) as pool:
        assert pool.submit(Problem("p", "?", answer="3"), "so 3").result().correct
    with open_pool(section, OBEY) as pool:
        assert pool.submit(PROBLEM, "no").result().outcome is Outcome.WRONG
    with pytest.raises(CipoError, match="no_such_module"):
        open_pool(section, "no_such_module:verify")
