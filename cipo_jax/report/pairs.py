"""The pairs of attempt and correction in the run report: which are shown, and how they travel.

Decides the sample and its packing. A page cannot hold every text of a long run, and a report is
written at each evaluation, so neither the page nor the reading may grow with the run:

  - Steps without corrections are passed over, by their lines in metrics.jsonl. Of the others so
    many are read that each can show two pairs and the files are MAX_READ_BYTES together: those at
    which a health rule fired come first (up to half), the rest is spread evenly, first and last
    step included.
  - A step shows its transitions in turn, and different anchors before the same one again.
  - Texts longer than MAX_TEXT characters lose their middle; all of them are cut shorter where
    the packed pairs would be larger than MAX_PACKED_BYTES.

The pairs are gzipped json in base64, which the page's script unpacks with DecompressionStream.
"""

import base64
import gzip
import html
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cipo_jax.report.plots import TRANSITIONS
from cipo_jax.report.template import BROWSER
from cipo_jax.run.records.archive import ATTEMPTS_DIR, read_attempts
from cipo_jax.types import Outcome

MAX_READ_BYTES = 16_000_000  # of archive files, compressed, that one report reads
MAX_TEXT = 20_000  # characters shown of one text
MAX_JSON_BYTES = 32_000_000  # of all pairs before packing; the browser holds them unpacked
MAX_PACKED_BYTES = 7_000_000  # of all pairs in the page

Place = tuple[str, int]  # phase and step: a file of the archive


class Archive(NamedTuple):
    """What the directory listing tells of the archive.

    Attributes:
      num_files: one per phase and step.
      num_bytes: of all files, compressed.
      places: {place: bytes} of those that may hold corrections, in order of phase and step.
    """

    num_files: int
    num_bytes: int
    places: dict[Place, int]


def look_up_archive(workdir: Path, records: Iterable[Mapping[str, Any]]) -> Archive:
    """Lists the archive of `workdir`; `records` (of metrics.jsonl) say which steps had corrections.

    A file without a line is taken to hold corrections: only reading it could tell.
    """
    sizes = {}
    for path in (workdir / ATTEMPTS_DIR).glob("*-*.jsonl.gz"):
        phase, _, step = path.name.removesuffix(".jsonl.gz").rpartition("-")
        if step.isdecimal():  # the reader complains of others
            sizes[phase, int(step)] = path.stat().st_size
    prefixes = ("transition/", "eval/correction/")
    without = {
        (r["phase"], r["step"]) for r in records if not any(k.startswith(prefixes) for k in r)
    }
    places = {place: sizes[place] for place in sorted(sizes) if place not in without}
    return Archive(len(sizes), sum(sizes.values()), places)


