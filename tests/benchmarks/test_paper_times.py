"""The table of docs/scaling.md is what the program says."""

import sys

import pytest
from places import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import paper_times  # noqa: E402

PAGE = (ROOT / "docs" / "scaling.md").read_text()


@pytest.mark.slow
def test_a_line_of_the_page_is_that_of_the_program() -> None:
    (line,) = paper_times.table(["8 H100"], ["Qwen3-4B"])
    assert line in PAGE and "\n".join(paper_times.HEADER) in PAGE


@pytest.mark.slow
@pytest.mark.long
def test_all_lines_of_the_page_are_those_of_the_program() -> None:
    lines = [*paper_times.table(paper_times.SLICES, paper_times.MODELS)]
    lines += paper_times.table(["v5p-128"], paper_times.MODELS, tensor=4)
    assert not [line for line in lines if line not in PAGE]
