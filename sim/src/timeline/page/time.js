"use strict";
// The timeline page, in parts that are put together to one script in this order: time, lanes, parts, draw, events, hands.
// Data stands in #data; text from it only ever becomes text nodes.
//
// Here: small helpers, and the way from virtual time to pixels. Virtual nanoseconds are called t; u is the same with idle
// stretches squeezed; x(t) is where on the screen, in the window from state.from to state.to (in u).
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
