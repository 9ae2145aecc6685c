// The timeline page. Data stands in #data; text from it only ever becomes text nodes.
"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const el = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const LABEL_PX = 140, IDLE_NS = 2e6, IDLE_PX_NS = 5e5, SECOND_NS = 1e9;

// ---- small helpers ----
function svg(parent, name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}
function html(parent, name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}
function clock(ns) {
  const us = Math.floor(ns / 1e3), s = Math.floor(us / 1e6), two = n => String(n).padStart(2, "0");
  const hms = s >= 3600 ? `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:` : s >= 60 ? `${Math.floor(s / 60)}:` : "";
  return `${hms}${hms ? two(s % 60) : s}.${String(us % 1e6).padStart(6, "0")}`;
}
function span(ns) {
  return ns >= 1e9 ? `${+(ns / 1e9).toFixed(2)} s` : ns >= 1e6 ? `${+(ns / 1e6).toFixed(1)} ms` : `${Math.round(ns / 1e3)} µs`;
}
// The first index at which `key` is at least `value`.
function lower(items, value, key) {
  let low = 0, high = items.length;
  while (low < high) { const mid = (low + high) >> 1; if (key(items[mid]) < value) low = mid + 1; else high = mid; }
  return low;
}
// The end of a path says which file it is, its beginning only where.
const tail = text => text.replace(/[^ ]{44,}/g, word => "…" + word.slice(-36));
const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const brief = (text, length) => text.length > length ? text.slice(0, length - 1) + "…" : text;

// ---- time: virtual nanoseconds t, and u, where idle stretches are squeezed ----
let knots = [];
function measure(skip) {
  const times = new Set([0, D.end_ns]);
  for (const e of D.events) times.add(e.t);
  const sorted = [...times].sort((a, b) => a - b);
  knots = [{ t: 0, u: 0 }];
  let u = 0;
  for (let i = 1; i < sorted.length; i++) {
    const gap = sorted[i] - sorted[i - 1], idle = skip && gap > IDLE_NS;
    u += idle ? IDLE_PX_NS + Math.log2(gap / IDLE_NS) * 2e5 : gap;
    if (idle) knots.push({ t: sorted[i - 1], u: u - (IDLE_PX_NS + Math.log2(gap / IDLE_NS) * 2e5), idle: gap });
    if (idle || i === sorted.length - 1) knots.push({ t: sorted[i], u });
  }
}
function through(value, from, to) {
  let i = lower(knots, value, k => k[from]);
  i = Math.min(Math.max(i, 1), knots.length - 1);
  const a = knots[i - 1], b = knots[i], width = b[from] - a[from];
  return width === 0 ? a[to] : a[to] + (value - a[from]) / width * (b[to] - a[to]);
}
const toU = t => through(t, "t", "u"), toT = u => through(u, "u", "t");

// ---- state ----
const state = { from: 0, to: 1, cursor: null, chosen: null, messages: "last", filter: "", search: "" };
const lastU = () => knots[knots.length - 1].u;
let width = 800;
const x = t => LABEL_PX + (toU(t) - state.from) / (state.to - state.from) * width;
const atX = px => toT(state.from + (px - LABEL_PX) / width * (state.to - state.from));
function view(from, to) {
  const total = lastU(), least = 20e3;
  if (to - from < least) { const middle = (from + to) / 2; from = middle - least / 2; to = middle + least / 2; }
  const length = Math.min(to - from, total * 1.04), pad = total * .02;
  state.from = Math.max(-pad, Math.min(from, total + pad - length));
  state.to = state.from + length;
  draw();
}
function zoom(factor, around) {
  const u = around === undefined ? (state.from + state.to) / 2 : toU(around);
  view(u - (u - state.from) * factor, u + (state.to - u) * factor);
}
const fit = () => view(-lastU() * .02, lastU() * 1.02);
function toViolation() {
  if (!D.violation) return fit();
  const to = toU(D.violation.at_ns), from = toU(Math.max(0, D.violation.at_ns - SECOND_NS));
  const length = Math.max(to - from, 1e5);
  view(from - length * .03, to + length * .14);
}

