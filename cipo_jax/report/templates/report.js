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
    const length = ", " + pair.tokens + " tokens" + (pair.finished ? "" : ", hit the token limit");
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

  for (const control of [step, kind, words]) {
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
