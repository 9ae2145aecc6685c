// Mouse, keys and buttons, and the beginning of it all.
let dragged = false;
function draggable(node) {
  let start = null;
  node.addEventListener("pointerdown", e => { if (e.button === 0) { start = { x: e.clientX, from: state.from, to: state.to }; dragged = false; } });
  addEventListener("pointermove", e => {
    if (!start) return;
    const px = e.clientX - start.x;
    if (Math.abs(px) > 3) { dragged = true; node.classList.add("dragging"); }
    if (dragged) { const u = -px / width * (start.to - start.from); view(start.from + u, start.to + u); }
  });
  addEventListener("pointerup", () => { start = null; node.classList.remove("dragging"); setTimeout(() => { dragged = false; }); });
}
function wheel(e) {
  const px = e.clientX - el("lanes").getBoundingClientRect().left;
  if (e.ctrlKey || e.metaKey || e.altKey) { e.preventDefault(); zoom(Math.exp(e.deltaY * .002), atX(px)); }
  else if (Math.abs(e.deltaX) > Math.abs(e.deltaY) || e.shiftKey) { e.preventDefault(); const u = (e.deltaX || e.deltaY) / width * (state.to - state.from); view(state.from + u, state.to + u); }
}
function skipIdle(on) {
  const from = toT(state.from), to = toT(state.to), whole = state.from <= 0 && state.to >= lastU();
  el("skip-idle").checked = on;
  measure(on);
  if (whole) fit(); else view(toU(from), toU(to));
}
function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches, now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
}
const KEYS = [
  ["+  −", "zoom in, out (or Ctrl and the wheel)"], ["← →", "move (or drag)"], ["0", "the whole run"], ["v", "the violation"],
  ["n  p", "next, previous fault"], ["j  k", "next, previous event"], ["m", "messages: none, last second, all"], ["s", "skip idle time"],
  ["/", "search"], ["t", "light or dark"], ["Esc", "choose nothing"],
];
function key(e) {
  if (e.target.matches("input[type=search]")) { if (e.key === "Escape") e.target.blur(); return; }
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.matches("select")) return;
  const move = f => view(state.from + (state.to - state.from) * f, state.to + (state.to - state.from) * f);
  const modes = ["none", "last", "all"];
  const actions = {
    "+": () => zoom(.6, state.cursor ?? undefined), "=": () => zoom(.6, state.cursor ?? undefined), "-": () => zoom(1 / .6, state.cursor ?? undefined),
    ArrowLeft: () => move(-.15), ArrowRight: () => move(.15), 0: fit, v: toViolation, n: () => stepFault(true), p: () => stepFault(false),
    j: () => stepEvent(true), k: () => stepEvent(false), s: () => skipIdle(!el("skip-idle").checked), t: theme,
    m: () => { state.messages = modes[(modes.indexOf(state.messages) + 1) % 3]; el("messages").value = state.messages; draw(); },
    "/": () => el("search").focus(), "?": () => { el("keys").hidden = !el("keys").hidden; },
    Escape: () => { el("keys").hidden = true; choose(null); },
  };
  if (actions[e.key]) { e.preventDefault(); actions[e.key](); }
}
function introduce() {
  const detail = el("detail");
  html(detail, "div", "dim", "Click a mark, a bar or a line of the list. ? shows the keys.");
  html(detail, "div", "dim", "Disk lane: the height is what a power failure could take; green ticks are syncs, −n what was lost.");
}
// What power failures took before the violation, the last one first: who reads on knows what to look for.
function tellLosses() {
  const until = D.violation ? D.violation.at_ns : D.end_ns, shown = 3;
  const losses = D.losses.filter(loss => loss.lost.length && loss.at_ns <= until).reverse();
  const told = losses.slice(0, shown).map(loss => {
    const more = loss.lost.length - shown;
    return `n${loss.node} at ${clock(loss.at_ns)}: ${loss.lost.slice(0, shown).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
  });
  if (losses.length > shown) told.push(`and ${count(losses.length - shown, "earlier power failure")}`);
  el("lost").textContent = told.join("\n");
  el("lost-head").hidden = el("lost").hidden = told.length === 0;
}
function begin() {
  const h = D.head;
  document.title = `${h.scenario}:${h.seed} ${h.verdict}`;
  const held = h.verdict === "held";
  el("badge").textContent = held ? "held" : `${h.verdict} ${h.signature}`;
  el("badge").classList.toggle("held", held);
  el("what").textContent = held ? `${h.scenario}:${h.seed}` : `${h.oracle}: ${h.property}`;
  el("facts").textContent = `${held ? "" : `${h.scenario}:${h.seed}  ·  `}${count(h.ops, "operation")} and ${count(h.faults, "fault")} planned  ·  ${span(D.end_ns)} virtual  ·  ${h.again}`;
  el("facts").title = `${h.again}\nplan ${h.plan}\ndigest ${h.digest}`;
  el("verdict").hidden = held;
  el("verdict").style.display = held ? "none" : "";
  el("expected").textContent = h.expected;
  el("found").textContent = h.found;
  tellLosses();
  el("left-out").hidden = D.left_out.length === 0;
  el("left-out").textContent = `Left out: ${D.left_out.join("; ")}`;
  for (const [k, what] of KEYS) { const dl = el("keys").querySelector("dl"); html(dl, "dt", "mono", k); html(dl, "dd", "", what); }
  el("messages").value = state.messages;
  measure(true);
  layOut();
  const on = (id, type, f) => el(id).addEventListener(type, f);
  on("zoom-in", "click", () => zoom(.6, state.cursor ?? undefined)); on("zoom-out", "click", () => zoom(1 / .6, state.cursor ?? undefined));
  on("fit", "click", fit); on("to-violation", "click", toViolation); on("theme", "click", theme);
  on("prev-fault", "click", () => stepFault(false)); on("next-fault", "click", () => stepFault(true));
  on("skip-idle", "change", e => skipIdle(e.target.checked));
  on("messages", "change", e => { state.messages = e.target.value; draw(); });
  on("message-filter", "input", e => { state.filter = e.target.value; if (state.messages === "none") { state.messages = "all"; el("messages").value = "all"; } draw(); });
  on("search", "input", e => { state.search = e.target.value; search(); });
  on("help", "click", () => { el("keys").hidden = !el("keys").hidden; });
  on("lanes", "mousemove", e => {
    const px = e.clientX - el("lanes").getBoundingClientRect().left;
    if (px < LABEL_PX) return;
    hovered.setAttribute("x1", px); hovered.setAttribute("x2", px);
    el("cursor-time").textContent = `${clock(atX(px))} s`;
  });
  on("lanes", "click", e => {
    if (dragged) return;
    const px = e.clientX - el("lanes").getBoundingClientRect().left;
    if (px > LABEL_PX) { state.chosen = null; state.cursor = atX(px); el("detail").replaceChildren(); introduce(); draw(); }
  });
  const jump = e => { if (e.buttons & 1) { const px = e.clientX - el("overview").getBoundingClientRect().left, u = (px - LABEL_PX) / (width - 8) * lastU(), length = state.to - state.from; view(u - length / 2, u + length / 2); } };
  on("overview", "pointerdown", jump); on("overview", "pointermove", jump);
  draggable(el("lanes")); draggable(el("axis"));
  for (const id of ["scroll", "axis", "overview"]) el(id).addEventListener("wheel", wheel, { passive: false });
  addEventListener("keydown", key);
  addEventListener("resize", () => { layOut(); draw(); });
  introduce();
  search();
  if (D.violation) {
    toViolation();
    choose(violationTarget());
  } else fit();
}
begin();