def choose_pairs(
    workdir: Path, places: Mapping[Place, int], max_pairs: int, first: Collection[Place] = ()
) -> list[dict[str, Any]]:
    """Archived corrections to show, each with its "transition", by the rule at the head.

    Args:
      workdir: the run directory.
      places: {place: bytes} of the files to choose from, in order.
      max_pairs: 0 chooses none.
      first: places that come before others.
    """
    if not places or max_pairs <= 0:
        return []
    chosen = _spread(places, max_pairs, first)
    share = max(1, max_pairs // len(chosen))
    pairs: list[dict[str, Any]] = []
    for phase in dict.fromkeys(phase for phase, _ in chosen):
        steps = {step for p, step in chosen if p == phase}
        attempts = read_attempts(workdir, phase, steps)
        for _, of_step in itertools.groupby(attempts, key=lambda attempt: attempt["step"]):
            by_anchor: dict[str, dict[Any, list]] = {kind: {} for kind in TRANSITIONS}
            for attempt in of_step:
                if anchor := attempt["anchor"]:
                    rights = [o == Outcome.CORRECT for o in (anchor["outcome"], attempt["outcome"])]
                    kind = "2".join("wr"[right] for right in rights)
                    same = by_anchor[kind].setdefault((attempt["problem_id"], anchor["text"]), [])
                    same.append({**attempt, "transition": kind})
            by_kind = [_in_turn(groups.values()) for groups in by_anchor.values()]
            # Another transition goes first each time, so that few pairs a step still show all four.
            turn = len(pairs) % len(TRANSITIONS)
            pairs += _in_turn(by_kind[turn:] + by_kind[:turn])[:share]
    return pairs


def _spread(
    places: Mapping[Place, int], max_pairs: int, first: Collection[Place]
) -> tuple[Place, ...]:
    """The places to read, in their order."""
    count = min(len(places), max(1, max_pairs // 2))
    average = sum(places.values()) / len(places)
    count = max(1, min(count, int(MAX_READ_BYTES / max(average, 1))))
    urgent = [place for place in places if place in first][: count // 2]
    others = [place for place in places if place not in urgent]
    spread = np.linspace(0, len(others) - 1, count - len(urgent)).round().astype(int)
    kept = {*urgent, *(others[i] for i in spread)}
    return tuple(place for place in places if place in kept)


def _in_turn(groups: Iterable[Sequence]) -> list:
    """The first of each group, the second of each, and so on."""
    missing = object()
    turns = itertools.zip_longest(*groups, fillvalue=missing)
    return [item for turn in turns for item in turn if item is not missing]


def pack_pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The pairs as base64 of gzipped json: characters that are inert inside a <script> element.

    Below MAX_PACKED_BYTES, unless there are so many pairs that 100 characters a text are too much.
    """
    lengths = np.array([len(text) for pair in pairs for text in _texts(pair)])
    limit = MAX_TEXT
    while limit >= 200 and np.minimum(lengths, limit).sum() > MAX_JSON_BYTES:
        limit //= 2
    while True:
        shown = [_shown(pair, limit) for pair in pairs]
        text = json.dumps(shown, separators=(",", ":"), ensure_ascii=False)
        packed = base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
        if len(packed) <= MAX_PACKED_BYTES or limit < 200:
            return packed
        limit //= 2


def _texts(pair: Mapping[str, Any]) -> tuple[str, str, str]:
    return pair["question"], pair["anchor"]["text"], pair["text"]


def _shown(pair: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """What the page tells of a pair; texts longer than `limit` characters lose their middle."""

    def cut(text: str | None) -> str | None:
        if text is None:
            return None
        # A cut byte sequence can decode to half a surrogate pair; browsers have crashed on those.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if len(text) <= limit:
            return text
        half = limit // 2
        return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"

    anchor = pair["anchor"]
    return {
        "where": f"{pair['phase']} {pair['step']}",
        "transition": pair["transition"],
        "id": cut(pair["problem_id"]),
        "question": cut(pair["question"]),
        "answer": cut(pair["answer"]),
        "trimmed": pair["trimmed"],
        "tokens": pair["completion_tokens"],
        "finished": pair["finished"],
        "before": [anchor["outcome"], cut(anchor["extracted"]), cut(anchor["text"])],
        "after": [pair["outcome"], cut(pair["extracted"]), cut(pair["text"])],
    }


def pairs_section(pairs: Sequence[Mapping[str, Any]], archive: Archive) -> str:
    """The browser's HTML, or a line on why there is nothing to browse."""
    if not archive.num_files:
        return _nothing("No attempts are archived yet, or log.archive is off.")
    if not pairs:
        return _nothing(f"{_describe(archive)}; there are no corrections to show.")
    shown = dict.fromkeys(f"{p['phase']} {p['step']}" for p in pairs)
    kinds = [p["transition"] for p in pairs]
    return BROWSER.format(
        about=f"{_describe(archive)}. Shown here: {len(pairs):,} corrections, as log.report_pairs "
        f"says, from {len(shown):,} of {len(archive.places):,} files with corrections: steps at "
        "which a health rule fired, and others spread evenly; in each the four changes in turn, "
        "so that their numbers are no rates.",
        steps="".join(f"<option>{html.escape(place)}</option>" for place in shown),
        kinds="".join(
            f'<option value="{kind}">{words} ({kinds.count(kind):,})</option>'
            for kind, words in TRANSITIONS.items()
        ),
    )


def _describe(archive: Archive) -> str:
    return f"The archive has {archive.num_files:,} files, {archive.num_bytes / 1e6:,.1f} MB"


def _nothing(text: str) -> str:
    return f'<p class="nothing">{text}</p>'
