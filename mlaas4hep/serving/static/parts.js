// Pieces of the page. Whatever a server sends becomes text here, and never markup.

export const byId = (id) => document.getElementById(id);

/** Make an element; children are elements, or texts. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Show a text in a place that is hidden while it is empty. */
export function say(place, text = "") {
  place.textContent = text;
  place.hidden = !text;
}

/** Append pairs to a <dl>, without those that have no value. */
export function describe(list, pairs) {
  const known = Object.entries(pairs).filter(([, value]) => value !== "" && value != null);
  list.replaceChildren(
    ...known.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

/** Return a list of scores, [{label, value}]; those of one sample between 0 and 1 with bars. */
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

/** Call something now and every so many milliseconds, as long as somebody can see the page, and when it is seen again. */
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
