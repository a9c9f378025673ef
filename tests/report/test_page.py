"""The run report: complete, self-contained, and harmless whatever the model wrote."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from invented_run import Page, make_attempt, make_run

from cipo_jax.config.keys import Config
from cipo_jax.report import tables
from cipo_jax.report.blocks import Table
from cipo_jax.report.page import write_report
from cipo_jax.report.plots import histogram_names, plots
from cipo_jax.run.records.archive import AttemptArchive
from cipo_jax.run.records.metrics_file import MetricWriter
from cipo_jax.types import CipoError, Problem

HOSTILE = (
    "</script><script>window.pwned = 1</script><!-- <script> --><img src=x onerror='pwned=1'>"
    "</pre>\u2028&lt;b&gt;\ud800 {style} %s {{ script }} {% raw %}"
)


def head_facts(page: Page) -> dict[str, str]:
    """{label: value} of the page's head."""
    head = page.source[page.source.index("<h1>") :].partition("<nav")[0]
    head = re.sub(r"<[^>]*>", "\n", re.sub("</?span>", "", head))  # an argument of the command each
    lines = [line for line in head.splitlines() if line.strip()]
    return dict(zip(lines[2::2], lines[3::2], strict=True))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    return Page(write_report(make_run(tmp_path_factory.mktemp("runs") / "demo"), max_pairs=40))


def test_the_head_says_what_was_run_on_what(page):
    facts = head_facts(page)
    assert facts["Method"] == "CIPO, lambda 1"
    assert facts["Model"] == "from scratch, 151,328 parameters"
    assert facts["Training problems"] == "arithmetic, unlimited"
    assert facts["Held-out problems"] == "arithmetic, 256 at most, 8 attempts each"
    assert facts["Device"] == "1 x cpu (x86_64, 2 cores)"
    assert facts["Started"] == "2026-01-31 18:05 UTC, continued 2026-02-01 07:00 UTC"
    assert facts["Version"] == "cipo_jax 1.2.3, jax 0.9"
    assert facts["Command"] == "python -m cipo_jax.main --config=configs/demo.py"
    assert facts["RL steps"] == "60 of 60"
    c = Config()
    assert facts["Each step"] == (
        f"{c.rollout.problems_per_step} problems x {c.rollout.group_size} attempts + "
        f"{c.num_anchors} anchors x {c.correction.group_size} corrections"
    )


def test_sums_say_which_steps_they_lack(page, tmp_path):
    run = make_run(tmp_path / "run", steps=6)
    told = "Tokens sampled", "Tokens trained", "Time in RL steps"
    assert not [name for name in told if "counted" in head_facts(page)[name]]
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    later = [line for line in lines if json.loads(line)["step"] > 4]
    (run / "metrics.jsonl").write_text("".join(later))
    facts = head_facts(Page(write_report(run, max_pairs=0)))
    assert facts["Tokens sampled"] == "32,000 (before step 5: not counted)"
    assert all(facts[name].endswith(" (before step 5: not counted)") for name in told)


def test_all_figures_of_a_whole_run_are_drawn(page):
    wanted = [p for group in plots(["pass@1"], ["pass_rate/0_of_4"]).values() for p in group]
    assert page.tags.count("figure") == len(wanted) == 36
    assert "No data" not in page.source


def test_page_loads_nothing_and_its_ids_are_unique(page):
    links = [v for _, name, v in page.attributes if name in ("href", "src", "xlink:href")]
    assert links and all(link.startswith("#") for link in links)
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert "url(" not in page.source.replace("url(#", "") and "@import" not in page.source
    ids = [v for _, name, v in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} <= set(ids)


def test_security_policy_allows_the_one_script_and_nothing_else(page):
    (policy,) = [v for _, name, v in page.attributes if name == "content" and "default-src" in v]
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert policy == allowed and page.tags.count("script") == 2
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


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


def test_the_page_begins_with_a_verdict(page):
    text = re.sub(r"<[^>]*>", "\n", page.source[page.source.index("<h1>") :])
    first, second = text.split()[0], [line for line in text.splitlines() if line.strip()][1]
    assert first == "demo" and second.startswith("learned: pass@1 38.8% at step 0, 63.8%")


def test_rules_younger_than_the_run_are_not_shown():
    limits = {"health.entropy_floor": 0.003, "health.patience": 5}
    config = {key: {"value": value, "source": "default"} for key, value in limits.items()}
    [table, _] = tables.health([], config)
    assert [row[0] for row in table.rows] == ["entropy_floor"]
    assert not isinstance(tables.health([], {})[0], Table)


