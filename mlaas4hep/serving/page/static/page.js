// The list of models, and the details of the model in the URL's fragment: #model=NAME.

import { showEvent } from "./event.js";
import { showImage } from "./image.js";
import { byId, describe, element, say, whileVisible } from "./parts.js";
import { watchRate } from "./rate.js";
import { ask, hasToken, onToken } from "./server.js";

const KINDS = { onnx: "ONNX", keras: "Keras", pb: "TensorFlow", "": "SavedModel" }; // by file name extension
const PLATFORMS = {
  onnxruntime_onnx: "ONNX",
  keras: "Keras",
  tensorflow_savedmodel: "SavedModel",
  tensorflow_graphdef: "frozen graph",
};
const LONGEST = 200; // characters of a description in the list
const MOST_FILES = 100;
const MANY = 10; // models; longer lists get a filter
const NO_METRICS =
  "The model was uploaded without training metrics; tfaas_client.py --bundle=FOLDER uploads them, and example events.";
const LOADING_DELAY = 300; // milliseconds until "Loading" is shown
const REFRESH_PERIOD = 5000; // milliseconds
let models = null;
let loadError = null; // the element with the error if the models could not be loaded
let requests = 0;
let shown = null; // name and params of the model that is shown or being loaded

async function start() {
  loadError?.remove();
  try {
    models = await listed();
  } catch (error) {
    loadError = error.wantsToken ? null : fail(error.message);
    return;
  }
  showList();
  watchRate();
  await choose();
  whileVisible(refresh, REFRESH_PERIOD);
}

const listed = async (how) => (await (await ask("models", undefined, how)).json()) ?? [];

/** Show the models; keep the focus. */
function showList() {
  const place = byId("models");
  const focused = place.contains(document.activeElement) ? document.activeElement.hash : null;
  const scrolled = place.scrollTop;
  place.replaceChildren(...models.map(entry));
  place.scrollTop = scrolled;
  byId("none").hidden = models.length > 0;
  byId("many").hidden = models.length < MANY;
  filterModels();
  markShown();
  [...place.querySelectorAll("a")].find((link) => link.hash === focused)?.focus({ preventScroll: true });
}

function filterModels() {
  const wanted = byId("many").hidden ? "" : byId("filter-models").value.trim().toLowerCase();
  const items = [...byId("models").children];
  models.forEach(({ name, description }, index) => {
    items[index].hidden = !`${name} ${description}`.toLowerCase().includes(wanted);
  });
  const left = items.filter((item) => !item.hidden).length;
  say(byId("found-models"), wanted && `${left} of ${items.length} models`);
}

function markShown() {
  models.forEach(({ name }, index) => {
    const link = byId("models").children[index].firstChild;
    if (name === shown?.name) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  });
}

const paramsOf = (name) => models.find((params) => params.name === name);

/** Update the list of models; the details of the shown model and its form stay as they are. */
async function refresh() {
  let found;
  try {
    found = await listed({ quiet: true });
  } catch {
    return; // the request rate shows that the server does not respond
  }
  if (JSON.stringify(found) === JSON.stringify(models)) return;
  models = found;
  showList();
  if (!shown?.params) {
    if (!shown || paramsOf(shown.name)) await choose();
    return;
  }
  const params = paramsOf(shown.name);
  const replaced = params && JSON.stringify(params) !== JSON.stringify(shown.params);
  const news = replaced ? "The model was replaced: reload the page to see the new one." : "";
  say(byId("changed"), params ? news : "The model was deleted.");
}

function entry(params) {
  const about = [params.version && `version ${params.version}`, kindOf(params), dateOf(params)].filter(Boolean);
  return element(
    "li", {},
    element("a", { href: `#${new URLSearchParams({ model: params.name })}` }, String(params.name)),
    element("p", {}, String(params.description).slice(0, LONGEST)),
    element("p", { className: "quiet" }, ...about.flatMap((text) => [" · ", element("span", {}, text)]).slice(1)),
  );
}

function kindOf({ model, img_channels: channels }, platform) {
  const ending = /[^.]*$/.exec(String(model))[0].toLowerCase();
  const kind = PLATFORMS[platform] ?? KINDS[ending] ?? String(model);
  return Number(channels) > 0 ? `${kind} for images` : kind;
}

function dateOf({ timestamp }) {
  const text = String(timestamp);
  return /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d/.test(text) ? text.slice(0, 16).replace("T", " ") : text.slice(0, LONGEST);
}

const chosenName = () => new URLSearchParams(location.hash.slice(1)).get("model") ?? models[0]?.name;

// Scroll the list to the model that is shown. scrollIntoView would also move the start of keyboard navigation there.
function showCurrentModel(list) {
  const item = list.querySelector("li:has([aria-current])");
  if (!item) return;
  const [outer, inner] = [list.getBoundingClientRect(), item.getBoundingClientRect()];
  if (inner.top < outer.top) list.scrollTop += inner.top - outer.top;
  else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom;
}

async function choose() {
  const name = chosenName();
  if (name === undefined) return;
  const mine = (requests += 1);
  shown = { name, params: paramsOf(name) };
  markShown();
  showCurrentModel(byId("models"));
  const slow = setTimeout(() => say(byId("loading"), `Loading ${name} …`), LOADING_DELAY);
  let about;
  try {
    about = await (await ask(`about/${encodeURIComponent(name)}`)).json();
  } catch (error) {
    about = { inputs: [], shape: null, labels: [], problem: error.message };
  }
  clearTimeout(slow);
  if (mine === requests) show({ ...about, name }, paramsOf(name) ?? {});
}

