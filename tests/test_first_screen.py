"""README begins with what decides; its excerpt and picture are of one run."""

import json
import re
import runpy
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from places import ROOT
from quoted_numbers import split, tables

SCRIPT = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "first_screen.py")))
README = (ROOT / "README.md").read_text()
LINES = json.loads(SCRIPT.RECORDS.read_text())
SENTENCES = ("done in ", "corrections: ", "wrong attempts: ")
PAIR = [
    "  problem     Compute (9+2) & <3>.",
    "  attempt     9+2=31 | \\boxed{31}  [wrong]",
    "  correction  9+2=11 | \\boxed{11}  [correct]",
]


def test_excerpt_and_picture_are_of_one_run() -> None:
    how = "run docs/first_screen.py, see its docstring"
    assert SCRIPT.with_excerpt(README, LINES) == README, how
    assert SCRIPT.PICTURE.read_text() == SCRIPT.draw(LINES), how
    assert "(docs/images/correction.svg)" in README
    told = [re.sub(r"^done in [\d:]+; ", "", line) for line in LINES if line.startswith(SENTENCES)]
    assert SCRIPT.verdicts_in(SCRIPT.REPORT.read_bytes()) == told, how


def test_what_is_shown_of_a_run() -> None:
    wrong = [PAIR[0], PAIR[1], PAIR[2].replace("correct]", "wrong]")]
    log = [
        "make: something",
        "method   CIPO, lambda 1",
        "cold start  11 s: compiling jit(step)",
        "cold start  step 60/120  loss 0.735  pass@1 0.000  137s",
        "cold start  step 120/120  loss 0.291  pass@1 0.031  164s",
        "eval  step 0  pass@1 0.031  error 0.000  correction/w2r 0.062  correction/error 0.000",
        "step 2/4  reward 0.188",
        *PAIR,
        "step 3/4  " + "  ".join(f"name{i} 0.1234" for i in range(12)),
        *PAIR,
        "step 4/4  reward 0.125",
        *wrong,
        "eval  step 4  pass@1 0.031",
        "gain  of wrong attempts 25.0% are corrected" + 8 * ", as was said",
        "done in 5:24; no difference",
    ]
    chosen = SCRIPT.chosen_lines(log)
    assert chosen == [log[i] for i in (1, 3, 5, 10, 11, 12, 13, 18, 19, 20)]
    shown = SCRIPT.excerpt(chosen).splitlines()
    assert shown[2] == "eval  step 0  pass@1 0.031  correction/w2r 0.062  ..."
    assert shown[3].endswith("  ...") and len(shown[3]) < 105
    assert shown[4:7] == PAIR and shown[8].startswith("gain  of") and shown[9].startswith("  ")
    assert shown[-1] == log[-1]
    with pytest.raises(SystemExit, match="no wrong attempt"):
        SCRIPT.chosen_lines([line for line in log if line not in PAIR[2:]])


def test_the_picture_marks_what_has_changed_and_fits_a_phone() -> None:
    drawn = SCRIPT.draw(
        [*PAIR[:1], PAIR[1].replace(" |", " | 1+1=2 |"), PAIR[2].replace(" |", " | 1+1=2 |")]
    )
    tree = ElementTree.fromstring(drawn)
    svg = "{http://www.w3.org/2000/svg}"
    kinds = [rect.get("class") for rect in tree.iter(f"{svg}rect")]
    assert kinds.count("wrong-line") == kinds.count("right-line") == 2  # not the second of three
    texts = [text for text in tree.iter(f"{svg}text") if text.get("class") == "line"]
    assert [t.text for t in texts] == [
        "9+2=31",
        "1+1=2",
        "\\boxed{31}",
        "9+2=11",
        "1+1=2",
        "\\boxed{11}",
    ]
    assert "(9+2) &amp; &lt;3&gt;." in drawn
    assert tree.get("viewBox").startswith("0 0 640 ")
    long = SCRIPT.draw([PAIR[0], PAIR[1].replace("9+2=31", "9 and " * 20), PAIR[2]])
    lines = re.findall(r'class="line">([^<]*)<', long)
    assert len(lines) > 6 and max(map(len, lines)) <= 25


def test_what_decides_comes_first() -> None:
    """Before the first heading but one, in this order; no table is among it."""
    first, _, _ = README.partition("\n## What you see")
    order = [
        "CIPO — Correction-Oriented Policy Optimization",
        "(docs/images/correction.svg)",
        "**Hardware.**",
        "**The paper.**",
        "**Result.**",
        "make demo",
    ]
    places = [first.find(part) for part in order]
    assert -1 not in places and places == sorted(places), dict(zip(order, places, strict=True))
    assert not re.search(r"(?m)^\|", first)


def test_no_table_is_wider_than_a_phone() -> None:
    """A column is as narrow as its longest word, with room of three letters around it."""
    for table in tables(README):
        columns = zip(*(split(row) for row in table if "---" not in row), strict=True)
        words = [max(len(word) for cell in column for word in cell.split()) for column in columns]
        assert sum(words) + 3 * len(words) <= 46, table[0]
