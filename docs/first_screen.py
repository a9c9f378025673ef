"""README's console excerpt and its pictures, all of one run.

    make demo 2>&1 | tee demo.log
    .venv/bin/python docs/first_screen.py demo.log runs/demo/report.html

Takes the header, a check of the cold start, the first and the last evaluation, the verdicts, what
corrections are worth at the end, and the last step that shows a wrong attempt beside its right
correction. Writes these lines to
docs/images/first_screen.json, the excerpt into README.md and the picture to
docs/images/correction.svg. A test makes both again from the lines, so that they stay of one run.
docs/images/report.png is what Chromium shows of the run's page; the page's verdicts are written
into the file, and the test compares them with those of the excerpt.
"""

import argparse
import difflib
import html
import json
import os
import re
import struct
import subprocess
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
README, IMAGES = ROOT / "README.md", ROOT / "docs" / "images"
RECORDS, PICTURE = IMAGES / "first_screen.json", IMAGES / "correction.svg"
REPORT = IMAGES / "report.png"
_BEGIN, _END = "<!-- of one run: docs/first_screen.py -->\n```\n", "```\n<!-- end -->"

_HEADER = ("method   ", "policy   ", "devices  ", "step     ", "workdir  ")
_SENTENCES = ("done in ", "corrections: ", "wrong attempts: ")
_GAIN = "gain  "
_PAIR = ("  problem ", "  attempt ", "  correction ")
# Of an evaluation; the other fields are left out.
_EVALUATION = re.compile(r"eval$|step |pass@|correction/(accuracy_after|r2r|w2r) ")
_WIDTH = 96  # characters of a line of the excerpt

# Of the picture, in its own units; it may be shown as narrow as a phone.
_WIDE, _MARGIN, _COLUMN, _LINE = 640, 20, 292, 27
_CHARACTERS = 25  # in a line of a column


def chosen_lines(console: Sequence[str]) -> list[str]:
    """The lines of a run's output that are shown.

    Raises:
      SystemExit: it holds no wrong attempt with a right correction, or no evaluation.
    """
    pairs = [
        i
        for i in range(1, len(console) - 2)
        if all(line.startswith(p) for line, p in zip(console[i : i + 3], _PAIR, strict=True))
        and re.match(r"step +\d+/", console[i - 1])
        and console[i + 1].endswith("[wrong]")
        and console[i + 2].endswith("[correct]")
        and not any("..." in line for line in console[i : i + 3])  # cut by the program
    ]
    evaluations = [i for i, line in enumerate(console) if line.startswith("eval  step ")]
    if not pairs or not evaluations:
        raise SystemExit("the log holds no wrong attempt with a right correction, or no evaluation")
    checks = [i for i, line in enumerate(console) if re.match(r"cold start  step .*pass@1", line)]
    kept = [i for i, line in enumerate(console) if line.startswith((*_HEADER, *_SENTENCES))]
    kept += [*checks[:1], evaluations[0], evaluations[-1], *range(pairs[-1] - 1, pairs[-1] + 3)]
    kept += [i for i, line in enumerate(console) if line.startswith(_GAIN)][-1:]
    return [console[i] for i in sorted(set(kept))]


def excerpt(lines: Sequence[str]) -> str:
    """What README shows of the lines: those of many fields without the last, sentences wrapped."""
    shown = []
    for line in lines:
        if line.startswith((*_SENTENCES, _GAIN)):
            shown += textwrap.wrap(line, _WIDTH, subsequent_indent="  ")
            continue
        fields = line.split("  ")
        if line.startswith("eval  "):
            fields = [field for field in fields if _EVALUATION.match(field)]
        elif re.match(r"step +\d+/", line):
            while len("  ".join(fields)) > _WIDTH or fields[-1] == "...":
                fields.pop()
        short = "  ".join(fields)
        shown.append(short if short == line else f"{short}  ...")
    return "".join(f"{line}\n" for line in shown)


