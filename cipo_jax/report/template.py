"""The fixed parts of the run report: the page, its style, its script.

Nothing here knows a run. `PAGE` and `BROWSER` are filled with `str.format`; whatever goes in must
be escaped already. The script builds what it shows with text nodes only, so that no text of a
model is ever parsed as HTML.
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{csp_hash}'">
<title>{name} · cipo_jax run</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to content</a>
<header>
<p class="kind">cipo_jax run</p>
<h1>{name}</h1>
{facts}
<nav aria-label="Sections">{nav}</nav>
</header>
<main id="main">
{sections}</main>
<footer class="note">{footer}</footer>
<script type="application/gzip" id="pairs">{pairs}</script>
<script>{script}</script>
</body>
</html>
"""

BROWSER = """<p class="note">{about}</p>
<noscript><p class="nothing">The pairs need JavaScript.</p></noscript>
<form id="filters">
<label>Step <select id="step"><option value="">all</option>{steps}</select></label>
<label>Change <select id="kind"><option value="">all</option>{kinds}</select></label>
<label>Problem <input type="search" id="words" placeholder="id or text of the question"></label>
</form>
<div class="pager"><p id="count" role="status">Unpacking …</p>
<button type="button" id="back">Previous</button>
<button type="button" id="next">Next</button></div>
<div id="list"></div>
"""

STYLE = """
:root {
  --ground: #fcfcfa; --raised: #fff; --ink: #1c1e21; --soft: #5a6067; --line: #dcdcd6;
  --link: #1b5cb8; --axis: #5a6067; --grid: #e6e6e0; --good: #14693f; --bad: #a32626;
  --s1: #1f66c1; --s2: #c45a0a; --s3: #12805f; --s4: #8a3fa8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15171a; --raised: #1d2024; --ink: #e7e8ea; --soft: #a3a9b1; --line: #363b42;
    --link: #8ab8f5; --axis: #a3a9b1; --grid: #2d3138; --good: #6fd3a0; --bad: #f59a92;
    --s1: #6faaf5; --s2: #f5a25d; --s3: #4fcaa4; --s4: #d193ea;
  }
}
* { box-sizing: border-box }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100% }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.5rem clamp(1rem, 4vw, 2.5rem) 4rem;
  background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
a { color: var(--link) }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
.skip { position: absolute; left: -99rem }
.skip:focus { left: 1rem; top: .5rem; background: var(--raised); padding: .3rem .6rem }
.kind { margin: 0; color: var(--soft); font-size: .875rem }
h1 { margin: 0 0 1rem; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere }
h2 { margin: 2.75rem 0 .75rem; font-size: 1.25rem; line-height: 1.3 }
h3, h4 { margin: 0; font-size: .9375rem }
dl { display: flex; flex-wrap: wrap; gap: .75rem 2.25rem; margin: 0 0 1rem }
dt { color: var(--soft); font-size: .8125rem }
dd { margin: 0; font-size: 1.125rem; font-variant-numeric: tabular-nums }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: .625rem 0;
  border-block: 1px solid var(--line); font-size: .9375rem }
.note, .nothing { color: var(--soft); font-size: .9375rem; max-width: 44rem }
.nothing { margin: .5rem 0 }
.warning { border-left: 3px solid var(--bad); padding: .25rem .9rem; margin: 0 0 1rem }
.warning ul { margin: .25rem 0; padding-left: 1.1rem }
.figures { display: grid; gap: 1.75rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)) }
figure { margin: 0; min-width: 0; display: flex; flex-direction: column }
footer { margin-top: 3rem }
figcaption { font-size: .9375rem; line-height: 1.35; flex: 1 }
figure svg { display: block; width: 100%; height: auto; margin-top: .375rem }
figure svg * { stroke-linejoin: round }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; list-style: none; margin: .125rem 0 0;
  padding: 0; color: var(--soft); font-size: .8125rem }
.legend i { display: inline-block; width: 1.375rem; margin-right: .375rem; vertical-align: middle;
  border-top: 3px solid var(--s1) }
.legend .s2 { border-color: var(--s2) }
.legend .s3 { border-color: var(--s3); border-top-style: dashed }
.legend .s4 { border-color: var(--s4); border-top-style: dotted }
.areas i, .ramp i { border-top-style: solid !important; border-top-width: .75rem }
.areas i { opacity: .75 }
.ramp { gap: 0 .625rem }
.legend .fired { width: 0; border: .375rem solid transparent; border-top-color: var(--bad);
  border-bottom: 0 }
.spark { width: 6.5rem; height: 1.25rem; vertical-align: middle }
.spark polyline { fill: none; stroke: var(--s1); stroke-width: 1.5 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9375rem }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.25rem .3rem 0;
  border-bottom: 1px solid var(--line); font-weight: normal }
thead th { color: var(--soft); font-size: .8125rem; white-space: nowrap }
td code { overflow-wrap: anywhere; white-space: pre-wrap }
.numbers td, .numbers thead th + th { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; padding: .3rem 0 .3rem 1.75rem }
.numbers small { color: var(--soft) }
code, pre { font: .84375rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono",
  monospace }
details { margin-top: 1rem }
summary { cursor: pointer; padding: .25rem 0; color: var(--link) }
form, .pager { display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; align-items: center }
.pager { margin: .75rem 0; gap: .5rem }
.pager p { margin: 0 auto 0 0; color: var(--soft); font-size: .9375rem }
label { font-size: .9375rem; display: flex; align-items: center; gap: .5rem }
label:has(input) { flex: 1 1 16rem }
select, input, button { font: inherit; font-size: .9375rem; color: var(--ink);
  background: var(--raised); border: 1px solid var(--soft); border-radius: .3rem;
  padding: .375rem .625rem; min-height: 2.5rem; min-width: 0 }
input { flex: 1 }
button { cursor: pointer }
button[aria-disabled="true"] { opacity: .45; cursor: default }
article { border-top: 1px solid var(--line); padding: 1rem 0 1.25rem }
.top { display: flex; flex-wrap: wrap; gap: .125rem 1rem; align-items: baseline;
  font-size: .9375rem }
.top span { color: var(--soft); overflow-wrap: anywhere }
.sides { display: grid; gap: 1rem 1.5rem; grid-template-columns: 1fr 1fr; margin-top: .5rem }
.sides > div { min-width: 0; display: flex; flex-direction: column }
.sides p { margin: 0 0 .25rem; font-size: .875rem; color: var(--soft); overflow-wrap: anywhere }
.sides p b { color: var(--bad) }
.sides p .correct { color: var(--good) }
pre { margin: 0; padding: .625rem .75rem; background: var(--raised); border: 1px solid var(--line);
  border-radius: .3rem; max-height: 24rem; overflow: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; flex: 1 }
.question { margin-top: .5rem; max-height: 12rem }
@media (max-width: 42rem) {
  h2 { margin-top: 2.25rem }
  .sides { grid-template-columns: 1fr }
  .numbers td, .numbers thead th + th { padding-left: .5rem }
  .numbers tbody th { padding-right: 0 }
  .numbers small { display: block }
  label { flex: 1 1 100% }
  label select { flex: 1 }
}
"""

