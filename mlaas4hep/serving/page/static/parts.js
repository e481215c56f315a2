// Helpers for the elements of the page. Content from the server is inserted as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** Create an element; children are elements or strings. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Show a text in an element, or hide the element if the text is empty. */
export function say(place, text = "") {
  place.textContent = text;
  place.hidden = !text;
}

/** Fill a <dl> with the pairs that have a value. */
export function describe(list, pairs) {
  const known = Object.entries(pairs).filter(([, value]) => value !== "" && value != null);
  list.replaceChildren(
    ...known.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

/** Return a list of scores, [{label, value}]; with bars if all are between 0 and 1. */
export function scoreList(scores) {
  const shares = scores.every(({ value }) => value >= 0 && value <= 1);
  return element("ul", { className: "scores" }, ...scores.map((score) => scoreItem(score, shares)));
}

function scoreItem({ label, value }, share) {
  const item = element(
    "li", {},
    element("span", {}, label), " ",
    element("strong", {}, value === null ? "not a number" : String(value)),
  );
  if (share) {
    const bar = element("span", { className: "bar" });
    bar.style.width = `${100 * value}%`;
    item.append(element("span", { className: "track", ariaHidden: "true" }, bar));
  }
  return item;
}

/** Call a function now, and every `period` milliseconds while the page is visible. */
export function whileVisible(call, period) {
  let timer = 0;
  const turnOnOrOff = () => {
    clearInterval(timer);
    if (document.hidden) return;
    timer = setInterval(call, period);
    call();
  };
  document.addEventListener("visibilitychange", turnOnOrOff);
  turnOnOrOff();
}