def draw(lines: Sequence[str]) -> str:
    """The picture: problem, attempt and correction, changed lines marked; an SVG document."""
    texts = {
        name: next(line for line in lines if line.startswith(name)).removeprefix(name).strip()
        for name in _PAIR
    }
    problem, attempt, correction = texts.values()
    before, after = (
        re.sub(r"\s+\[\w+\]$", "", text).split(" | ") for text in (attempt, correction)
    )
    same = difflib.SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    kept_before = {block.a + i for block in same for i in range(block.size)}
    kept_after = {block.b + i for block in same for i in range(block.size)}
    top = _MARGIN + 22
    body = []
    for line in textwrap.wrap(problem, 54):
        body.append(_text(_MARGIN, top, line, "problem"))
        top += _LINE
    top += 12
    lowest = top
    right = _WIDE - _MARGIN - _COLUMN
    for left, title, verdict, written, kept in (
        (_MARGIN, "first attempt", "wrong", before, kept_before),
        (right, "its correction", "right", after, kept_after),
    ):
        body.append(_text(left, top, f"{title}: {verdict}", f"title {verdict}"))
        y = top + 14
        for number, line in enumerate(written):
            for part in textwrap.wrap(line, _CHARACTERS) or [""]:
                if number not in kept:
                    place = f'x="{left}" y="{y}" width="{_COLUMN}" height="{_LINE}"'
                    body.append(f'<rect {place} class="{verdict}-line"/>')
                body.append(_text(left + 8, y + 20, part, "line"))
                y += _LINE
        lowest = max(lowest, y)
    foot = lowest + 34
    for line in (
        "Both are the same model's. It was asked to check the attempt,",
        "and not told whether it was right.",
    ):
        body.append(_text(_MARGIN, foot, line, "foot"))
        foot += 24
    return "\n".join([*_head(foot - 4), *body, "</svg>"]) + "\n"


def _head(height: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {height}" role="img" '
        'aria-label="An attempt and its correction">'
    )
    yield (
        "<style>text{font:18px sans-serif;fill:#1f2328}.problem{font-weight:bold;font-size:20px}"
        ".title{font-weight:bold}.line{font-family:monospace;white-space:pre}"
        ".foot{fill:#57606a;font-size:17px}text.wrong{fill:#a40e26}text.right{fill:#116329}"
        ".wrong-line{fill:#ffe3e6}.right-line{fill:#d7f5de}</style>"
    )
    # A ground of its own, for pages that are dark.
    yield f'<rect width="{_WIDE}" height="{height}" rx="12" fill="#ffffff"/>'


def _text(x: int, y: int, text: str, kind: str) -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>'


def with_excerpt(readme: str, lines: Sequence[str]) -> str:
    """README with the excerpt of the lines in its place."""
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin and end, "README.md has no place for the excerpt"
    return f"{before}{begin}{excerpt(lines)}{end}{after}"


def picture_of_page(page: Path, browser: str) -> bytes:
    """The top of a run's page as a PNG file, with the verdicts of the page as its text "run"."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    options = ["--headless", "--hide-scrollbars", "--window-size=1300,1150", *sandbox]
    subprocess.run(
        [browser, *options, f"--screenshot={REPORT}", page.resolve().as_uri()], check=True
    )
    drawn = REPORT.read_bytes()
    verdicts = re.findall(r'<p class="verdict">(.*?)</p>', page.read_text(), re.DOTALL)
    text = b"tEXtrun\0" + html.unescape("\n".join(verdicts)).encode("latin-1")
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return drawn[:33] + chunk + drawn[33:]  # behind the header


def verdicts_in(picture: bytes) -> list[str]:
    """What `picture_of_page` has written."""
    place = picture.index(b"tEXtrun\0")
    (length,) = struct.unpack(">I", picture[place - 4 : place])
    return picture[place + 8 : place + 4 + length].decode("latin-1").split("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path, help="what the run has printed")
    parser.add_argument("report", type=Path, help="its page")
    parser.add_argument("--browser", default="chromium")
    given = parser.parse_args()
    lines = chosen_lines(given.log.read_text().splitlines())
    REPORT.write_bytes(picture_of_page(given.report, given.browser))
    RECORDS.write_text(json.dumps(lines, indent=1) + "\n")
    PICTURE.write_text(draw(lines))
    README.write_text(with_excerpt(README.read_text(), lines))


if __name__ == "__main__":
    main()