// ---- lanes: which rows there are, and where ----
const by = (items, key) => { const map = new Map(); for (const item of items) { const k = key(item); if (!map.has(k)) map.set(k, []); map.get(k).push(item); } return map; };
const lifeOf = by(D.life, i => i.node), phasesOf = by(D.phases, i => i.node), lossOf = by(D.losses, i => i.node), opsOf = by(D.ops, i => i.lane);
const diskOf = new Map(D.disks.map(d => [d.node, d]));
const pointsOf = by(D.events.map((e, i) => ({ t: e.t, n: e.n, d: e.d, k: e.k, i })).filter(e => e.k === "point"), e => e.n);
const talks = new Set(); for (const m of D.messages) { talks.add(m.from); talks.add(m.to); }
const PHASE_ROWS_MAX = 4, PHASE_PX = 14;
const rows = [];
let lanesPx = 0;
function layOut() {
  rows.length = 0;
  // What room there is goes to the disks.
  const needed = layLanes(22), disks = rows.filter(row => row.at.disk).length;
  const spare = el("scroll").clientHeight - needed;
  if (disks && spare > 0) { rows.length = 0; layLanes(22 + Math.min(34, Math.floor(spare / disks))); }
  nameLanes();
}
function layLanes(diskPx) {
  let y = 0;
  const add = (lane, parts) => {
    const row = { ...lane, y, at: {}, parts };
    let inner = 6;
    for (const [name, px] of parts) { row.at[name] = { y: y + inner, px }; inner += px + 3; }
    row.px = Math.max(inner + 3, 26);
    y += row.px;
    rows.push(row);
  };
  if (D.faults.length) add({ id: "faults", label: "faults", kind: "faults" }, [["faults", FAULT_ROWS * FAULT_PX]]);
  for (const lane of D.lanes) {
    const node = lane.id[0] === "n" ? +lane.id.slice(1) : null, parts = [];
    if (lane.kind === "node") parts.push(["life", 12]);
    if (opsOf.has(lane.id)) parts.push(["ops", 13]);
    const phases = phasesOf.get(node);
    if (phases) parts.push(["phases", Math.min(PHASE_ROWS_MAX, 1 + Math.max(...phases.map(p => p.row))) * PHASE_PX]);
    if (pointsOf.has(node)) parts.push(["points", 7]);
    if (diskOf.has(node)) parts.push(["disk", lane.kind === "node" ? diskPx : 22]);
    if (talks.has(node)) parts.push(["net", 11]);
    if (parts.length) add({ ...lane, node }, parts);
  }
  if (D.requests.length) add({ id: "objects", label: "object store", kind: "objects" }, [["requests", 12]]);
  return lanesPx = y;
}
function nameLanes() {
  const labels = el("labels");
  labels.replaceChildren();
  for (const row of rows) {
    const label = html(labels, "div", "label");
    label.dataset.lane = row.id;
    label.style.top = `${row.y}px`;
    label.style.height = `${row.px}px`;
    const name = html(label, "b", "", "");
    if (row.node !== null && row.node !== undefined) html(name, "i", "", `${row.id} `);
    name.appendChild(document.createTextNode(row.label));
    name.title = row.label;
    const small = { phases: "phases", points: "points", disk: "disk", net: "messages" };
    for (const [name] of row.parts) if (small[name] && row.at[name].y - row.y > 16) {
      html(label, "small", "", small[name]).style.top = `${row.at[name].y - row.y - 3}px`;
    }
  }
}
const FAULT_ROWS = Math.min(3, D.faults.length), FAULT_PX = 15;
// Faults that would lie on each other in this window are drawn in different rows: [fault, row, left, right].
function placeFaults() {
  const ends = new Array(FAULT_ROWS).fill(-1e9), placed = [];
  for (const fault of D.faults) {
    const a = x(fault.from_ns), b = x(fault.to_ns);
    if (b < LABEL_PX - 6 || a > LABEL_PX + width + 6) continue;
    let row = ends.findIndex(end => end <= a - 6);
    if (row < 0) row = ends.indexOf(Math.min(...ends));
    ends[row] = Math.max(b, a + 7);
    placed.push([fault, row, a, b]);
  }
  return placed;
}
const laneOf = node => rows.find(row => row.node === node);

