// Questions to the server, and the token that a private one wants: it is kept in this tab's memory alone.

import { byId, say } from "./parts.js";

const form = byId("token-form");
let token = "";

/**
 * Ask the server; paths are relative, so that it may have any base path.
 *
 * @param body what is posted: an object as JSON, or a form; without one it is a GET.
 * @param quiet whether nobody waits for the answer, so that nobody is asked for a token.
 * @throws Error with what the server says; `wantsToken` where somebody was asked for one.
 */
export async function ask(path, body, { quiet = false } = {}) {
  const options = { headers: token ? { Authorization: `Bearer ${token}` } : {} };
  if (body !== undefined) {
    options.method = "POST";
    options.body = body instanceof FormData ? body : JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw new Error(`cannot ask the server: ${error.message}`);
  }
  if (response.ok) return response;
  const error = new Error(await reasonOf(response));
  error.wantsToken = response.headers.has("WWW-Authenticate") && !quiet;
  if (error.wantsToken) wantToken(error.message);
  throw error;
}

export const hasToken = () => token !== "";

/** Call something whenever a token was given. */
export function onToken(call) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    token = byId("token").value.trim();
    form.reset();
    form.hidden = true;
    call();
  });
}

function wantToken(reason) {
  form.hidden = false;
  say(byId("token-why"), reason);
  byId("token").focus();
}

async function reasonOf(response) {
  const text = await response.text();
  try {
    return String(JSON.parse(text).error);
  } catch {
    return `the server answers ${response.status} ${response.statusText}`;
  }
}
