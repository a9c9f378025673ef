"""A page is read as its reader does: numbers that no record has are found."""

import pytest
from quoted_numbers import Paragraph, paragraphs, strangers, values_of

HEAD = "| method | seeds | pass@1 | w2r |"
REPORT = f"""# Study

About 0.999 of it.

## few

{HEAD}
|---|---|---|---|
| cipo | 5 | 0.734 [0.667, 0.800] | 0.331 [0.224, 0.438] |
| grpo | 5 | 0.733 [0.665, 0.800] |  |

| method | measure | difference | 95% t |
|---|---|---|---|
| grpo | w2r | -0.061 | -0.111 to -0.012 |
"""
VALUES = values_of("regimes", REPORT)


def test_the_values_of_a_report() -> None:
    assert values_of("regimes", REPORT) == {
        ("regimes", "few", "cipo", "seeds"): {5},
        ("regimes", "few", "grpo", "seeds"): {5},
        ("regimes", "few", "cipo", "pass@1"): {0.734, 0.667, 0.8},
        ("regimes", "few", "grpo", "pass@1"): {0.733, 0.665, 0.8},
        ("regimes", "few", "cipo", "w2r"): {0.331, 0.224, 0.438},
        ("regimes", "few", "grpo", "w2r"): {-0.061, -0.111, -0.012},
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It solves .734 or 73% of them, 73.4%.", []),
        ("6.1 points (1.2 to 11.1) behind", []),
        ("It solves .735, 74%, 73.5%; 6.2 points", [".735", "74%", "73.5%", "6.2 points"]),
        ("on 5 seeds, 60 steps, and 12 problems", []),  # counts
        ("`0.1` of [them](a/0.2), lambda = 0.25, in 3.5 hours, version 1.2.3", []),
        ("1.5 times the tokens; 95% intervals", []),
        ("| words | 0.9 |", ["0.9"]),
        ("-0.061, and .062", [".062"]),
        ("pass@1 and arXiv v0.5 but 0.5.", ["0.5"]),
    ],
)
def test_numbers_that_no_record_has(text: str, found: list[str]) -> None:
    assert strangers(Paragraph("#", text, "regimes"), VALUES) == found


def test_sources_are_what_a_comment_says() -> None:
    def found(sources: str, text: str = ".734 .331 .061") -> list[str]:
        return strangers(Paragraph("#", text, sources), VALUES)

    assert found("regimes") == found("regimes/few") == found("reg*/*/[cg]*") == []
    assert found("regimes/few/cipo") == [".061"]
    assert found("regimes/few/cipo/pass@1, regimes/few/grpo/w2r") == [".331"]
    assert found("", "0.123") == []  # no record
    assert strangers(Paragraph("#", ".734", None), VALUES) == [".734"]
    with pytest.raises(KeyError, match="many"):
        found("regimes/many")


def test_a_page_in_paragraphs() -> None:
    page = f"""# Page

Before 0.1.

## Results

Words 0.2
go on. <!-- of regimes/few,
regimes/few/cipo -->

- item 0.21
- other 0.22
  <!-- of main -->

```
code 0.3
```

{HEAD}
|---|---|---|---|
| cipo | 5 | 0.734 [0.667, 0.800] | 0.331 [0.224, 0.438] |

| words | 0.4 |
|---|---|

### Part

<!-- no record: a single run -->

Words 0.5.

## Else

Words 0.6.
"""
    read = [
        (p.heading, p.text.split()[:2], p.sources)
        for p in paragraphs(page, {HEAD})
        if any(c.isdigit() for c in p.text)
    ]
    assert read == [
        ("# Page", ["Before", "0.1."], None),
        ("## Results", ["Words", "0.2"], "regimes/few,\nregimes/few/cipo"),
        ("## Results", ["-", "item"], None),
        ("## Results", ["-", "other"], "main"),
        ("## Results", ["|", "words"], None),
        ("### Part", ["Words", "0.5."], ""),
        ("## Else", ["Words", "0.6."], None),
    ]
    some = {p.heading for p in paragraphs(page, {HEAD}, only="^## Result")}
    assert some == {"## Results", "### Part"}
