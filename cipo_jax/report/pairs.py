"""The pairs of attempt and correction in the run report: which are shown, and how they are packed.

A page cannot hold every text of a long run, and a report is written at each evaluation. So both the
page and what is read for it are bounded:

  - A step without corrections, by metrics.jsonl, is not read. Of the others, as many are read as
    keep the files within MAX_READ_BYTES and leave at least two pairs to each step. Up to half of
    them are steps at which a health rule fired; the rest are spread evenly over the run, its first
    and last step included.
  - Corrections without a verdict, or of an attempt without one, are not shown: whether they
    changed anything is not known.
  - A step shows the four transitions in turn, and a new anchor each time as long as there are any.
  - A text longer than MAX_TEXT characters loses its middle. All texts are cut shorter still where
    the packed pairs would be larger than MAX_PACKED_BYTES.

The pairs are gzipped json in base64. The page's script, templates/report.js, unpacks and lists
them. It also writes the correction prompt: that is the config's template with question and attempt
filled in, and so is neither archived nor packed.
"""

import base64
import collections
import dataclasses
import gzip
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cipo_jax.report.blocks import Block, Note, file_size
from cipo_jax.report.plots import TRANSITIONS
from cipo_jax.run.comparison import is_judged
from cipo_jax.run.records.archive import ATTEMPTS_DIR, archived_quote, read_attempts
from cipo_jax.types import Outcome

MAX_READ_BYTES = 16_000_000  # of archive files, compressed, that one report reads
MAX_TEXT = 20_000  # characters shown of one text
MAX_JSON_BYTES = 32_000_000  # of all pairs before packing; the browser holds them unpacked
MAX_PACKED_BYTES = 7_000_000  # of all pairs in the page

Place = tuple[str, int]  # phase and step: a file of the archive


class Archive(NamedTuple):
    """The archive of a run, as its directory listing shows it."""

    num_files: int  # one per phase and step
    num_bytes: int  # of all files, compressed
    places: dict[Place, int]  # bytes of the files that may hold corrections, in order

    @property
    def size(self) -> str:
        files = "file" if self.num_files == 1 else "files"
        return f"{self.num_files:,} {files}, {file_size(self.num_bytes)}"


def look_up_archive(workdir: Path, records: Iterable[Mapping[str, Any]]) -> Archive:
    """Lists the archive of `workdir`; `records` (of metrics.jsonl) say which steps had corrections.

    A file without a line is taken to hold corrections: only reading it could tell.
    """
    sizes = {}
    for path in (workdir / ATTEMPTS_DIR).glob("*-*.jsonl.gz"):
        phase, _, step = path.name.removesuffix(".jsonl.gz").rpartition("-")
        if step.isdecimal():  # the reader complains of others
            sizes[phase, int(step)] = path.stat().st_size
    prefixes = ("transition/", "eval/correction/", "eval/given/", "eval/first_wrong/")
    without = {
        (r["phase"], r["step"]) for r in records if not any(k.startswith(prefixes) for k in r)
    }
    places = {place: sizes[place] for place in sorted(sizes) if place not in without}
    return Archive(len(sizes), sum(sizes.values()), places)


