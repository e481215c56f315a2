// Requests to the server, and the token of a private server, which is kept only in the memory of this tab.

import { byId, say } from "./parts.js";

const form = byId("token-form");
let token = "";

/**
 * Send a request; paths are relative, so the server may have any base path.
 *
 * @param body an object to post as JSON, or a form; without it, the method is GET.
 * @param quiet do not ask the user for a token if the server requires one.
 * @throws Error with the server's message; its `wantsToken` is true if the user is asked for a token.
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
    throw new Error(`cannot reach the server: ${error.message}`);
  }
  if (response.ok) return response;
  const error = new Error(await reasonOf(response));
  error.wantsToken = response.headers.has("WWW-Authenticate") && !quiet;
  if (error.wantsToken) wantToken(error.message);
  throw error;
}

export const hasToken = () => token !== "";

/** Call a function whenever the user has entered a token. */
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
    return `the server responded with ${response.status} ${response.statusText}`;
  }
}
