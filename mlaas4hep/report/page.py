"""Elements of an HTML page: tables, plots, collapsible sections. All texts are escaped.

page("title", [("Section", table("caption", ["key", "value"], [["a", "1"]], numbers_from=1))])
"""

from __future__ import annotations

import html
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: .8rem }
p { max-width: 46rem; overflow-wrap: anywhere } p.lead { color: #555; margin-top: .2rem }
.big { font-size: clamp(1.5rem, 6vw, 2rem); font-weight: 600 }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem } a { color: #1a5fb4 }
.note { border-left: 4px solid #e8a33d; background: #fdf6e9; padding: .5rem .8rem }
.table { overflow-x: auto } table { border-collapse: collapse }
.caption { color: #555; font-size: .9rem; margin: 1rem 0 .2rem } .table { margin: 0 0 .8rem }
th, td { text-align: left; padding: .2rem 1.1rem .2rem 0; border-bottom: 1px solid #ddd; vertical-align: top;
  overflow-wrap: break-word }
th { font-weight: 600; vertical-align: bottom } td.number { white-space: nowrap }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1.2rem 2rem;
  align-items: start; margin: 1rem 0 }
.plots > * { min-width: 0 } .plots > div > :first-child { margin-top: 0 }
figure { margin: 0; max-width: 34rem; overflow-x: auto }
svg { width: 100%; height: auto; display: block } svg.wide { min-width: 40rem }
.pictures { display: flex; flex-wrap: wrap; gap: .8rem 1rem } .pictures figure { width: 8.5rem }
.pictures img { image-rendering: pixelated; border: 1px solid #ddd }
figure:has(svg.wide) { grid-column: 1 / -1; max-width: none }
figcaption { color: #555; font-size: .9rem } summary { cursor: pointer }
@media (max-width: 40rem) { table { font-size: .85rem } th, td { padding-right: .6rem } }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a self-contained page.

    Args:
        title: the title.
        lead: text below the title.
        sections: headings of one word, and their HTML.
    """
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name, _ in sections)
    body = "".join(f'<section id="{name.lower()}"><h2>{name}</h2>{content}</section>' for name, content in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{text(title)}</title><style>{STYLE}</style></head>'
        f'<body><h1>{text(title)}</h1><p class="lead">{text(lead)}</p><nav aria-label="Sections">{links}</nav>{body}'
        "</body></html>\n"
    )


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 99) -> str:
    """Return a table; the columns from index `numbers_from` are aligned as numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if index >= numbers_from else ''}>{text(cell)}</{tag}>"
            for index, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<p class="caption">{text(caption)}</p><div class="table"><table aria-label="{text(caption)}">'
        f"<thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def paragraph(content: str, note: bool = False) -> str:
    """Return a paragraph, or a highlighted note; "" for an empty text."""
    return f"<p{' class=note' if note else ''}>{text(content)}</p>" if content else ""


def details(summary: str, content: str, opened: bool = False) -> str:
    """Return a collapsible section."""
    return f"<details{' open' if opened else ''}><summary>{text(summary)}</summary>{content}</details>"


def plot_grid(plots: Sequence[tuple[str, str]], content: str = "") -> str:
    """Return SVG elements with captions, side by side if there is space, and other content beside or below them."""
    figures = "".join(f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>" for svg, caption in plots)
    if len(plots) == 1:
        return f'<div class="plots">{figures}<div>{content}</div></div>'
    return f'<div class="plots">{figures}</div>{content}' if plots else content


def number(value: float | int | None) -> str:
    """Format a number with about four digits; "" for None and NaN."""
    if value is None or value != value:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.4g}"
    return f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"


def metric_title(name: str) -> str:
    """Return the name of a metric for tables and plots."""
    return "AUC" if name == "auc" else name


def total(weights: float) -> str:
    """Format a sum of weights, without decimals if it is an integer."""
    return f"{weights:,.0f}" if weights == round(weights) else number(weights)


def text(value: object) -> str:
    """Escape a text for HTML."""
    return html.escape(str(value))
