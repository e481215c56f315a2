// The form with one field per branch, filled from the example events in the model's bundle.

import { byId, element, say, scoreList } from "./parts.js";
import { ask } from "./server.js";

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const form = byId("event-form");
let model = null; // the response of GET about/{model}, with its name
let fields = [];
let shown = -1; // index of the example in the form; -1: none, or the form was edited
let next = 0;
let requests = 0;

/** Show the form of a model with its first example, and the scores of that. */
export function showEvent(chosen) {
  model = chosen;
  requests += 1;
  fields = model.inputs.length ? model.inputs.map(branchField) : [rowField()];
  byId("fields").replaceChildren(...fields.map(({ label }) => label));
  byId("filter-label").hidden = fields.length < 2;
  filter("");
  byId("next").hidden = !examples().length;
  say(byId("event-error"));
  [shown, next] = [-1, 0];
  if (examples().length) nextExample();
  else note();
}

const examples = () => model.example?.values ?? [];

function branchField({ name, kind, columns }) {
  const isList = kind !== "flat";
  const hint = isList ? `${kind}, up to ${columns.length}` : kind;
  const pick = (event) => {
    if (!isList) return textOf(event.get(columns[0]));
    const own = event.get(name);
    return listText(Array.isArray(own) ? own : columns.map((column) => event.get(column)));
  };
  return field(name, hint, isList ? listIn : numberIn, pick);
}

function rowField() {
  const count = model.shape[0] ? `${model.shape[0]} numbers` : "numbers";
  return field("Values", `${count}, separated by commas`, listIn, (event) => listText([...event.values()]));
}

function field(name, hint, read, pick) {
  const input = element("input", { type: "text", autocomplete: "off", spellcheck: false });
  const label = element("label", {}, element("span", {}, name, " ", element("small", {}, hint)), input);
  return { name, label, input, pick, value: () => read(input.value, `'${name}'`) };
}

/**
 * Read a number; an empty text is null.
 *
 * @throws Error for an invalid number, or one that is out of range for float32.
 */
function numberIn(text, where) {
  const trimmed = text.trim();
  if (trimmed === "") return null;
  if (!NUMBER.test(trimmed)) {
    throw new Error(`${where} must be a number, or empty for a missing value, not "${trimmed}"`);
  }
  if (!Number.isFinite(Math.fround(Number(trimmed)))) throw new Error(`${where} is out of range for float32: ${trimmed}`);
  return Number(trimmed);
}

function listIn(text, where) {
  if (text.trim() === "") return null;
  return text.split(",").map((part, index) => numberIn(part, `value ${index + 1} of ${where}`));
}

function listText(values) {
  const texts = values.map(textOf);
  while (texts.at(-1) === "") texts.pop();
  return texts.join(", ");
}

/** Return a number with the digits of float32, the input type of models. */
function textOf(value) {
  if (typeof value !== "number") return "";
  for (let digits = 6; digits < 10; digits += 1) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return String(short);
  }
  return String(value);
}

function nextExample() {
  shown = next;
  next = (next + 1) % examples().length;
  const { keys, values } = model.example;
  const event = new Map(values[shown].map((value, index) => [keys[index] ?? index, value]));
  for (const { input, pick } of fields) input.value = pick(event);
  return predict();
}

function note() {
  const which = shown < 0 ? "" : `Example ${shown + 1} of ${examples().length}. `;
  byId("filled").textContent = `${which}Leave a field empty for a missing value.`;
}

async function predict() {
  const mine = (requests += 1);
  const truth = shown < 0 ? undefined : model.example.labels[shown];
  note();
  byId("score").ariaBusy = "true";
  try {
    const scores = await (await ask("json", requestBody())).json();
    if (mine === requests) show(scores, truth);
  } catch (error) {
    if (mine === requests) refuse(error);
  }
  if (mine === requests) byId("score").ariaBusy = "false";
}

function requestBody() {
  const values = fields.map((one) => one.value());
  if (!model.inputs.length) return { values: values[0] ?? [], model: model.name };
  return { keys: fields.map(({ name }) => name), values, model: model.name };
}

function show(scores, truth) {
  say(byId("event-error"));
  mark(null);
  const labels = labelsFor(scores.length);
  const place = byId("score");
  place.replaceChildren(scoreList(scores.map((value, index) => ({ label: labels[index], value }))));
  if (truth !== undefined) place.append(element("p", {}, `True label: ${[truth].flat().join(", ")}`));
}

/** Return labels for the scores; a single score of two classes is the probability of the second one. */
function labelsFor(count) {
  const { labels } = model;
  if (count === 1 && labels.length === 2) return [labels[1]];
  return Array.from({ length: count }, (_, index) => labels[index] ?? `output ${index + 1}`);
}

function refuse(error) {
  byId("score").replaceChildren();
  say(byId("event-error"), error.message);
  const wrong = fields.find(({ name }) => error.message.includes(`'${name}'`));
  mark(wrong);
  if (wrong?.label.hidden) filter("");
  wrong?.input.focus();
}

function mark(wrong) {
  for (const one of fields) {
    if (one === wrong) one.input.setAttribute("aria-invalid", "true");
    else one.input.removeAttribute("aria-invalid");
  }
}

function filter(text) {
  byId("filter").value = text;
  const wanted = text.trim().toLowerCase();
  for (const { name, label } of fields) label.hidden = !name.toLowerCase().includes(wanted);
  const left = fields.filter(({ label }) => !label.hidden).length;
  say(byId("found"), wanted && `${left} of ${fields.length} inputs`);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  await predict();
  if (byId("event-error").hidden) byId("scores").scrollIntoView({ block: "nearest" });
});
byId("fields").addEventListener("input", () => {
  shown = -1;
  note();
});
byId("next").addEventListener("click", nextExample);
byId("filter").addEventListener("input", ({ target }) => filter(target.value));
byId("filter").addEventListener("keydown", (event) => {
  if (event.key === "Enter") event.preventDefault();
});
