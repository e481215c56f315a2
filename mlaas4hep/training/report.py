"""The run for people: one self-contained HTML file.

    write_report(Path("report.html"), "htautau", generator, history, train, test, metrics, training)

Plots need matplotlib (the extra `plot`); without it the report has the tables alone, and says so.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.stream import PARTS, DataGenerator
from mlaas4hep.training.loop import History, Scored
from mlaas4hep.training.metrics import all_classes, roc_curve

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, told apart by the colour-blind; classes beyond the sixth start again."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.2rem }
p.lead { color: #555; margin-top: .2rem } .big { font-size: 2rem; font-weight: 600 }
table { border-collapse: collapse }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.plots { display: flex; flex-wrap: wrap; gap: 1rem } .plots figure { margin: 0; flex: 1 1 28rem; max-width: 34rem }
svg { width: 100%; height: auto }
figcaption { color: #555; font-size: .9rem } details { margin: .5rem 0 } code { font-size: .9em }
"""


def write_report(
    path: Path,
    name: str,
    generator: DataGenerator,
    history: History,
    train: Scored,
    test: Scored,
    metrics: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Write the report of a run.

    Args:
        train, test: the scored parts.
        metrics, training: the contents of metrics.json and training.json.
    """
    figures = metrics["test"]
    uncertainty = f" ± {figures['auc_uncertainty']:.4f}" if figures.get("auc_uncertainty") else ""
    parts = [
        f"<h1>{_text(name)}</h1>",
        f"<p class=lead>{_text(training['framework'])} model of {_text(training['model_file'])},"
        f" {_text(training['size'])}, trained {_text(training['created'])}</p>",
        f"<p><span class=big>AUC {_number(figures['auc'])}{uncertainty}</span><br>"
        f"accuracy {_number(figures['accuracy'])}, loss {_number(figures['loss'])}"
        f" on the {figures['events']:,} events of the test part</p>",
        _contrast_note(generator),
        "<h2>Training</h2>",
        _plots(history, train, test, generator.classes),
        _epochs(history),
        "<h2>Sample</h2>",
        _sample(generator, training),
        "<h2>Features</h2>",
        _features(generator),
        "<h2>Parameters</h2>",
        _table(["key", "value"], [[key, repr(value)] for key, value in training["params"].items()]),
        "<h2>Versions</h2>",
        _table(["package", "version"], [[key, str(value)] for key, value in training["versions"].items()]),
    ]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(name)}</title>"
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    path.write_text(page, encoding="utf-8")


def _contrast_note(generator: DataGenerator) -> str:
    if not generator.sample.labels.contrast:
        return ""
    return (
        "<p>There were no labels: the model tells events from copies of themselves whose columns were shuffled"
        " independently, so the AUC says how much the columns know of each other.</p>"
    )


def _plots(history: History, train: Scored, test: Scored, classes: Sequence[str]) -> str:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        return "<p>The plots are missing: they need matplotlib, <code>pip install 'mlaas4hep[plot]'</code>.</p>"
    drawn = [
        (
            _svg(lambda axes: _draw_losses(axes, history)),
            "Loss of every epoch; the dashed line is the epoch that was kept.",
        ),
        (_svg(lambda axes: _draw_roc(axes, test, classes)), "ROC on the test part, each class against the others."),
        (
            _svg(lambda axes: _draw_scores(axes, train, test, classes)),
            "Score by class: filled for the training part, points for the test part. Where they differ, the model has"
            " learnt its training events by heart.",
        ),
    ]
    figures = "".join(f"<figure>{svg}<figcaption>{_text(caption)}</figcaption></figure>" for svg, caption in drawn)
    return f"<div class=plots>{figures}</div>"


def _svg(draw: Callable[[Any], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="tight")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mlaas4hep"}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _draw_losses(axes: Any, history: History) -> None:
    number = [epoch.epoch for epoch in history.epochs]
    axes.plot(number, [epoch.train_loss for epoch in history.epochs], ".-", color=COLOURS[0], label="training")
    axes.plot(number, [epoch.loss for epoch in history.epochs], ".-", color=COLOURS[1], label="validation")
    axes.axvline(history.best, color="#888", linestyle="--", linewidth=1)
    axes.set(xlabel="epoch", ylabel="loss (cross-entropy)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)


def _draw_roc(axes: Any, test: Scored, classes: Sequence[str]) -> None:
    table = all_classes(test.scores)
    for index in [1] if len(classes) == 2 else range(len(classes)):
        false, true = roc_curve(test.y == index, table[:, index])
        axes.plot(false, true, color=COLOURS[index % len(COLOURS)], label=classes[index])
    axes.plot([0, 1], [0, 1], color="#888", linestyle="--", linewidth=1)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(frameon=False, loc="lower right")


def _draw_scores(axes: Any, train: Scored, test: Scored, classes: Sequence[str]) -> None:
    edges = np.linspace(0, 1, 31)
    centres = (edges[1:] + edges[:-1]) / 2
    column = 1 if len(classes) == 2 else 0
    for index, label in enumerate(classes):
        colour = COLOURS[index % len(COLOURS)]
        for part, scored in (("training", train), ("test", test)):
            values = all_classes(scored.scores)[scored.y == index, column]
            counts, _ = np.histogram(values, edges)
            density = counts / max(len(values), 1) * len(centres)
            if part == "training":
                axes.stairs(density, edges, fill=True, alpha=0.35, color=colour, label=f"{label}, {part}")
            else:
                errors = np.sqrt(counts) / max(len(values), 1) * len(centres)
                axes.errorbar(centres, density, errors, fmt=".", color=colour, label=f"{label}, {part}")
    axes.set(xlabel=f"score of {classes[column]}", ylabel="events, normalised", xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8)


def _epochs(history: History) -> str:
    rows = [
        [
            f"{epoch.epoch}{' (kept)' if epoch.epoch == history.best else ''}",
            _number(epoch.train_loss),
            _number(epoch.loss),
            *map(_number, (value for name, value in epoch.figures.items() if name != "loss")),
            f"{epoch.seconds:.1f}",
            f"{epoch.events / max(epoch.seconds, 1e-9):,.0f}",
        ]
        for epoch in history.epochs
    ]
    figures = [name for name in history.epochs[0].figures if name != "loss"]
    head = ["epoch", "training loss", "validation loss", *figures, "seconds", "events/s"]
    return f"<details open><summary>Every epoch</summary>{_table(head, rows, numbers_from=1)}</details>"


def _sample(generator: DataGenerator, training: Mapping[str, Any]) -> str:
    rows = [[file["name"], file.get("label", ""), f"{file['entries']:,}"] for file in training["files"]]
    return _table(["file", "label", "events"], rows, numbers_from=2) + f"<p>{_text(_split(generator))}</p>"


def _split(generator: DataGenerator) -> str:
    split, words = generator.sample.split, {"train": "training", "valid": "validation", "test": "test"}
    if split.expressions:
        return "; ".join(f"{words[part]}: {text}" for part, text in split.expressions.items()) + "; training: the rest."
    shares = ", ".join(f"{share:.0%} {words[part]}" for part, share in zip(PARTS, split.shares, strict=True))
    identity = ", ".join(generator.sample.identifier)
    return f"{shares}, by a hash of the event's identity" + (f" ({identity})." if identity else ".")


def _features(generator: DataGenerator) -> str:
    rows = []
    for name, branch in generator.specs.branches.items():
        moments = [_number(value) for value in (branch.minimum, branch.maximum, branch.mean, branch.std)]
        rows.append([name, branch.kind.value, str(branch.dim), *moments, f"{branch.nan:,}", f"{branch.inf:,}"])
    head = ["branch", "kind", "dim", "min", "max", "mean", "std", "NaN", "inf"]
    summary = f"{len(rows)} branches, {generator.layout.width} columns, normalised: {generator.params.normalise}"
    return f"<details><summary>{summary}</summary>{_table(head, rows, numbers_from=2)}</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 99) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if index >= numbers_from else ''}>{_text(cell)}</{tag}>"
            for index, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


def _number(value: float | int | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"


def _text(value: object) -> str:
    return html.escape(str(value))
