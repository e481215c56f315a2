"""Histograms of every branch as an HTML page, which is self-contained and can be searched.

write_html(reader, fill_histograms(reader), "hists/data.html")

Each plot is one SVG path of about 1 kB, so that browsers open a page of a thousand branches quickly.
"""

from __future__ import annotations

import html
import os
from typing import Any

import numpy as np

from mlaas4hep.files import new_file
from mlaas4hep.histograms.fill import HistogramPair, needs_log_scale
from mlaas4hep.reader.data_reader import DataReader

WIDTH, HEIGHT = 280, 110

STYLE = """
:root { color-scheme: light dark; --line: #8886; --fill: #2f6fb0; --soft: #666 }
@media (prefers-color-scheme: dark) { :root { --fill: #6ea8e0; --soft: #aaa } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 80rem; padding: 0 1rem }
header { position: sticky; top: 0; background: Canvas; padding: .5rem 0; border-bottom: 1px solid var(--line) }
h1 { font-size: 1.25rem; margin: 0 0 .4rem } h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere }
input { font: inherit; padding: .3rem .5rem; width: min(28rem, 100%) }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(38rem, 100%), 1fr)); gap: 1rem;
  margin-top: 1rem }
article { border: 1px solid var(--line); border-radius: 6px; padding: .7rem; content-visibility: auto;
  contain-intrinsic-size: auto 210px }
.plots { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem } figure { margin: .3rem 0 0 }
svg { width: 100%; height: auto; display: block } path { fill: var(--fill) } .base { stroke: var(--line); fill: none }
figcaption, p { color: var(--soft); font-size: .82rem; margin: 0 }
.ends { display: flex; justify-content: space-between; font-size: .75rem }
"""

SCRIPT = """
const box = document.getElementById('search'), count = document.getElementById('count');
const cards = [...document.querySelectorAll('article')];
function show() {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards) {
    card.hidden = !words.every(word => card.id.toLowerCase().includes(word));
    shown += !card.hidden;
  }
  count.textContent = shown + ' of ' + cards.length + ' branches';
}
box.addEventListener('input', show);
show();
"""


def write_html(reader: DataReader, pairs: list[HistogramPair], path: str | os.PathLike[str]) -> None:
    """Write the HTML page; raise FileUnreadable if that fails."""
    name = html.escape(reader.location)
    cards = "\n".join(_card(reader, pair) for pair in pairs)
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="generator" content="MLaaS4HEP">'
        f'<meta name="viewport" content="width=device-width">'
        f"<title>{name}</title><style>{STYLE}</style>"
        f"<header><h1>{name}</h1>"
        f'<label>Branches whose names contain <input id="search" type="search" autofocus></label> '
        f'<span id="count" role="status"></span></header>'
        f"<main>{cards}</main><script>{SCRIPT}</script></html>\n"
    )
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _card(reader: DataReader, pair: HistogramPair) -> str:
    branch, column = reader.specs.branches[pair.branch], reader.available[pair.branch]
    name = html.escape(pair.branch, quote=True)
    details = [f"{branch.kind.value}, {column.dtype.name}", f"dim {branch.dim}", f"{branch.count:,} values"]
    if branch.count:
        details += [f"mean {branch.mean:.4g}", f"standard deviation {branch.std:.4g}"]
    details += [f"{count:,} {label}" for count, label in ((branch.nan, "NaN"), (branch.inf, "infinite")) if count]
    plots = _plot(pair.raw, name, "as read") + _plot(pair.normalised, name, f"normalised: {pair.method}")
    return f'<article id="{name}"><h2>{name}</h2><p>{" · ".join(details)}</p><div class="plots">{plots}</div></article>'


def _plot(histogram: Any, name: str, caption: str) -> str:
    counts, edges = histogram.values(), histogram.axes[0].edges
    is_log = needs_log_scale(counts)
    heights = np.log10(1 + counts) if is_log else counts
    heights = np.round(HEIGHT * heights / max(heights.max(), 1e-9), 1)
    step = WIDTH / len(counts)
    outline = "".join(f"V{HEIGHT - height:g}H{(index + 1) * step:.4g}" for index, height in enumerate(heights))
    scale = ", logarithmic" if is_log else ""
    labels = "".join(f"<span>{edge:.4g}</span>" for edge in edges[[0, len(counts) // 2, -1]])
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Histogram of {name}, {caption}">'
        f'<path d="M0 {HEIGHT}{outline}V{HEIGHT}Z"/><path class="base" d="M0 {HEIGHT}H{WIDTH}"/></svg>'
        f'<div class="ends">{labels}</div>'
        f"<figcaption>{caption}; highest bin {int(counts.max()):,}{scale}</figcaption></figure>"
    )
