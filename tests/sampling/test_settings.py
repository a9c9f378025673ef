"""The engine's static shapes."""

import dataclasses

import pytest

from cipo_jax.policy import sharding
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.settings import (
    EngineSettings,
    cache_dtype,
    pages_per_shard,
    prefill_rows,
    prefill_widths,
    row_bucket,
    table_width,
)
from cipo_jax.types import CipoError

SETTINGS = EngineSettings(
    max_prompt_tokens=100, max_new_tokens=30, choice=Choice(stop_ids=()), slots=6, page_size=16
)


def test_a_row_s_table_holds_the_longest_prompt_and_completion() -> None:
    assert table_width(SETTINGS) == 9  # 130 tokens in pages of 16


def test_pages_are_for_all_slots_or_for_the_tokens_asked_for() -> None:
    assert pages_per_shard(SETTINGS, shards=1) == 6 * 10 + 1
    assert pages_per_shard(SETTINGS, shards=4) == 2 * 10 + 1  # two slots of a shard
    asked = dataclasses.replace(SETTINGS, cache_tokens=1000)
    assert pages_per_shard(asked, shards=1) == 62 and pages_per_shard(asked, shards=2) == 31
    with pytest.raises(CipoError, match="cache_tokens: got 1000, .* at least 1120: .* 7 row"):
        pages_per_shard(asked, shards=7)


def test_prefill_widths_are_powers_of_two_up_to_the_longest_prompt() -> None:
    assert prefill_widths(SETTINGS) == (16, 32, 64, 128)
    longer = dataclasses.replace(SETTINGS, max_prompt_tokens=5000)
    assert prefill_widths(longer)[-1] == 512
    assert prefill_widths(dataclasses.replace(longer, page_size=1024))[-1] == 1024


def test_prefill_widths_hold_a_page_if_an_evicted_request_may_be_longer() -> None:
    short = dataclasses.replace(SETTINGS, max_prompt_tokens=10, max_new_tokens=60, page_size=64)
    assert prefill_widths(short) == (16,)  # nothing is evicted
    evicting = dataclasses.replace(short, cache_tokens=400)
    assert prefill_widths(evicting)[-1] == 64
    with pytest.raises(
        CipoError, match=r"prefill_widths: got \(32,\), wanted .* at least 64: .*70"
    ):
        prefill_widths(dataclasses.replace(evicting, prefill_widths=(32,)))


def test_declared_prefill_widths_must_hold_a_page_or_the_longest_prompt() -> None:
    declared = dataclasses.replace(SETTINGS, prefill_widths=(40, 16))
    assert prefill_widths(declared) == (16, 40)
    with pytest.raises(CipoError, match="prefill_widths: got .*12.*, wanted .* at least 16"):
        prefill_widths(dataclasses.replace(SETTINGS, prefill_widths=(8, 12)))
    short = dataclasses.replace(SETTINGS, prefill_widths=(8, 12), max_prompt_tokens=10)
    assert prefill_widths(short) == (8, 12)


@pytest.mark.parametrize(
    ("most", "wanted", "rows"), [(64, 64, 64), (64, 33, 64), (64, 32, 32), (64, 1, 8), (6, 1, 6)]
)
def test_decode_programs_have_few_numbers_of_rows(most: int, wanted: int, rows: int) -> None:
    assert row_bucket(most, wanted) == rows >= wanted


def test_a_prefill_program_has_few_empty_rows() -> None:
    many = dataclasses.replace(SETTINGS, slots=100, prefill_tokens=64 * 32)
    rows = [prefill_rows(many, 1, 64, wanted) for wanted in range(1, 40)]
    assert set(rows) == {1, 2, 8, 32} and prefill_rows(many, 1, 64) == 32
    assert all(4 * wanted >= 3 * n for wanted, n in enumerate(rows, 1))
    assert all(n == wanted for wanted, n in enumerate(rows, 1) if wanted in rows)
    assert rows[6] == 8 and rows[4] == 2 and rows[23] == 32 and rows[22] == 8


def test_a_prefill_program_has_no_more_rows_than_there_are_slots() -> None:
    assert prefill_rows(SETTINGS, 1, 16) == 6 and prefill_rows(SETTINGS, 2, 16) == 3
    assert prefill_rows(dataclasses.replace(SETTINGS, slots=1), 1, 16) == 1
    assert prefill_rows(SETTINGS, 1, 4096) == 1


def test_the_cache_is_float32_on_a_cpu_unless_it_is_told_otherwise() -> None:
    mesh = sharding.make_mesh(8, 1, 1)
    assert cache_dtype(SETTINGS, "bfloat16", mesh) == "float32"
    told = dataclasses.replace(SETTINGS, cache_dtype="bfloat16")
    assert cache_dtype(told, "float32", mesh) == "bfloat16"
