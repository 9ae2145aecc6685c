// Lanes: which rows there are, from top to bottom, and where each part of a row lies.
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
