"""The run report: complete, self-contained, and harmless whatever the model wrote."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cipo_jax.archive import AttemptArchive
from cipo_jax.config import Config
from cipo_jax.config_resolve import provenance, write_resolved
from cipo_jax.metrics import MetricWriter, reduce_attempts, transitions
from cipo_jax.report import choose_pairs, write_report
from cipo_jax.report_figures import Plot, figure
from cipo_jax.types import Attempt, CipoError, Completion, Outcome, Problem, Prompt, Verdict

HOSTILE = (
    "</script><script>window.pwned = 1</script><!-- <script> --><img src=x onerror='pwned=1'>"
    "</pre>\u2028&lt;b&gt;\ud800 {style} %s"
)


def make_attempt(
    problem: Problem, text: str, right: bool, anchor: Attempt | None = None, tokens: int = 12
) -> Attempt:
    return Attempt(
        Prompt(problem, np.arange(9, dtype=np.int32), anchor=anchor),
        Completion(
            np.zeros(tokens, np.int32), np.full(tokens, -0.1, np.float32), finished=tokens < 48
        ),
        text,
        Verdict(Outcome.CORRECT if right else Outcome.WRONG, extracted="26" if right else "23"),
    )


def make_step(
    rng: np.random.Generator, step: int, accuracy: float, problems: int = 4, text: str = ""
) -> tuple[list[Attempt], list[Attempt]]:
    """A base stream of `problems` groups of 4 and a correction of each group's first two."""
    base, corrections = [], []
    for i in range(problems):
        a, b = (int(x) for x in rng.integers(1, 10, 2))
        problem = Problem(f"chain-{step}-{i}", f"Compute ((({a}+{b})*3)-4).", str((a + b) * 3 - 4))
        for j in range(4):
            right = bool(rng.random() < accuracy)
            trace = f"{a}+{b}={a + b}\n{a + b}*3={3 * (a + b) - (0 if right else 3)}\n"
            base.append(make_attempt(problem, trace + text, right, tokens=20 + int(step) % 31 + j))
        for anchor in base[-4:-2]:
            kept = bool(rng.random() < (0.8 if anchor.correct else accuracy))
            corrections.append(make_attempt(problem, f"Checked.\n{anchor.text}", kept, anchor))
    return base, corrections


def make_run(workdir: Path, steps: int = 60, *, corrections: bool = True) -> Path:
    """A run directory as training leaves it, with invented numbers."""
    rng = np.random.default_rng(0)
    workdir.mkdir(parents=True, exist_ok=True)
    changed = Config(num_steps=steps, init_from="runs/cold <1>")
    write_resolved(workdir / "config.json", provenance(changed, changed, {"num_steps"}))
    writer, archive = MetricWriter(workdir, tensorboard=False), AttemptArchive(workdir)
    for step in range(0, 200, 10):
        cold = {"loss/demonstration": 3 * math.exp(-step / 60), "learning_rate": 3e-3}
        writer.write(
            step, cold | ({"pass_rate": step / 500} if step % 50 == 0 else {}), "cold_start"
        )
    for step in range(steps + 1):
        progress = step / max(1, steps)
        if step % 20 == 0 or step == steps:
            scalars = {
                "eval/pass@1": 0.388 + 0.25 * progress,
                "eval/pass@1_stderr": 0.021,
                "eval/pass@8": 0.79 + 0.12 * progress,
                "eval/length/mean": 31.0 + progress,
                "eval/no_answer": 0.08 - 0.06 * progress,
            }
            if corrections:
                scalars["eval/correction/accuracy_before"] = 0.39 + 0.25 * progress
                scalars["eval/correction/accuracy_after"] = 0.26 + 0.43 * progress
                scalars["eval/correction/w2r"] = 0.23 + 0.2 * progress
                scalars["eval/correction/r2r"] = 0.33 + 0.5 * progress
            writer.write(step, scalars, "eval")
        if step == 0:
            continue
        base, corrected = make_step(rng, step, 0.35 + 0.4 * progress)
        noise = rng.normal(0, 0.01, 8)
        scalars = reduce_attempts(base, 4, "base") | {
            "base/entropy": 0.5 - 0.2 * progress + noise[0],
            "base/clip_frac": 0.002 + abs(noise[1]) / 10,
            "base/ratio_max": 1 + abs(noise[2]),
            "base/sampler_gap": 1e-5,
            "loss/total": noise[3],
            "loss/base": noise[4],
            "grad_norm": 0.5 + noise[5],
            "learning_rate": 4e-4,
            "time/rollout": 0.6 + noise[6],
            "time/update": 0.4 + noise[7],
            "time/step": 1.3,
            "tokens/sampled": 16000.0,
            "tokens/trained": 21000.0,
            "tokens/pad_share": 0.03,
        }
        if corrections:
            scalars |= reduce_attempts(corrected, 2, "correction") | transitions(corrected)
            scalars |= {
                "replay/rho": 0.3 + 0.5 * min(1, 3 * progress),
                "anchor/realised_success_share": 0.3 + 0.4 * min(1, 3 * progress) + noise[0],
                "anchor/fallback_frac": 0.2,
                "anchor/trimmed_frac": 0.0,
                "correction/entropy": 0.45 - 0.2 * progress,
                "loss/correction": noise[1],
                "time/correct": 0.3,
            }
        writer.write(step, scalars, "train")
        archive.write("train", step, base + (corrected if corrections else []))
    writer.close()
    return workdir


