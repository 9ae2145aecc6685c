// Drawing: everything that is on the screen is drawn anew whenever the window moves. First the lanes, each by its parts, then
// what goes across lanes: strikes of faults, messages, marks of the violation and of what is chosen.
let hovered = null;
function draw() {
  // What it was about is drawn anew.
  el("tip").hidden = true;
  const lanes = el("lanes");
  width = Math.max(100, el("scroll").clientWidth - LABEL_PX);
  for (const node of [lanes, el("axis"), el("overview")]) node.replaceChildren();
  lanes.setAttribute("height", Math.max(lanesPx, el("scroll").clientHeight - 1));
  definitions(lanes);
  const clip = svg(lanes, "g", { "clip-path": "url(#clip)" });
  grid(clip);
  for (const row of rows) {
    const g = svg(clip, "g", { class: "lane", "data-lane": row.id });
    svg(g, "line", { class: "grid", x1: 0, x2: LABEL_PX + width, y1: row.y + row.px - .5, y2: row.y + row.px - .5 });
    for (const [name] of row.parts) PARTS[name](g, row, row.at[name]);
  }
  messages(clip);
  strikes(clip);
  marks(clip);
  overview();
  listAround();
  el("to-violation").disabled = !D.violation;
}
function definitions(lanes) {
  const defs = svg(lanes, "defs", {});
  svg(svg(defs, "clipPath", { id: "clip" }), "rect", { x: LABEL_PX, y: 0, width, height: 1e5 });
  const pattern = (id, size) => svg(defs, "pattern", { id, width: size, height: size, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  const hatch = pattern("hatch", 5);
  svg(hatch, "rect", { class: "hatch-bg", width: 5, height: 5 });
  svg(hatch, "line", { class: "hatch", x1: 0, x2: 0, y1: 0, y2: 5 });
  svg(pattern("open", 5), "line", { class: "open-line", x1: 0, x2: 0, y1: 0, y2: 5 });
}
// Steps of 1, 2 or 5 times a power of ten that leave room for their labels.
function grid(clip) {
  const axis = el("axis"), edge = LABEL_PX + width;
  const g = svg(axis, "g", {});
  svg(g, "text", { x: 14, y: 15, class: "dim" }, "virtual time, s");
  for (const k of knots) if (k.idle) {
    const a = x(k.t), b = x(k.t + k.idle);
    if (b < LABEL_PX || a > edge || b - a < 2) continue;
    svg(clip, "rect", { class: "idle", x: a, y: 0, width: b - a, height: 1e5 });
  }
  let right = LABEL_PX - 20;
  for (let px = LABEL_PX + 8; px < edge - 40; px += 30) {
    const t0 = atX(px), perPx = Math.max(1, Math.abs(atX(px + 90) - t0));
    const power = 10 ** Math.floor(Math.log10(perPx)), step = [1, 2, 5, 10].map(n => n * power).find(n => n >= perPx);
    const t = Math.ceil(t0 / step) * step, at = x(t);
    if (at < right + 16 || at > edge - 30 || t > D.end_ns || t < 0) continue;
    const digits = Math.max(0, Math.min(6, Math.ceil(9 - Math.log10(step))));
    const label = (t / 1e9).toFixed(digits);
    svg(clip, "line", { class: "grid", x1: at, x2: at, y1: 0, y2: 1e5 });
    svg(axis, "line", { class: "grid", x1: at, x2: at, y1: 14, y2: 22 });
    svg(axis, "text", { x: at + 4, y: 15, class: "dim" }, label);
    right = at + label.length * 6.4;
  }
}
// Faults go through the lanes they strike.
function strikes(clip) {
  for (const fault of D.faults) {
    const px = x(fault.from_ns);
    if (px < LABEL_PX || px > LABEL_PX + width) continue;
    const crash = fault.name === "power_fail" || fault.name === "process_kill" ? " crash" : "";
    for (const node of fault.nodes) {
      const row = laneOf(node);
      if (row) svg(clip, "line", { class: `strike${crash}`, x1: px, x2: px, y1: row.y + 1, y2: row.y + row.px - 2 });
    }
  }
}
function wanted() {
  if (state.messages === "none") return [];
  const end = D.violation ? D.violation.at_ns : D.end_ns, since = state.messages === "last" ? end - SECOND_NS : 0;
  const until = state.messages === "last" ? end : Infinity, words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  return D.messages.filter(m => m.from !== m.to && m.sent_ns >= since && m.sent_ns <= until
    && words.every(w => w[0] === "-" && w.length > 1 ? !m.name.toLowerCase().includes(w.slice(1)) : m.name.toLowerCase().includes(w)));
}
function messages(clip) {
  const g = svg(clip, "g", { id: "arrows" }), seen = new Set(), labels = [];
  for (const m of wanted()) {
    const from = laneOf(m.from), to = laneOf(m.to), gone = m.arrived_ns === null;
    if (!from || !to) continue;
    const x1 = x(m.sent_ns), x2 = gone ? x1 + 14 : x(m.arrived_ns);
    if (x2 < LABEL_PX || x1 > LABEL_PX + width) continue;
    const down = to.y > from.y, y1 = from.at.net.y + (down ? 9 : 2), end = to.at.net.y + (down ? 0 : 11);
    const y2 = gone ? y1 + (end - y1) * .45 : end;
    const key = `${Math.round(x1)} ${Math.round(x2)} ${m.from} ${m.to}`;
    if (seen.has(key)) continue;
    seen.add(key);
    const line = svg(g, "line", { class: gone ? "message gone" : "message", x1, y1, x2, y2 });
    const tip = `n${m.from} → n${m.to}: ${brief(m.name, 200) || "frame"} (${m.bytes} bytes)\n${gone ? "never arrived" : `under way ${span(m.arrived_ns - m.sent_ns)}`}`;
    hit(line, tip, { item: m, event: m.event, t: m.sent_ns, title: `n${m.from} → n${m.to}: ${m.name || "frame"}`, text: gone ? "never arrived" : `arrived ${clock(m.arrived_ns)}` });
    if (!gone) {
      const turn = Math.atan2(y2 - y1, x2 - x1) * 180 / Math.PI;
      svg(g, "path", { class: "arrow", d: "M0 0l-6 -2.6v5.2z", transform: `translate(${x2} ${y2}) rotate(${turn})` });
    }
    if (m.name) labels.push({ px: x1 + 5, y: from.at.net.y + 9, text: brief(m.name, 30) });
  }
  // The name stands where the message is sent, if there is room for it; what is rarely said comes first.
  const kind = text => text.split(" ", 1)[0], often = by(labels, label => kind(label.text)), taken = [];
  for (const label of labels.sort((a, b) => often.get(kind(a.text)).length - often.get(kind(b.text)).length || a.px - b.px)) {
    const right = label.px + label.text.length * 5.6 + 4;
    if (right > LABEL_PX + width || label.px < LABEL_PX || taken.some(t => t.y === label.y && t.left < right && label.px < t.right)) continue;
    taken.push({ left: label.px, right, y: label.y });
    svg(g, "text", { class: "message-text", x: label.px, y: label.y }, label.text);
  }
}
function marks(clip) {
  if (D.violation) {
    const px = x(D.violation.at_ns);
    svg(clip, "line", { id: "violation", class: "violation", x1: px, x2: px, y1: 0, y2: 1e5 });
    if (px > LABEL_PX && px < LABEL_PX + width) {
      const left = px > LABEL_PX + width - 70, flag = svg(el("axis"), "g", {});
      svg(flag, "rect", { class: "violation-flag", x: left ? px - 62 : px, y: 4, width: 62, height: 16, rx: 3 });
      svg(flag, "text", { class: "violation-text", x: left ? px - 56 : px + 6, y: 15.5 }, D.head.oracle === "panic" ? "panic" : "violation");
      hit(flag, `${D.head.oracle}: ${D.head.property}\n${clock(D.violation.at_ns)}`, violationTarget());
    }
  }
  if (state.cursor !== null && !(D.violation && state.cursor === D.violation.at_ns)) svg(clip, "line", { class: "cursor", x1: x(state.cursor), x2: x(state.cursor), y1: 0, y2: 1e5 });
  hovered = svg(clip, "line", { class: "hover", x1: -9, x2: -9, y1: 0, y2: 1e5, "pointer-events": "none" });
}
function overview() {
  const o = el("overview"), total = lastU(), at = t => LABEL_PX + toU(t) / total * (width - 8);
  svg(o, "text", { x: 14, y: 21, class: "dim" }, "whole run");
  const columnsPx = Math.floor(width / 3), counts = new Array(columnsPx + 1).fill(0);
  for (const e of D.events) counts[Math.floor(toU(e.t) / total * columnsPx)]++;
  const most = Math.max(...counts);
  counts.forEach((n, i) => { if (n) { const px = 3 + Math.sqrt(n / most) * 21; svg(o, "rect", { class: "density", x: LABEL_PX + i / columnsPx * (width - 8), y: 30 - px, width: 2, height: px }); } });
  for (const fault of D.faults) svg(o, "rect", { class: fault.name === "power_fail" || fault.name === "process_kill" ? "fault crash" : "fault", x: at(fault.from_ns) - 1, y: 2, width: Math.max(2.5, at(fault.to_ns) - at(fault.from_ns)), height: 4 });
  if (D.violation) svg(o, "line", { class: "violation", x1: at(D.violation.at_ns), x2: at(D.violation.at_ns), y1: 0, y2: 34 });
  const a = LABEL_PX + Math.max(0, state.from) / total * (width - 8), b = LABEL_PX + Math.min(total, state.to) / total * (width - 8);
  svg(o, "rect", { id: "window", class: "window", x: a, y: .5, width: Math.max(3, b - a), height: 33 });
}
