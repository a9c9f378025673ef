"""The architecture's own rules."""

import dataclasses

import pytest
from tiny_models import TINY_CONFIG


def test_windows_are_one_a_layer_and_a_local_base_needs_them() -> None:
    with pytest.raises(ValueError, match="windows: got 2, wanted 3 or none"):
        dataclasses.replace(TINY_CONFIG, windows=(4, None))
    with pytest.raises(ValueError, match="local_rope_theta"):
        dataclasses.replace(TINY_CONFIG, local_rope_theta=1e4)


def test_windows_that_occur_are_listed_once() -> None:
    assert TINY_CONFIG.distinct_windows == (None,)
    config = dataclasses.replace(TINY_CONFIG, windows=(4, None, 4))
    assert config.distinct_windows == (4, None)


def test_scores_are_divided_by_the_root_of_the_head_width_or_what_stands_for_it() -> None:
    assert TINY_CONFIG.attention_scale == TINY_CONFIG.head_dim**-0.5
    config = dataclasses.replace(TINY_CONFIG, query_pre_attn_scalar=25)
    assert config.attention_scale == pytest.approx(0.2)
