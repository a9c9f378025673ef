"use strict";

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);  // strings become text nodes
  return made;
}

// The values of a figure under the pointer.
(() => {
  const AXES = {step: "step", k: "k =", tokens: "sampled tokens:"};

  function number(value, share) {
    if (share) return (100 * value).toFixed(1) + "%";
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return size && size < 0.001 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  }

  function nearest(xs, x) {
    let best = 0;
    xs.forEach((at, i) => { if (Math.abs(at - x) < Math.abs(xs[best] - x)) best = i; });
    return best;
  }

  function row(curve, at, share) {
    const swatch = element("i");
    swatch.style.borderTopColor = curve.colour;
    const made = element("div", "", swatch, curve.label + " ",
      element("b", "", number(curve.y[at], share)));
    if (curve.average) made.append(" (average " + number(curve.average[at], share) + ")");
    if (curve.low) {
      made.append(" [" + number(curve.low[at], share) + ", " + number(curve.high[at], share) + "]");
    }
    return made;
  }

  for (const plot of document.querySelectorAll(".plot")) {
    let shown = null;  // parsed when first needed
    let tip, line;
    const hide = () => { if (tip) tip.hidden = line.hidden = true; };
    const show = (event) => {
      if (!shown) {
        shown = JSON.parse(plot.dataset.hover);
        tip = element("div", "tip");
        line = element("div", "line");
        plot.append(line, tip);
      }
      const [left, right, top, bottom, low, high] = shown.box;
      const frame = plot.getBoundingClientRect();
      const [from, to] = shown.x === "k" ? [Math.log2(low), Math.log2(high)] : [low, high];
      const share = ((event.clientX - frame.left) / frame.width - left) / (right - left);
      if (share < -0.05 || share > 1.05) return hide();
      const place = from + share * (to - from);
      const scale = (x) => (shown.x === "k" ? Math.log2(x) : x);
      const all = [...new Set(shown.curves.flatMap((curve) => curve.x))];
      const x = all[nearest(all.map(scale), place)];
      const rows = shown.curves.flatMap((curve) => {
        const at = curve.x.indexOf(x);
        return at < 0 ? [] : [row(curve, at, shown.share)];
      });
      const merged = Math.max(...shown.curves.map((curve) => curve.merged));
      const head = AXES[shown.x] + " " + (shown.x === "step" ? Math.round(x) : number(x));
      tip.replaceChildren(
        element("div", "at", merged > 1 ? "means of " + merged + " values around " + head : head),
        ...rows);
      tip.hidden = line.hidden = false;
      const at = left + (right - left) * (scale(x) - from) / (to - from);
      line.style.left = 100 * at + "%";
      line.style.top = 100 * top + "%";
      line.style.bottom = 100 * (1 - bottom) + "%";
      // Right of the line or left of it, and within the figure.
      const [middle, width] = [at * frame.width, tip.offsetWidth];
      const beside = middle + width + 8 > frame.width ? middle - width - 8 : middle + 8;
      tip.style.left = Math.max(0, Math.min(beside, frame.width - width)) + "px";
    };
    plot.addEventListener("pointermove", show);
    plot.addEventListener("pointerdown", show);
    plot.addEventListener("pointerleave", hide);
  }
})();

// What is folded on the screen is printed as well.
(() => {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const folded of opened) folded.open = true;
  });
  addEventListener("afterprint", () => { for (const folded of opened) folded.open = false; });
})();

