"""Run directories as training leaves them, with invented numbers; and a reader of report pages."""

import base64
import gzip
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import provenance
from cipo_jax.run.measures import pass_rate_histogram, reduce_attempts
from cipo_jax.run.records.archive import AttemptArchive
from cipo_jax.run.records.files import write_json
from cipo_jax.run.records.metrics_file import MetricWriter
from cipo_jax.run.records.starts import add_start
from cipo_jax.run.transitions import transitions
from cipo_jax.types import Attempt, Completion, Outcome, Problem, Prompt, Verdict


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
    write_json(workdir / "config.json", provenance(changed, changed, {"num_steps"}))
    generated = {"arithmetic": {"problems": None, "fingerprint": "0"}}
    write_json(workdir / "data.json", {"data.train": generated, "data.eval": generated})
    for time in ("2026-01-31 18:05", "2026-02-01 07:00"):
        add_start(
            workdir,
            {
                "time": time,
                "command": "python -m cipo_jax.main --config=configs/demo.py",
                "versions": {"cipo_jax": "1.2.3", "jax": "0.9"},
                "devices": "1 x cpu",
                "machine": "x86_64, 2 cores",
                "parameters": 151_328,
            },
        )
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
                scalars["eval/first_wrong/w2r"] = 0.23 + 0.3 * progress
                scalars["eval/first_wrong/resampled_w2r"] = 0.2 + 0.25 * progress
                scalars["eval/correction/r2r"] = 0.33 + 0.5 * progress
            writer.write(step, scalars, "eval")
        if step == 0:
            continue
        base, corrected = make_step(rng, step, 0.35 + 0.4 * progress)
        noise = rng.normal(0, 0.01, 8)
        right = np.array([a.correct for a in base]).reshape(-1, 4)
        scalars = reduce_attempts(base, 4, "base") | pass_rate_histogram(right)
        scalars |= {
            "base/entropy": 0.5 - 0.2 * progress + noise[0],
            "base/clip_frac": 0.002 + abs(noise[1]) / 10,
            "base/ratio_max": 1 + abs(noise[2]),
            "base/sampler_gap": 1e-5,
            "loss/total": noise[3],
            "loss/base": noise[4],
            "grad_norm": 0.5 + noise[5],
            "grad/base_norm": 0.3 + noise[5],
            "grad/correction_norm": 0.4 + noise[6],
            "grad/cosine": 0.6 + noise[7],
            "grad/right_cosine": 0.1 + noise[5],
            "grad/wrong_cosine": 0.4 + noise[6],
            "grad/right_wrong_cosine": -0.2 + noise[7],
            "sampler/useful_rows": 0.8,
            "time/verify_p50": 1e-4,
            "time/compile": float(step < 3),
            "compile/count": 5.0 * (step < 3),
            "tokens/per_second_per_device": 9000.0,
            "update/mfu": 0.3,
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
        if step in (17, 34):
            writer.write(step, {"health/retention_floor": 0.25}, "health")
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
        return json.loads(gzip.decompress(base64.b64decode(self.scripts[0])))
