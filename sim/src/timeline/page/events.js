// The list of events, and choosing: what is chosen is marked in the lanes, shown in the list and told below it.

// ---- the list ----
const LIST_ROWS = 400;
let matching = D.events.map((_, i) => i), shown = [];
function search() {
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  matching = [];
  D.events.forEach((e, i) => {
    const text = words.length ? `n${e.n} ${e.k} ${e.d}`.toLowerCase() : "";
    if (words.every(w => text.includes(w))) matching.push(i);
  });
  el("count").textContent = words.length ? `${matching.length} of ${D.events.length}` : `${D.events.length} events`;
  listed = null;
  listAround();
}
const rowClass = k => /^(oracle|panic|crash|disk\.power_fail|node\.exit|store\.error)/.test(k) ? " bad" : /^(fault|heal)/.test(k) ? " warn" : /^(log|phase|op|client)/.test(k) ? " log" : "";
let listed = null;
// The part of the list around what is chosen, or around the middle of the window.
function listAround() {
  const chosen = state.chosen && state.chosen.event, middle = state.cursor !== null ? state.cursor : toT((state.from + state.to) / 2);
  let at = chosen !== null && chosen !== undefined ? lower(matching, chosen, i => i) : lower(matching, middle, i => D.events[i].t);
  const first = Math.max(0, Math.min(at - LIST_ROWS / 2, matching.length - LIST_ROWS)), key = `${first}`;
  const list = el("list");
  if (listed !== key) {
    listed = key;
    list.replaceChildren();
    shown = matching.slice(first, first + LIST_ROWS);
    if (first > 0) html(list, "div", "row dim", "").appendChild(document.createTextNode("…"));
    for (const i of shown) {
      const e = D.events[i], row = html(list, "div", `row${rowClass(e.k)}`);
      row.dataset.event = i;
      html(row, "span", "", clock(e.t));
      html(row, "i", "", `n${e.n}`);
      html(row, "span", "", `${e.k} ${tail(e.d.split("\n", 1)[0])}`);
      row.addEventListener("click", () => choose({ item: e, event: i, t: e.t }));
    }
    if (first + LIST_ROWS < matching.length) html(list, "div", "row dim", "").appendChild(document.createTextNode("…"));
  }
  for (const row of list.children) row.classList.toggle("on", row.dataset.event !== undefined && +row.dataset.event === chosen);
  const target = [...list.children].find(row => row.dataset.event !== undefined && +row.dataset.event >= (matching[at] ?? Infinity));
  if (target) {
    const top = target.offsetTop - list.offsetTop;
    if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - 34) list.scrollTop = top - list.clientHeight / 2;
  }
}

// ---- choosing ----
function choose(target) {
  state.chosen = target;
  state.cursor = target ? target.t : null;
  const detail = el("detail");
  detail.replaceChildren();
  if (!target) return draw(), introduce();
  const event = target.event !== null && target.event !== undefined ? D.events[target.event] : null;
  html(detail, "h3", "", target.title || (event ? event.k : "no longer listed"));
  html(detail, "div", "dim mono", `${clock(target.t)} s${event ? `  n${event.n}  ${event.k}` : ""}`);
  if (target.text) html(detail, "pre", "", target.text);
  if (event && event.d !== target.text) html(detail, "pre", "", event.d);
  if (target.loss && event && event.k !== "disk.power_fail") {
    html(detail, "pre", "lost", target.loss.lost.map(l => `lost ${l}`).join("\n"));
    html(detail, "pre", "kept", target.loss.kept.map(l => `kept ${l}`).join("\n"));
  }
  const u = toU(target.t), length = state.to - state.from;
  if (u < state.from + length * .02 || u > state.to - length * .02) view(u - length / 2, u + length / 2); else draw();
}
function step(items, time, forward) {
  const now = state.cursor === null ? toT(forward ? state.from : state.to) : state.cursor;
  const sorted = [...items].sort((a, b) => time(a) - time(b));
  return forward ? sorted.find(i => time(i) > now) : sorted.reverse().find(i => time(i) < now);
}
function stepFault(forward) { const fault = step(D.faults, f => f.from_ns, forward); if (fault) choose(faultTarget(fault)); }
function stepEvent(forward) {
  const chosen = state.chosen && state.chosen.event;
  let at = chosen !== null && chosen !== undefined ? lower(matching, chosen, i => i) + (forward ? (matching.includes(chosen) ? 1 : 0) : -1) : lower(matching, toT(state.from), i => D.events[i].t);
  const i = matching[Math.max(0, Math.min(at, matching.length - 1))];
  if (i !== undefined) choose({ item: D.events[i], event: i, t: D.events[i].t });
}
function showTip(e, text) {
  const tip = el("tip");
  tip.textContent = text;
  tip.hidden = false;
  tip.style.left = `${Math.min(e.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(e.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
}