def choose_pairs(
    workdir: Path, places: Mapping[Place, int], max_pairs: int, first: Collection[Place] = ()
) -> list[dict[str, Any]]:
    """Archived corrections to show, each with its "transition" and, as "quoted_record", the record
    of the attempt that it quotes, None if it is not archived; chosen as said at the top.

    Args:
      places: {place: bytes} of the files to choose from, in order.
      max_pairs: 0 chooses none.
      first: places to read in any case, as far as half of what is read allows.
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
            by_index: dict[int | None, Mapping[str, Any]] = {}
            for attempt in of_step:
                anchor = attempt["anchor"]
                if anchor is None:
                    by_index[attempt["index"]] = attempt
                elif is_judged(attempt):
                    rights = [o == Outcome.CORRECT for o in (anchor["outcome"], attempt["outcome"])]
                    kind = "2".join("wr"[right] for right in rights)
                    same = by_anchor[kind].setdefault((attempt["problem_id"], anchor["text"]), [])
                    quoted = by_index.get(anchor["index"])
                    same.append({**attempt, "transition": kind, "quoted_record": quoted})
            by_kind = [_in_turn(groups.values()) for groups in by_anchor.values()]
            # Each step starts with another transition: with few pairs a step all four still occur.
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
    """The first of each group, the second of each, and so on; no item is None."""
    turns = itertools.zip_longest(*groups)
    return [item for turn in turns for item in turn if item is not None]


def pack_pairs(pairs: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """The pairs as base64 of gzipped json: characters that are inert inside a <script> element.
    `config`: {"section.key": {"value", ...}}.

    At most MAX_PACKED_BYTES, unless there are too many pairs even with 100 characters of a text.
    """
    texts = [text for p in pairs for text in (p["question"], p["anchor"]["text"], p["text"])]
    lengths = np.array([len(text) for text in texts])
    limit = MAX_TEXT
    while limit >= 200 and np.minimum(lengths, limit).sum() > MAX_JSON_BYTES:
        limit //= 2
    quotes = [_quote(pair, config) for pair in pairs]
    while True:
        shown = [_shown(*pair, limit) for pair in zip(pairs, quotes, strict=True)]
        text = json.dumps(shown, separators=(",", ":"), ensure_ascii=False)
        packed = base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
        if len(packed) <= MAX_PACKED_BYTES or limit < 200:
            return packed
        limit //= 2


def _quote(pair: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """What the correction prompt quotes where that is not the whole attempt and nothing else."""

    def value(key: str) -> bool:
        return bool(config.get(key, {}).get("value", False))

    keys = ("data.quote_thoughts", "correction.show_failed_test")
    quote = archived_quote(pair, pair["quoted_record"], *map(value, keys))
    return None if quote == pair["anchor"]["text"] else quote


def _shown(pair: Mapping[str, Any], quote: str | None, limit: int) -> dict[str, Any]:
    """What the page shows of a pair; texts longer than `limit` characters lose their middle."""

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
        "quote": cut(quote),
        "trimmed": pair["trimmed"],
        "whole": pair["trimmed"] and not pair.get("kept"),  # where it was cut is not known
        "tokens": pair["completion_tokens"],
        "finished": pair["finished"],
        "before": [anchor["outcome"], cut(anchor["extracted"]), cut(anchor["text"])],
        "after": [pair["outcome"], cut(pair["extracted"]), cut(pair["text"])],
    }


@dataclasses.dataclass(frozen=True)
class PairBrowser:
    """The pairs on the page, with the controls that search them."""

    macro: ClassVar[str] = "pair_browser"
    archive: Archive
    num_pairs: int
    places: Sequence[str]  # phase and step of each file that is shown
    kinds: Sequence[tuple[str, str, int]]  # transition, its name, how many of the pairs
    lengths: tuple[int, int]  # of the corrections, in tokens: shortest and longest
    template: str  # of correction prompts; "" if the config is not known
    framing: str  # what is around it, in words
    budget: str  # of a quoted attempt, in words


def pair_browser(
    pairs: Sequence[Mapping[str, Any]], archive: Archive, config: Mapping[str, Any]
) -> Block:
    """The browser of `pairs`, or a line on why there is nothing to browse; `config` as in
    `pack_pairs`."""
    if not archive.num_files:
        return Note("No attempts are archived yet, or log.archive is off.")
    if not pairs:
        return Note(f"The archive has {archive.size}; there are no corrections to show.")
    places = tuple(dict.fromkeys(f"{p['phase']} {p['step']}" for p in pairs))
    counts = collections.Counter(p["transition"] for p in pairs)
    kinds = [(kind, words, counts[kind]) for kind, words in TRANSITIONS.items()]
    lengths = [p["completion_tokens"] for p in pairs]
    values = {key: entry["value"] for key, entry in config.items()}
    framed = values.get("data.chat_template", False)
    return PairBrowser(
        archive,
        len(pairs),
        places,
        kinds,
        (min(lengths), max(lengths)),
        template=values.get("data.correction_template", ""),
        framing="in a turn of the chat template" if framed else "without a chat template",
        budget=f"{values.get('data.max_attempt_tokens', '?')} tokens",
    )
