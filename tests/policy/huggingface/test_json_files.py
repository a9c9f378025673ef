"""Reading json: what cannot be read is named."""

from pathlib import Path
from typing import Any

import pytest

from cipo_jax.policy.huggingface.config import config_from_hf
from cipo_jax.policy.huggingface.json_files import read_json, read_number
from cipo_jax.types import CipoError

F32 = {"param_dtype": "float32", "compute_dtype": "float32", "remat": "none"}


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_unreadable_config(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CipoError, match="config.json: (no such file|not valid json|wanted a json)"):
        config_from_hf(tmp_path, **F32)


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"\u00e9": [1, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"\u00e9": [1, None]}


@pytest.mark.parametrize(
    ("value", "kind", "wanted"), [(3, int, 3), (3, float, 3.0), (0.5, float, 0.5), (None, int, 7)]
)
def test_numbers(value: Any, kind: type, wanted: Any) -> None:
    """An absent key and null both mean the default."""
    got = read_number("a.json", {"size": value}, "size", kind, 7)
    assert got == wanted and type(got) is kind
    assert read_number("a.json", {}, "size", kind, 7) == 7


@pytest.mark.parametrize("value", [0, -1, 0.5, True, "3", None])
def test_what_is_no_positive_number_is_refused(value: Any) -> None:
    with pytest.raises(CipoError, match=r"a.json: size: got .*, wanted a positive int"):
        read_number("a.json", {"size": value}, "size", int)