SCRIPT = """
"use strict";
(() => {
  const PER_PAGE = 10;
  const WORDS = {r: "right", w: "wrong"};
  const list = document.getElementById("list");
  if (!list) return;
  const [step, kind, words, count, back, next] =
    ["step", "kind", "words", "count", "back", "next"].map((id) => document.getElementById(id));
  let pairs = [];
  let first = 0;

  async function unpack() {
    const packed = atob(document.getElementById("pairs").textContent);
    const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function element(tag, className, ...children) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children);  // strings become text nodes
    return made;
  }

  function box(text, className, label) {
    const made = element("pre", className, text);
    made.setAttribute("role", "region");
    made.setAttribute("aria-label", label);
    return made;
  }

  function side(title, [outcome, extracted, text], note) {
    const answer = extracted === null ? "" : ", answer " + extracted;
    const verdict = element("b", outcome, outcome.replace("_", " "));
    return element("div", "", element("h4", "", title),
      element("p", "", verdict, answer + note), box(text, "", title));
  }

  function article(pair) {
    const [before, after] = [WORDS[pair.transition[0]], WORDS[pair.transition[2]]];
    const top = element("div", "top", element("h3", "", before + " → " + after),
      element("span", "", pair.where), element("span", "", "problem " + pair.id));
    if (pair.answer !== null) top.append(element("span", "", "reference " + pair.answer));
    const length = ", " + pair.tokens + " tokens" + (pair.finished ? "" : ", hit the limit");
    return element("article", "", top, box(pair.question, "question", "Question"),
      element("div", "sides",
        side("Attempt", pair.before, pair.trimmed ? ", trimmed in the prompt" : ""),
        side("Correction", pair.after, length)));
  }

  function show() {
    const wanted = words.value.trim().toLowerCase();
    const found = pairs.filter((pair) =>
      (!step.value || pair.where === step.value) &&
      (!kind.value || pair.transition === kind.value) &&
      (pair.id + " " + pair.question).toLowerCase().includes(wanted));
    const page = found.slice(first, first + PER_PAGE);
    count.textContent = page.length
      ? "Pairs " + (first + 1) + "–" + (first + page.length) + " of " + found.length
      : "No pair matches.";
    // Not `disabled`, which would take the focus away from who just pressed the key.
    back.ariaDisabled = first === 0;
    next.ariaDisabled = first + PER_PAGE >= found.length;
    list.replaceChildren(...page.map(article));
    for (const made of list.querySelectorAll("pre")) {  // tab stops only where there is a scroll
      if (made.scrollHeight > made.clientHeight) made.tabIndex = 0;
    }
  }

  function turn(button, by) {
    if (button.ariaDisabled === "true") return;
    first += by;
    show();
    count.scrollIntoView({block: "nearest"});
  }

  for (const control of [step, kind, words]) {
    control.addEventListener("input", () => { first = 0; show(); });
  }
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  back.addEventListener("click", () => turn(back, -PER_PAGE));
  next.addEventListener("click", () => turn(next, PER_PAGE));
  unpack().then((unpacked) => { pairs = unpacked; show(); }, (error) => {
    count.textContent = "This browser cannot unpack the pairs (" + error + "); one of 2023 can.";
  });
})();
"""
