"use strict";
// Asks for the books once a second and draws them. Whatever a worker calls itself goes into the
// page as text, never as markup.

const EVERY = 1000, PATIENCE = 4000;         // milliseconds: between questions, and for an answer
const COLUMNS_MAX = 64;                      // more workers than that can not be read
const KINDS = ["admitted", "outside", "otherwise"];
const SECONDS = 0, GRADIENTS = 1, UPDATES = 2, MEDIAN = 3, P95 = 4, LOSS = 5, SHARE = 6;

const $ = id => document.getElementById(id);
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
const key = () => location.hash.slice(1);

let books = null, heard = null;

// --- words ---

const number = (value, digits = 3) => value == null ? "–" : Number(value).toLocaleString("en", {
  maximumSignificantDigits: digits,
  notation: Math.abs(value) < 1e5 ? "standard" : "scientific",  // there is no room for more
});
const whole = value => Number(value).toLocaleString("en");
const percent = share => share == null ? "–" : `${Math.round(100 * share)} %`;
const counts = refused => Object.entries(refused).map(([rule, n]) => `${rule} ${whole(n)}`).join(", ");

function duration(seconds) {
  const s = Math.round(seconds), two = n => String(n).padStart(2, "0");
  return s < 3600 ? `${Math.floor(s / 60)}:${two(s % 60)}`
    : `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function say(id, words) {
  $(id).hidden = !words;
  if ($(id).textContent !== words) $(id).textContent = words;
}

// --- charts ---

function canvas(id) {
  const node = $(id), scale = devicePixelRatio || 1;
  const [width, height] = [node.clientWidth, node.clientHeight];
  if (node.width !== Math.round(width * scale) || node.height !== Math.round(height * scale)) {
    node.width = Math.round(width * scale);
    node.height = Math.round(height * scale);
  }
  const pen = node.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  return {pen, left: 44, right: width - 8, top: 8, bottom: height - 20};
}

function steps(low, high, wanted) {
  const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(at);
  return found;
}

function frame(box, yTicks, y) {
  const {pen, left, right} = box;
  pen.strokeStyle = colour("grid");
  pen.fillStyle = colour("soft");
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const tick of yTicks) {
    pen.beginPath();
    pen.moveTo(left, y(tick));
    pen.lineTo(right, y(tick));
    pen.stroke();
    pen.fillText(number(tick), left - 6, y(tick));
  }
}

function lines(id, series, top = null) {
  const box = canvas(id), {pen, left, right, bottom} = box;
  const points = series.flat().filter(([, value]) => value != null);
  if (!points.length) return;
  const end = Math.max(...points.map(p => p[0]), 1e-9);
  const high = top ?? (Math.max(...points.map(p => p[1])) * 1.08 || 1);
  const x = value => left + (right - left) * value / end;
  const y = value => bottom - (bottom - box.top) * value / high;
  frame(box, steps(0, high, 4), y);
  pen.textBaseline = "top";
  pen.textAlign = "center";
  for (const tick of steps(0, end, 5)) pen.fillText(duration(tick), Math.min(x(tick), right - 14), bottom + 5);
  series.forEach((rows, at) => {
    pen.strokeStyle = colour(at ? "red" : "blue");
    pen.setLineDash(at ? [5, 4] : []);
    pen.lineWidth = 1.8;
    pen.beginPath();
    for (const [when, value] of rows) if (value != null) pen.lineTo(x(when), y(value));
    pen.stroke();
  });
  pen.setLineDash([]);
  pen.lineWidth = 1;
}

// A column a worker, its newest growths from left to right; on a logarithmic axis.
function growth() {
  const {low, high} = books.band;
  const rows = [...books.workers].sort((a, b) => b.byzantine - a.byzantine).slice(0, COLUMNS_MAX)
    .sort((a, b) => a.worker - b.worker);
  const values = rows.flatMap(row => row.trace.map(t => t[1])).filter(v => v > 0);
  const known = high != null && values.length > 0;
  $("band").hidden = !known;
  $("no-band").hidden = known;
  if (!known) return;
  const box = canvas("growth"), {pen, left, right, top, bottom} = box;
  const floor = Math.log10(Math.min(...values, low || high) / 1.4);
  const ceiling = Math.log10(Math.max(...values, high) * 1.4);
  const y = value => bottom - (bottom - top)
    * Math.min(Math.max((Math.log10(value || 1e-30) - floor) / (ceiling - floor), 0), 1);
  const ticks = [];
  for (let power = Math.floor(floor); power <= ceiling; power++)
    for (const m of ceiling - floor < 2 ? [1, 2, 5] : [1]) {
      const tick = m * 10 ** power;
      if (Math.log10(tick) >= floor && Math.log10(tick) <= ceiling) ticks.push(tick);
    }
  pen.fillStyle = colour("band");
  pen.fillRect(left, y(high), right - left, Math.max(y(low) - y(high), 1));
  frame(box, ticks, y);
  const wide = (right - left) / rows.length;
  pen.textAlign = "center";
  rows.forEach((row, column) => {
    const start = left + column * wide;
    row.trace.forEach(([kind, value], at) => {
      if (value == null) return;
      const x = start + wide * (0.12 + 0.76 * (at + 0.5) / row.trace.length);
      pen.beginPath();
      pen.arc(x, y(value), Math.min(2.6, wide / 8 + 0.8), 0, 7);
      pen.fillStyle = pen.strokeStyle = colour(["blue", "grey", "red"][kind]);
      if (kind === 2) pen.stroke(); else pen.fill();
    });
    pen.textBaseline = "top";
    pen.fillStyle = colour(row.byzantine ? "red" : "soft");
    if (rows.length <= 32 || column % 4 === 0)
      pen.fillText(row.worker, start + wide / 2, bottom + 5);
  });
}

// --- tables ---

function facts() {
  const {staleness, slowdown_bounds: bounds} = books;
  const whose = books.slowdown_of === "honest" ? "of honest work" : "of all work";
  const told = {
    "accuracy": [number(books.accuracy), `loss ${number(books.loss)}`],
    "updates": [whole(books.updates), `${number(books.updates_per_second)} per second`],
    "gradients": [whole(books.delivered), `${number(books.gradients_per_second)} per second`],
    "admitted": [percent(books.slowdown), whose + (bounds
      ? `; growth alone at equal speeds: ${percent(bounds.low)} to ${percent(bounds.high)} with f=${books.f}, ${percent(bounds.without)} without liars`
      : "")],
    "staleness": [whole(staleness.median), `95 % ${staleness.p95}, max ${staleness.max}`],
    "refused": [whole(books.delivered - books.admitted), counts(books.refused) || "nothing"],
    "time": [duration(books.seconds), ""],
  };
  $("facts").replaceChildren(...Object.entries(told).map(([name, [value, more]]) => {
    const box = element("div"), fact = element("dd", value);
    fact.append(element("small", more));
    box.append(element("dt", name), fact);
    return box;
  }));
}

function workers() {
  const rows = books.workers.map(row => {
    const line = element("tr"), words = row.apart, trace = element("span", "", "trace");
    line.classList.toggle("liar", row.byzantine);
    line.classList.toggle("refused", words.includes("refused"));
    line.classList.toggle("absent", row.state !== "alive");
    line.dataset.worker = row.worker;
    trace.append(...row.trace.map(([kind]) => element("i", "", KINDS[kind])));
    trace.title = `${row.trace.filter(([kind]) => kind === 0).length} of the last ${row.trace.length} admitted`;
    const strip = element("td");
    strip.append(trace);
    line.append(
      element("td", row.worker), element("td", row.label || "honest"),
      strip, element("td", words), element("td", number(row.per_second), "number"),
      element("td", whole(row.delivered), "number"), element("td", percent(row.share), "number"),
      element("td", row.staleness < 0 ? "–" : row.staleness, "number"),
      element("td", counts(row.refused)),
    );
    return line;
  });
  $("workers").tBodies[0].replaceChildren(...rows);
  say("more", rows.length < books.of_workers
    ? `${rows.length} of ${books.of_workers} workers: who is said to lie, and who stands out, first` : "");
}

function refusals() {
  $("refusals").tBodies[0].replaceChildren(...books.refusals.map(its => {
    const line = element("tr");
    line.append(
      element("td", duration(its.seconds), "number"), element("td", its.worker, "number"),
      element("td", its.staleness < 0 ? "–" : its.staleness, "number"),
      element("td", its.rule), element("td", its.why, "why"),
    );
    return line;
  }));
}

// --- the page ---

function draw() {
  if (books === null) return;
  document.querySelector("main").hidden = false;
  $("status").textContent = books.status;
  document.title = `kardam: ${books.status}, ${number(books.accuracy)}`;
  say("trouble", books.trouble);
  facts();
  growth();
  const course = books.course, of = at => course.map(row => [row[SECONDS], row[at]]);
  lines("accuracy", [of(SHARE)], 1);
  lines("loss", [of(LOSS)]);
  lines("rate", [of(GRADIENTS), of(UPDATES)]);
  lines("staleness", [of(MEDIAN), of(P95)]);
  workers();
  refusals();
}

async function ask() {
  try {
    const answer = await fetch("books", {
      headers: {Authorization: `Bearer ${key()}`},
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (answer.status === 401) {
      say("lost", "This page needs its key: open the whole link that kardam printed, #… included.");
    } else {
      books = await answer.json();
      heard = new Date();
      say("lost", "");
      document.body.classList.remove("stale");
      draw();
    }
  } catch {
    const since = heard ? `What you see is of ${heard.toLocaleTimeString()}.` : "";
    say("lost", `Connection lost: the run has ended, or its server is out of reach. ${since} Trying again …`);
    document.body.classList.add("stale");
  }
  setTimeout(ask, EVERY);
}

addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("hashchange", () => location.reload());
ask();