def test_health_says_which_rule_fired_and_where(page):
    text = page.sections["health"]
    assert re.search(r"retention_floor *correction/retention < 0.3 2 17, 34 0.25", text)
    assert re.search(r"entropy_floor *base/entropy < 0.003 0 –", text)
    assert "break_rate_ceiling" not in text  # off by default
    assert "fired 2 times" in page.source
    marked = re.findall(r"aria-label=\"([^\"]*a health rule fired 2 times)", page.source)
    assert [label.partition(",")[0] for label in marked] == ["Fixing"]


def test_a_metric_nobody_draws_is_still_on_the_page(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step in (1, 2, 3):
        writer.write(step, {"new/<thing>": step / 4, "gone/bad": math.nan}, "train")
    writer.close()
    page = Page(write_report(tmp_path, 5))
    assert re.search(r"new/<thing> * 0.25 0.75 0.25 0.75", page.sections["all-metrics"])
    assert re.search(r"gone/bad * nan nan nan nan", page.sections["all-metrics"])
    assert 'class="spark"' in page.source


def test_histogram_is_that_of_the_largest_group():
    records = [{"pass_rate/0_of_2": 1.0}, {f"pass_rate/{k}_of_10": 0.1 for k in range(11)}]
    assert histogram_names(records) == [f"pass_rate/{k}_of_10" for k in range(11)]
    assert histogram_names([{"base/pass_rate": 0.5}]) == []


def write_hostile_run(workdir: Path) -> Path:
    problem = Problem(HOSTILE, HOSTILE, answer=HOSTILE)
    anchor = make_attempt(problem, HOSTILE, right=False)
    AttemptArchive(workdir).write(
        "train", 1, [anchor, make_attempt(problem, HOSTILE, True, anchor)]
    )
    template = "{question}\n{attempt}\nCheck and correct it."
    config = {HOSTILE: [HOSTILE], "data.correction_template": template, "model.source": HOSTILE}
    (workdir / "config.json").write_text(
        json.dumps({key: {"value": v, "source": HOSTILE} for key, v in config.items()})
    )
    writer = MetricWriter(workdir, tensorboard=False)
    writer.write(1, {HOSTILE: math.nan, "transition/w2r": 1.0}, "train")
    writer.write(1, {f"health/{HOSTILE}": 0.5}, "health")
    writer.close()
    return write_report(workdir, max_pairs=5)


def test_model_text_cannot_leave_its_place(tmp_path):
    page = Page(write_hostile_run(tmp_path / "<script>run"))
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert "<!--" not in page.source
    (pair,) = page.pairs
    for text in (pair["id"], pair["question"], pair["answer"], pair["before"][2], pair["after"][2]):
        assert text == HOSTILE.replace("\ud800", "\ufffd")


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
    assert page.scripts[0] and page.pairs == []


def test_one_evaluation_is_no_comparison(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.write(0, {"eval/pass@1": 0.25}, "eval")
    assert "nothing to compare yet" in Page(write_report(tmp_path, 5)).source
    writer.write(7, {"eval/pass@1": 0.5}, "eval")
    writer.close()
    text = Page(write_report(tmp_path, 5)).sections["before-and-after"]
    assert "nothing to compare" not in text and "+25.0 pts" in text
    assert "at step 0 and at step 7 are not archived: the number of cases is not known" in text


def test_values_that_are_not_finite_are_named_and_not_drawn(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step in range(8):
        writer.write(step, {"loss/total": math.inf if step > 1 else 0.1}, "train")
    writer.close()
    page = Page(write_report(tmp_path, 5))
    assert "train 2, train 3, train 4, train 5, train 6 and 1 more" in page.source
    assert "total: first 0.1, last 0.1" in page.source


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
    prompt = re.search(r'<pre class="prompt".*?</pre>', run.stdout, re.DOTALL)[0]
    assert prompt.count("window.pwned") == 2 and "Check and correct it." in prompt
    assert "CONSOLE" not in run.stderr


def test_a_metric_is_explained_as_that_of_its_phase():
    records = [{"phase": "?", "step": 1, "learning_rate": 0.1}]
    table = tables.all_metrics({"train": records, "cold_start": records})
    assert [row[0] for row in table.rows] == [
        ("learning_rate", "rate: Of the step's first update."),
        ("cold_start: learning_rate", "rate: Of the step."),
    ]