class Page(HTMLParser):
    """The parsed report: elements, ids, scripts, text by section."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[str] = []
        self.sections: dict[str, str] = {}
        self._section = ""
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "td":
            self.sections[self._section] += " "
        if tag == "section":
            self._section = dict(attrs)["id"]
            self.sections[self._section] = ""

    def handle_data(self, data):
        if self.tags[-1:] == ["script"] and self.get_starttag_text().startswith("<script"):
            self.scripts.append(data)
        elif self._section:
            self.sections[self._section] += data

    def handle_endtag(self, tag):
        self._section = "" if tag == "section" else self._section

    @property
    def pairs(self) -> list[dict]:
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    return Page(write_report(make_run(tmp_path_factory.mktemp("runs") / "demo"), max_pairs=40))


def test_before_and_after_come_from_the_first_and_last_evaluation(page):
    text = page.sections["before-and-after"]
    assert "step 0" in text and "step 60" in text
    rows = re.findall(r"(pass@1|accuracy after correction)([^a-z]*)", text)
    numbers = {label: re.findall(r"[+−]?[\d.]+", cells) for label, cells in rows}
    assert numbers["pass@1"] == ["38.8", "2.1", "63.8", "2.1", "+25.0"]
    assert numbers["accuracy after correction"] == ["26.0", "69.0", "+43.0"]


def test_all_figures_of_a_whole_run_are_drawn(page):
    assert page.tags.count("figure") == 22
    assert "No data" not in page.source


def test_page_loads_nothing_and_its_ids_are_unique(page):
    links = [v for _, name, v in page.attributes if name in ("href", "src", "xlink:href")]
    assert links and all(link.startswith("#") for link in links)
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert "url(" not in page.source.replace("url(#", "") and "@import" not in page.source
    ids = [v for _, name, v in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} <= set(ids)


def test_figures_take_their_colours_from_the_page(page):
    svg = "".join(re.findall(r"<svg.*?</svg>", page.source, re.DOTALL))
    assert "var(--s1)" in svg and "var(--axis)" in svg
    assert not re.findall(r"(?:fill|stroke): ?#\w+", svg)


def test_same_run_gives_the_same_page(page, tmp_path):
    again = write_report(make_run(tmp_path / "demo"), max_pairs=40)
    assert again.read_text(encoding="utf-8") == page.source


def test_config_shows_what_differs_first(page):
    text = page.sections["config"]
    assert (
        text.index("num_steps") < text.index("values at their default") < text.index("eval.every")
    )
    assert text.index("init_from") < text.index("values at their default")
    assert '"runs/cold <1>"' in text


def test_chosen_pairs_cover_steps_and_transitions(tmp_path):
    run = make_run(tmp_path / "run", steps=30)
    pairs, attempts = choose_pairs(run, max_pairs=24)
    assert attempts == 30 * (16 + 8)
    assert len(pairs) == 24
    steps = sorted({p["step"] for p in pairs})
    assert steps[0] == 1 and steps[-1] == 30 and max(np.diff(steps)) <= 3
    assert {p["transition"] for p in pairs} == {"r2r", "r2w", "w2r", "w2w"}
    for pair in pairs:
        before, after = (p["outcome"] == "correct" for p in (pair["anchor"], pair))
        assert pair["transition"] == f"{'wr'[before]}2{'wr'[after]}"
    assert len(choose_pairs(run, max_pairs=1)[0]) == 1
    assert choose_pairs(run, max_pairs=0)[0] == []


def write_hostile_run(workdir: Path) -> Path:
    problem = Problem(HOSTILE, HOSTILE, answer=HOSTILE)
    anchor = make_attempt(problem, HOSTILE, right=False)
    AttemptArchive(workdir).write(
        "train", 1, [anchor, make_attempt(problem, HOSTILE, True, anchor)]
    )
    (workdir / "config.json").write_text(
        json.dumps({HOSTILE: {"value": [HOSTILE], "source": HOSTILE}})
    )
    writer = MetricWriter(workdir, tensorboard=False)
    writer.write(1, {HOSTILE: math.nan, "base/reward/mean": 0.5}, "train")
    writer.close()
    return write_report(workdir, max_pairs=5)


def test_model_text_cannot_leave_its_place(tmp_path):
    page = Page(write_hostile_run(tmp_path / "<script>run"))
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert "<!--" not in page.source
    (pair,) = page.pairs
    for text in (pair["id"], pair["question"], pair["answer"], pair["before"][2], pair["after"][2]):
        assert text == HOSTILE.replace("\ud800", "\ufffd")


def test_long_texts_lose_their_middle_and_the_page_stays_small(tmp_path):
    problem = Problem("p", "<" * 5_000)
    attempts = []
    for i in range(100):
        attempts.append(make_attempt(problem, f"{i} head " + "<é" * 30_000 + " tail", False))
        attempts.append(make_attempt(problem, attempts[-1].text, True, attempts[-1]))
    AttemptArchive(tmp_path).write("train", 1, attempts)
    path = write_report(tmp_path, max_pairs=200)
    assert path.stat().st_size < 10_000_000
    page = Page(path)
    assert len(page.pairs) == 100
    text = page.pairs[0]["after"][2]
    assert text.startswith("0 head <é") and text.endswith("<é tail")
    left_out = int(re.search(r"\[… (\d+) characters left out …\]", text).group(1))
    assert left_out + len(text) - len(f"\n[… {left_out} characters left out …]\n") == 60_012


def test_run_that_just_started_says_what_is_missing(tmp_path):
    page = Page(write_report(tmp_path, max_pairs=10))
    assert "No evaluation yet" in page.sections["before-and-after"]
    assert "No data: Pass rate" in page.sections["learning"]
    assert "No attempts are archived" in page.sections["attempts-and-corrections"]
    assert "No config.json" in page.sections["config"]
    assert "figure" not in page.tags


def test_run_without_corrections(tmp_path):
    page = Page(write_report(make_run(tmp_path / "grpo", steps=3, corrections=False), max_pairs=9))
    assert "No data: Transitions" in page.sections["correction"]
    assert "no corrections to show" in page.sections["attempts-and-corrections"]
    assert "pass@1" in page.sections["before-and-after"]
    assert "accuracy after" not in page.sections["before-and-after"]
    assert page.pairs == []


def test_one_evaluation_is_no_comparison(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(0, {"eval/pass@1": 0.25}, "eval")
    assert "nothing to compare yet" in Page(write_report(tmp_path, 5)).source
    writer.write(7, {"eval/pass@1": 0.5}, "final")
    writer.close()
    text = Page(write_report(tmp_path, 5)).sections["before-and-after"]
    assert "nothing to compare" not in text and "+25.0 pts" in text


def test_values_that_are_not_finite_are_named_and_not_drawn(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step in range(8):
        writer.write(step, {"loss/total": math.inf if step > 1 else 0.1}, "train")
    writer.close()
    page = Page(write_report(tmp_path, 5))
    assert "train 2, train 3, train 4, train 5, train 6 and 1 more" in page.source
    assert "total: first 0.1, last 0.1" in page.source


def test_long_curves_are_averaged():
    records = [{"step": i, "m": float(i % 2)} for i in range(10_000)]
    svg = figure(Plot("t", (("m", "m"),)), records)
    assert len(svg) < 60_000
    assert "first 0.48, last 0.52" in svg or "first 0.5, last 0.5" in svg


def test_missing_workdir_and_damaged_config(tmp_path):
    with pytest.raises(CipoError, match="wanted the directory of a run"):
        write_report(tmp_path / "nowhere", 5)
    (tmp_path / "config.json").write_text('{"seed": 1}')
    with pytest.raises(CipoError, match="config.json"):
        write_report(tmp_path, 5)
    (tmp_path / "config.json").write_text('{"seed": {"value": 1}}')
    with pytest.raises(CipoError, match="source"):
        write_report(tmp_path, 5)


@pytest.mark.slow
def test_hundred_thousand_attempts_fit_in_ten_megabytes(tmp_path):
    rng, archive = np.random.default_rng(0), AttemptArchive(tmp_path)
    for step in range(260):
        base, corrections = make_step(rng, step, 0.5, problems=65, text="and so on " * 60)
        archive.write("train", step, base + corrections)
    path = write_report(tmp_path, max_pairs=200)
    page = Page(path)
    assert "101,400 attempts are archived" in page.source
    assert len(page.pairs) == 200
    assert path.stat().st_size < 10_000_000


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_page_runs_in_a_browser_without_errors(tmp_path):
    path = write_hostile_run(tmp_path / "run")
    run = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        + ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
        + ["--disable-sync", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
        + ["--virtual-time-budget=2000", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Pairs 1–1 of 1" in run.stdout
    assert run.stdout.count("<article>") == 1 and "<img" not in run.stdout
    assert "CONSOLE" not in run.stderr