// ---- drawing ----
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
// Adds what can be pointed at and chosen.
function hit(node, tip, target) {
  node.classList.add("hit");
  node.addEventListener("mousemove", e => showTip(e, tip));
  node.addEventListener("mouseleave", () => { el("tip").hidden = true; });
  node.addEventListener("click", e => { if (!dragged) { e.stopPropagation(); choose(target); } });
  if (target.event !== null && target.event !== undefined) node.dataset.event = target.event;
  if (state.chosen && state.chosen.item === target.item) node.classList.add("selected");
  return node;
}
// Bars of [from, to] that are visible, at least `least` px wide.
function bar(g, from, to, y, px, attributes, least) {
  const a = Math.max(x(from), LABEL_PX - 4), b = Math.min(x(to), LABEL_PX + width + 4);
  if (b < LABEL_PX - 3 || a > LABEL_PX + width + 3) return null;
  return svg(g, "rect", { x: a, y, width: Math.max(b - a, least || 1), height: px, ...attributes });
}
// One mark per pixel column: what is closer cannot be told apart anyway.
function* columns(items, time) {
  const first = lower(items, atX(LABEL_PX - 4), time);
  let last = -1e9;
  for (let i = first; i < items.length; i++) {
    const at = x(time(items[i]));
    if (at > LABEL_PX + width + 4) return;
    if (at - last >= 1.5) { last = at; yield [items[i], at]; }
  }
}
const PARTS = {
  // Messages go from lane to lane: they are drawn after all lanes.
  net() {},
  life(g, row, at) {
    for (const life of lifeOf.get(row.node) || []) {
      if (life.state === "paused") continue;
      const rect = bar(g, life.from_ns, life.to_ns, at.y, at.px, { class: life.state, rx: 2 });
      if (rect) hit(rect, `${row.label} is ${life.state}: ${brief(life.why, 300)}\nfor ${span(life.to_ns - life.from_ns)}`, { item: life, event: life.event, t: life.from_ns, title: `${row.id} ${life.state}`, text: life.why });
    }
    for (const life of (lifeOf.get(row.node) || []).filter(l => l.state === "paused")) {
      const rect = bar(g, life.from_ns, life.to_ns, at.y + 2, at.px - 4, { class: "paused" }, 2);
      if (rect) hit(rect, `${row.label} is paused for ${span(life.to_ns - life.from_ns)}`, { item: life, event: life.event, t: life.from_ns, title: `${row.id} paused`, text: life.why });
    }
  },
  phases(g, row, at) {
    const ends = [];
    for (const phase of phasesOf.get(row.node)) {
      const line = Math.min(phase.row, PHASE_ROWS_MAX - 1);
      const a = x(phase.from_ns), b = x(phase.to_ns);
      if (b - (ends[line] === undefined ? -1e9 : ends[line]) < 1) continue;
      const rect = bar(g, phase.from_ns, phase.to_ns, at.y + line * PHASE_PX, PHASE_PX - 2, { class: phase.end === "cut short" ? "phase cut" : "phase", rx: 2 });
      if (!rect) continue;
      ends[line] = Math.max(b, a + 1);
      hit(rect, `${phase.name}\n${clock(phase.from_ns)} for ${span(phase.to_ns - phase.from_ns)}, ${phase.end}`, { item: phase, event: phase.event, t: phase.from_ns, title: phase.name, text: `${phase.end} after ${span(phase.to_ns - phase.from_ns)}` });
      const room = Math.min(b, LABEL_PX + width) - Math.max(a, LABEL_PX);
      if (room > 34) svg(g, "text", { class: "phase-text", x: Math.max(a, LABEL_PX) + 4, y: at.y + line * PHASE_PX + 9.5 }, brief(phase.name, Math.floor(room / 6)));
    }
  },
  points(g, row, at) {
    for (const [point, px] of columns(pointsOf.get(row.node), p => p.t)) {
      const line = svg(g, "line", { class: "point", x1: px, x2: px, y1: at.y, y2: at.y + at.px });
      hit(line, `${point.d}\n${clock(point.t)}`, { item: point, event: point.i, t: point.t });
    }
  },
  disk(g, row, at) {
    const disk = diskOf.get(row.node), most = Math.max(1, ...disk.steps.map(s => s[1])), floor = at.y + at.px;
    const height = n => n === 0 ? 0 : 2 + Math.sqrt(n / most) * (at.px - 3);
    let i = Math.max(0, lower(disk.steps, atX(LABEL_PX), s => s[0]) - 1), path = "", last = -1e9;
    for (; i < disk.steps.length; i++) {
      const px = Math.max(x(disk.steps[i][0]), LABEL_PX - 2);
      if (path === "") path = `M${px} ${floor}`;
      // Several steps in one pixel show their highest.
      if (px - last >= 1 || disk.steps[i][1] > disk.steps[i - 1][1] || i + 1 === disk.steps.length) path += `H${px.toFixed(1)}V${(floor - height(disk.steps[i][1])).toFixed(1)}`;
      last = px;
      if (px > LABEL_PX + width) break;
    }
    if (path) svg(g, "path", { class: "risk", d: `${path}H${Math.min(x(D.end_ns), LABEL_PX + width + 4)}V${floor}Z` });
    const cover = svg(g, "rect", { x: LABEL_PX, y: at.y, width, height: at.px, fill: "transparent" });
    cover.addEventListener("mousemove", e => {
      const t = atX(e.clientX - el("lanes").getBoundingClientRect().left), k = lower(disk.steps, t, s => s[0]) - 1;
      showTip(e, `disk of ${row.label}: a power failure could take ${k < 0 ? 0 : disk.steps[k][1]} operations here`);
    });
    cover.addEventListener("mouseleave", () => { el("tip").hidden = true; });
    for (const [sync, px] of columns(disk.syncs, s => s.at_ns)) svg(g, "line", { class: "sync", x1: px, x2: px, y1: floor - 5, y2: floor });
    for (const error of disk.errors) {
      const px = x(error.at_ns);
      if (px < LABEL_PX || px > LABEL_PX + width) continue;
      const cross = svg(g, "path", { class: "error", d: `M${px - 3} ${floor - 9}l6 6m0 -6l-6 6`, fill: "none" });
      hit(cross, `a call failed\n${error.event === null ? "" : brief(D.events[error.event].d, 200)}`, { item: error, event: error.event, t: error.at_ns });
    }
    for (const loss of lossOf.get(row.node) || []) {
      const px = x(loss.at_ns), text = `−${loss.lost.length}`, wide = 8 + text.length * 6.5;
      if (px < LABEL_PX || px > LABEL_PX + width) continue;
      const mark = svg(g, "g", { class: loss.lost.length ? "loss" : "loss nothing" });
      svg(mark, "rect", { x: px + 1, y: at.y, width: wide, height: 14, rx: 3 });
      svg(mark, "text", { x: px + 5, y: at.y + 10.5 }, text);
      const lines = [...loss.lost.slice(0, 8).map(l => `lost ${l}`), ...loss.kept.slice(0, 6).map(l => `kept ${l}`)];
      hit(mark, `power failure: ${loss.lost.length} operations lost, ${loss.kept.length} kept\n${brief(lines.join("\n"), 900)}`, { item: loss, event: loss.event, t: loss.at_ns, loss });
    }
  },
  ops(g, row, at) {
    let last = -1e9;
    for (const op of opsOf.get(row.id)) {
      const open = op.to_ns === null, to = open ? D.end_ns : op.to_ns, a = x(op.from_ns);
      if (a - last < 2 && x(to) - last < 2) continue;
      const rect = open
        ? bar(g, op.from_ns, op.from_ns, at.y, at.px, { class: "op unanswered", rx: 2 }, 7)
        : bar(g, op.from_ns, to, at.y, at.px, { class: op.answer === "wrong" ? "op wrong" : "op", rx: 2 }, 2);
      if (!rect) continue;
      last = Math.max(a, open ? a + 7 : x(to));
      const answer = open ? "no answer" : op.answer;
      hit(rect, `${brief(op.name, 300)}\n→ ${brief(answer, 300)}${open ? "" : ` after ${span(to - op.from_ns)}`}`, { item: op, event: op.event, t: op.from_ns, title: op.name, text: `→ ${answer}` });
      const room = Math.min(x(to), LABEL_PX + width) - Math.max(a, LABEL_PX);
      if (!open && room > 40) svg(g, "text", { class: "phase-text", x: Math.max(a, LABEL_PX) + 4, y: at.y + 10 }, brief(op.name, Math.floor(room / 6)));
    }
  },
  requests(g, row, at) {
    for (const [request, px] of columns(D.requests, r => r.at_ns)) {
      const kind = request.refused ? " refused" : request.verb === "get" || request.verb === "list" ? " read" : "";
      const mark = svg(g, "rect", { class: `request${kind}`, x: px - 1, y: at.y, width: 2.5, height: at.px });
      hit(mark, `n${request.node} ${request.verb} ${brief(request.key, 200)}${request.refused ? " (refused)" : ""}\n${clock(request.at_ns)}`, { item: request, event: request.event, t: request.at_ns, title: `${request.verb} by n${request.node}`, text: request.key });
      const next = D.requests[lower(D.requests, request.at_ns + 1, r => r.at_ns)], room = Math.min(next ? x(next.at_ns) : 1e9, LABEL_PX + width) - px - 8;
      if (room > 60) svg(g, "text", { class: "faint", x: px + 4, y: at.y + 10 }, brief(`${request.verb} ${request.key.split("/").slice(-2).join("/")}`, Math.floor(room / 5.2)));
    }
  },
  faults(g, row, at) {
    const placed = placeFaults();
    placed.forEach(([fault, line, a, b], i) => {
      const y = at.y + line * FAULT_PX, lasts = b - a > 7, who = fault.nodes.map(n => `n${n}`).join(", ");
      const crash = fault.name === "power_fail" || fault.name === "process_kill" ? " crash" : "";
      const mark = lasts
        ? bar(g, fault.from_ns, fault.to_ns, y, 12, { class: "fault-span", rx: 3 })
        : svg(g, "path", { class: `fault${crash}`, d: `M${a} ${y}l6 6l-6 6l-6 -6z` });
      mark.dataset.fault = D.faults.indexOf(fault);
      hit(mark, `${fault.name} ${who}\n${brief(fault.text, 300)}\n${clock(fault.from_ns)}${fault.to_ns > fault.from_ns ? ` for ${span(fault.to_ns - fault.from_ns)}` : ""}`, faultTarget(fault));
      const next = placed.slice(i + 1).find(other => other[1] === line), left = Math.max(a + (lasts ? 4 : 9), LABEL_PX + 4);
      const room = Math.min(next ? next[2] - 9 : 1e9, LABEL_PX + width) - left;
      if (room > 30) svg(g, "text", { class: "fault-text", x: left, y: y + 10 }, brief(`${fault.name}${fault.nodes.length === 1 ? " " + who : ""}`, Math.floor(room / 5.8)));
    });
  },
};
const violationTarget = () => ({ item: D.violation, event: D.violation.event, t: D.violation.at_ns, title: `${D.head.oracle}: ${D.head.property}` });
const faultTarget = fault => ({ item: fault, event: fault.event, t: fault.from_ns, title: `fault: ${fault.name}`, text: fault.text, loss: D.losses.find(l => l.at_ns === fault.from_ns && fault.nodes.includes(l.node)) });

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
    if (label.px < LABEL_PX || taken.some(t => t.y === label.y && t.left < right && label.px < t.right)) continue;
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

// ---- the list of events ----
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

// ---- hands ----
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
function begin() {
  const h = D.head;
  document.title = `${h.scenario}:${h.seed} ${h.verdict}`;
  const held = h.verdict === "held";
  el("badge").textContent = held ? "held" : `${h.verdict} ${h.signature}`;
  el("badge").classList.toggle("held", held);
  el("what").textContent = held ? `${h.scenario}:${h.seed}` : `${h.oracle}: ${h.property}`;
  el("facts").textContent = `${held ? "" : `${h.scenario}:${h.seed}  ·  `}${count(h.ops, "operation")} and ${count(h.faults, "fault")} planned  ·  ${span(D.end_ns)} virtual  ·  ${h.replay}`;
  el("facts").title = `${h.replay}\nplan ${h.plan}\ndigest ${h.digest}`;
  el("verdict").hidden = held;
  el("verdict").style.display = held ? "none" : "";
  el("expected").textContent = h.expected;
  el("found").textContent = h.found;
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