// Pairs of attempt and correction.
(() => {
  const PER_PAGE = 10;
  const MOST_CELLS = 4e6;  // of a table of common parts; larger texts are not compared
  const WORDS = {r: "right", w: "wrong"};
  const list = document.getElementById("list");
  if (!list) return;
  const [step, kind, words, least, most, count, back, next] =
    ["step", "kind", "words", "least", "most", "count", "back", "next"]
      .map((id) => document.getElementById(id));
  const {template, framing, budget} = list.dataset;
  let pairs = [];
  let first = 0;

  async function unpack() {
    const packed = atob(document.getElementById("pairs").textContent);
    const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // Which parts of a and of b are in their longest common subsequence: [[bool], [bool]].
  function common(a, b) {
    const kept = [new Array(a.length).fill(false), new Array(b.length).fill(false)];
    let start = 0, endA = a.length, endB = b.length;
    while (start < endA && start < endB && a[start] === b[start]) {
      kept[0][start] = kept[1][start] = true;
      start++;
    }
    while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) {
      kept[0][--endA] = kept[1][--endB] = true;
    }
    const [height, width] = [endA - start, endB - start];
    if (height * width > MOST_CELLS) return kept;
    // best[i][j]: how many parts a[i..] and b[j..] have in common.
    const best = Array.from({length: height + 1}, () => new Uint32Array(width + 1));
    for (let i = height - 1; i >= 0; i--) {
      for (let j = width - 1; j >= 0; j--) {
        best[i][j] = a[start + i] === b[start + j]
          ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
      }
    }
    for (let i = 0, j = 0; i < height && j < width;) {
      if (a[start + i] === b[start + j]) kept[0][start + i++] = kept[1][start + j++] = true;
      else if (best[i + 1][j] >= best[i][j + 1]) i++;
      else j++;
    }
    return kept;
  }

  // A changed line: the parts that its counterpart does not have stand out.
  function changed(tag, parts, kept) {
    const line = element(tag);
    parts.forEach((part, i) => line.append(kept[i] ? part : element("b", "", part)));
    return line;
  }

  // Two texts as lists of nodes, with what only one of them has marked.
  function compared(before, after) {
    const lines = [before.split("\n"), after.split("\n")];
    const kept = common(...lines);
    const made = [[], []];
    const add = (side, node) => made[side].push(node, "\n");
    let i = 0, j = 0;
    while (i < lines[0].length || j < lines[1].length) {
      const [gone, come] = [[], []];
      while (i < lines[0].length && !kept[0][i]) gone.push(lines[0][i++]);
      while (j < lines[1].length && !kept[1][j]) come.push(lines[1][j++]);
      for (let n = 0; n < Math.max(gone.length, come.length); n++) {
        const parts = [gone[n], come[n]].map((line) => (line ?? "").split(/(?<=\W)|(?=\W)/));
        const same = n < Math.min(gone.length, come.length)
          ? common(...parts) : parts.map((of) => of.map(() => true));
        if (n < gone.length) add(0, changed("del", parts[0], same[0]));
        if (n < come.length) add(1, changed("ins", parts[1], same[1]));
      }
      if (i < lines[0].length) add(0, lines[0][i++]);
      if (j < lines[1].length) add(1, lines[1][j++]);
    }
    for (const nodes of made) nodes.pop();  // the line break after the last line
    return made;
  }

  function box(className, label, ...content) {
    const made = element("pre", className, ...content);
    made.setAttribute("role", "region");
    made.setAttribute("aria-label", label);
    return made;
  }

  function side(title, [outcome, extracted], note, content) {
    const answer = extracted === null ? "" : ", answer " + extracted;
    const verdict = element("b", outcome, outcome.replace("_", " "));
    return element("div", "", element("h4", "", title),
      element("p", "", verdict, answer + note), box("", title, ...content));
  }

  // The correction prompt: the template's words, with question and attempt filled in.
  function prompt(pair) {
    const filled = {"{question}": pair.question, "{attempt}": pair.quote ?? pair.before[2]};
    const content = template.split(/(\{question\}|\{attempt\})/).map((part) =>
      part in filled ? element("span", "filled", filled[part]) : part);
    const notes = [framing];
    if (pair.trimmed) notes.push("the attempt cut in the middle to " + budget);
    else if (pair.quote !== null) notes.push("the attempt as it is quoted");
    if (pair.whole) notes.push("shown whole, as it is not archived where");
    return element("div", "", element("h4", "", "Correction prompt"),
      element("p", "", notes.join("; ")), box("prompt", "Correction prompt", ...content));
  }

  function article(pair) {
    const [before, after] = [WORDS[pair.transition[0]], WORDS[pair.transition[2]]];
    const top = element("div", "top", element("h3", "", before + " → " + after),
      element("span", "", pair.where), element("span", "", "problem " + pair.id));
    if (pair.answer !== null) top.append(element("span", "", "reference " + pair.answer));
    const length = ", " + pair.tokens + " tokens" + (pair.finished ? "" : ", hit the token limit");
    const [gone, come] = compared(pair.before[2], pair.after[2]);
    const sides = [side("Attempt", pair.before, pair.trimmed ? ", cut in the prompt" : "", gone),
      side("Correction", pair.after, length, come)];
    if (template) sides.splice(1, 0, prompt(pair));
    return element("article", "", top, box("question", "Question", pair.question),
      element("div", "sides of" + sides.length, ...sides));
  }

  function show() {
    const wanted = words.value.trim().toLowerCase();
    const [shortest, longest] = [Number(least.value) || 0, Number(most.value) || Infinity];
    const found = pairs.filter((pair) =>
      (!step.value || pair.where === step.value) &&
      (!kind.value || pair.transition === kind.value) &&
      pair.tokens >= shortest && pair.tokens <= longest &&
      (pair.id + " " + pair.question).toLowerCase().includes(wanted));
    const page = found.slice(first, first + PER_PAGE);
    count.textContent = page.length
      ? "Pairs " + (first + 1) + "–" + (first + page.length) + " of " + found.length
      : "No pair matches.";
    // Not `disabled`, which would take the focus from a button that was just pressed.
    back.ariaDisabled = first === 0;
    next.ariaDisabled = first + PER_PAGE >= found.length;
    list.replaceChildren(...page.map(article));
    for (const made of list.querySelectorAll("pre")) {  // a tab stop only where it scrolls
      if (made.scrollHeight > made.clientHeight) made.tabIndex = 0;
    }
  }

  function turn(button, by) {
    if (button.ariaDisabled === "true") return;
    first += by;
    show();
    count.scrollIntoView({block: "nearest"});
  }

  for (const control of [step, kind, words, least, most]) {
    control.addEventListener("input", () => { first = 0; show(); });
  }
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  back.addEventListener("click", () => turn(back, -PER_PAGE));
  next.addEventListener("click", () => turn(next, PER_PAGE));
  unpack().then((unpacked) => { pairs = unpacked; show(); }, (error) => {
    count.textContent = "The pairs could not be unpacked (" + error + "). "
      + "Browsers released since May 2023 can unpack them.";
  });
})();