function show(model, params) {
  const [forEvents, forImages] = [1, 3].map((size) => model.shape?.length === size);
  say(byId("loading"));
  say(byId("changed"));
  document.title = `${model.name} – TFaaS server`;
  byId("name").textContent = model.name;
  say(byId("description"), String(params.description ?? ""));
  say(byId("problem"), model.problem);
  describe(byId("facts"), facts(model, params));
  byId("run").hidden = !("training" in model); // the server does not have this model
  byId("training").replaceChildren(...training(model));
  byId("report").hidden = !model.report;
  byId("report").firstChild.href = `report/${encodeURIComponent(model.name)}`;
  byId("event").hidden = !forEvents;
  byId("image").hidden = !forImages;
  byId("scores").hidden = !forEvents && !forImages;
  byId("score").replaceChildren();
  byId("score").ariaBusy = "false";
  byId("model").hidden = false;
  if (forEvents) showEvent(model);
  if (forImages) showImage(model);
}

function facts(model, params) {
  const { framework, model_file: file, size } = model.training ?? {};
  return {
    Version: model.version,
    Date: params.timestamp && dateOf(params),
    Kind: params.name && kindOf(params, model.platform),
    Framework: [framework, file, size].filter(Boolean).join(", "),
    Inputs: inputs(model),
    Labels: (model.labels.length ? model.labels : model.training?.classes ?? []).join(", "),
  };
}

function inputs({ inputs: branches, shape }) {
  if (!branches.length) return shape ? unnamed(shape) : "";
  const columns = branches.reduce((sum, branch) => sum + branch.columns.length, 0);
  const kinds = [...new Set(branches.map(({ kind }) => kind))];
  const counts = kinds.map((kind) => `${branches.filter((one) => one.kind === kind).length} ${kind}`);
  return `${counts.join(" and ")} branches${columns === branches.length ? "" : `, as ${columns} columns`}`;
}

function unnamed(shape) {
  const sizes = shape.map((size) => size ?? "any").join(" × ");
  return shape.length === 3 ? `images of ${sizes} values` : `${sizes} numbers without names`;
}

function training({ metrics, shape, training: run }) {
  const parts = [];
  const noun = shape?.length === 3 ? "images" : "events";
  if (metrics) parts.push(table(metrics, noun));
  if (run?.files.length) parts.push(files(run.files, noun));
  if (!parts.length) parts.push(element("p", { className: "quiet" }, NO_METRICS));
  return parts;
}

function table({ test, train, best_epoch: epoch }, noun) {
  const names = Object.keys({ ...test, ...train }).filter((name) => name !== "auc_uncertainty" && name !== "events");
  const rows = names.map((name) => element(
    "tr", {},
    cell("row", name === "auc" ? "AUC" : name),
    ...[test, train].map((part) => element("td", {}, figure(part, name))),
  ));
  const caption = [
    epoch === null ? "" : `Best epoch: ${epoch}.`,
    test.events ? `Test set: ${test.events.toLocaleString("en")} ${noun}.` : "",
  ];
  return element(
    "table", {},
    element("caption", {}, caption.join(" ")),
    element("thead", {}, element("tr", {}, element("td"), cell("col", "test"), cell("col", "training"))),
    element("tbody", {}, ...rows),
  );
}

const cell = (scope, text) => element("th", { scope }, text);

function figure(figures, name) {
  const [value, error] = [figures[name], name === "auc" ? figures.auc_uncertainty : null];
  if (value == null) return "";
  return `${value.toPrecision(4)}${error ? ` ± ${error.toPrecision(2)}` : ""}`;
}

function files(list, noun) {
  const items = list.slice(0, MOST_FILES).map(({ name, label, entries }) =>
    element("li", {}, [name, label, entries && `${entries.toLocaleString("en")} ${noun}`].filter(Boolean).join(", ")),
  );
  if (list.length > MOST_FILES) items.push(element("li", {}, `and ${list.length - MOST_FILES} more`));
  const count = list.length === 1 ? "1 file" : `${list.length} files`;
  const title = noun === "images" ? "a folder of images" : count; // with one line per class
  return element("details", {}, element("summary", {}, `Trained on ${title}`), element("ul", {}, ...items));
}

/** Download a report that needs a token, which a link cannot send; its policy forbids scripts and requests. */
async function download(event) {
  if (!hasToken()) return;
  event.preventDefault();
  const link = event.currentTarget;
  const policy = `default-src 'none'; style-src 'unsafe-inline'; img-src data:`;
  const head = `<!doctype html><meta http-equiv="Content-Security-Policy" content="${policy}">`;
  try {
    const file = new Blob([head, await (await ask(link.href)).text()], { type: "text/html" });
    const url = URL.createObjectURL(file);
    element("a", { href: url, download: `${byId("name").textContent}.html` }).click();
    URL.revokeObjectURL(url);
  } catch (error) {
    fail(error.message);
  }
}

function fail(text) {
  const existing = [...byId("failures").children].find((line) => line.textContent === text);
  const line = existing ?? element("p", { className: "alert" }, text);
  byId("failures").append(line);
  return line;
}

addEventListener("error", ({ message }) => fail(`the page failed: ${message}`));
addEventListener("unhandledrejection", ({ reason }) => fail(`the page failed: ${reason?.message ?? reason}`));
addEventListener("hashchange", async () => {
  if (!models) return;
  await choose();
  byId("name").focus();
});
byId("skip").addEventListener("click", () => byId("name").focus());
byId("filter-models").addEventListener("input", filterModels);
byId("report").firstChild.addEventListener("click", download);
onToken(() => models ?? start());
start();
