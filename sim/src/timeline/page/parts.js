// The parts of a lane: one function for each, which draws what lies in the window at the height it is given.

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
    let right = -1e9;
    for (const loss of lossOf.get(row.node) || []) {
      const text = `−${loss.lost.length}`, wide = 8 + text.length * 6.5;
      if (x(loss.at_ns) < LABEL_PX || x(loss.at_ns) > LABEL_PX + width) continue;
      // Beside the one before, not on it: the line of the strike shows the moment.
      const px = Math.max(x(loss.at_ns), right);
      right = px + wide + 1;
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
