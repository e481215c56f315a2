// Classification of an image that was dropped or chosen.

import { byId, say, scoreList } from "./parts.js";
import { ask } from "./server.js";

const drop = byId("drop");
const preview = byId("preview");
let model = null;
let requests = 0;

/** Show the form for images. */
export function showImage(chosen) {
  model = chosen;
  requests += 1;
  byId("file").value = "";
  clear();
}

function clear() {
  URL.revokeObjectURL(preview.src);
  preview.removeAttribute("src");
  preview.hidden = true;
  say(byId("image-error"));
  byId("score").replaceChildren();
}

async function classify(file) {
  const mine = (requests += 1);
  clear();
  preview.src = URL.createObjectURL(file);
  preview.alt = `The image ${file.name}`;
  preview.hidden = false;
  const form = new FormData();
  form.append("image", file, file.name);
  form.append("model", model.name);
  byId("score").ariaBusy = "true";
  try {
    const answer = await (await ask("image", form)).json();
    if (mine === requests) byId("score").replaceChildren(scoreList(scoresOf(answer)));
  } catch (error) {
    if (mine === requests) say(byId("image-error"), error.message);
  }
  if (mine === requests) byId("score").ariaBusy = "false";
}

/** Convert both forms of responses: the most probable labels, or one number per output. */
function scoresOf(answer) {
  if (!Array.isArray(answer)) {
    return answer.labels.map(({ label, probability }) => ({ label, value: probability }));
  }
  return answer.map((value, index) => ({ label: model.labels[index] ?? `output ${index + 1}`, value }));
}

byId("file").addEventListener("change", ({ target }) => {
  if (target.files.length) classify(target.files[0]);
});
// A file dropped elsewhere must not replace the page.
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
  });
}
addEventListener("drop", ({ dataTransfer }) => {
  if (dataTransfer.files.length && !byId("image").hidden) classify(dataTransfer.files[0]);
});
