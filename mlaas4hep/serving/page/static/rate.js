// The number of requests per second, as a number and a curve, without the periodic requests of open pages.

import { byId, whileVisible } from "./parts.js";
import { ask } from "./server.js";

const PERIOD = 2000; // milliseconds
const KEPT = 60;
const PERIODIC = /route="\/(metrics|models)"/;
const COUNTER = /^mlaas4hep_requests_total\{(.*)\} (\S+)$/gm;
const rates = [];
let last = null; // the last total and its time

/** Start to poll the server. */
export function watchRate() {
  document.addEventListener("visibilitychange", () => {
    last = null;
  });
  whileVisible(poll, PERIOD);
}

async function poll() {
  try {
    note(count(await (await ask("metrics", undefined, { quiet: true })).text()));
  } catch {
    last = null;
    byId("rate").textContent = "unknown requests/s";
  }
}

function count(text) {
  const counters = [...text.matchAll(COUNTER)].filter(([, labels]) => !PERIODIC.test(labels));
  return counters.reduce((sum, [, , value]) => sum + Number(value), 0);
}

function note(total) {
  const now = performance.now();
  if (last && total >= last.total && now > last.now) { // a smaller total: the server was restarted
    rates.push((1000 * (total - last.total)) / (now - last.now));
    if (rates.length > KEPT) rates.shift();
    draw();
  }
  last = { total, now };
}

function draw() {
  const most = Math.max(...rates);
  const point = (rate, index) => `${120 - (2 * (rates.length - 1 - index))},${31 - (30 * rate) / Math.max(most, 1)}`;
  byId("rate").textContent = `${shown(rates.at(-1))} requests/s`;
  byId("most").textContent = `peak: ${shown(most)}`;
  byId("curve").setAttribute("points", rates.map(point).join(" "));
}

const shown = (rate) => (rate < 10 ? rate.toFixed(1) : rate.toFixed(0));
