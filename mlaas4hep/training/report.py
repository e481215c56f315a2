"""The run for people: one self-contained HTML file.

    write_report(Path("report.html"), trained, training)

It puts together what `metrics`, `importance` and `plots` make. Plots need the extra `plot`; without it the report has
the tables alone, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas4hep import console
from mlaas4hep.errors import first_line
from mlaas4hep.training import plots
from mlaas4hep.training.content import Section
from mlaas4hep.training.loop import History, Scored
from mlaas4hep.training.metrics import effective_events
from mlaas4hep.training.page import details, number, page, paragraph, table, text, total
from mlaas4hep.training.plots import Roc
from mlaas4hep.training.report_scores import (
    MOST_SCORES,
    calibration_of,
    calibration_of_labels,
    confusion,
    scores,
    scores_of_labels,
)

if TYPE_CHECKING:
    from mlaas4hep.training.bundle import Trained

EFFICIENCIES = (0.3, 0.5, 0.7, 0.9)
"""Of the class, for which the background rejection is listed."""


def write_report(path: Path, trained: Trained, training: Mapping[str, Any]) -> None:
    """Write the report of a run.

    Args:
        training: the content of training.json.
    """
    content, first = trained.content, trained.fits[0]
    parts = {"training": first.train, "validation": first.valid, "test": first.test}
    classes = trained.source.labels.classes
    lead = (
        f"{training['framework']} model of {training['model_file']}, {training['size']}, trained {training['created']}"
    )
    sections: list[Section] = [
        ("Result", lambda: _result(trained, parts)),
        ("Sample", lambda: _sample(trained, parts) + content.sample(training)),
        *content.before(),
        ("Training", lambda: _epochs(first.history)),
    ]
    task = trained.test.task.name
    if task == "regression":
        sections.append(("Residuals", lambda: _residuals(first.train, first.test)))
    else:
        sections.append(("ROC", lambda: _roc(trained.test, classes)))
    if task == "classification":
        sections += [
            ("Scores", lambda: scores(first.train, first.test, classes)),
            ("Confusion", lambda: confusion(trained.test, classes)),
            ("Calibration", lambda: calibration_of(trained.test, classes)),
        ]
    if task == "multilabel":
        sections += [
            ("Scores", lambda: scores_of_labels(first.train, first.test)),
            ("Calibration", lambda: calibration_of_labels(trained.test)),
        ]
    sections += [
        *content.after(trained),
        ("Parameters", lambda: _pairs("What the run was told.", training["params"])),
        ("Versions", lambda: _pairs("What it ran with.", training["versions"])),
    ]
    made = [(name, _guarded(name, make)) for name, make in sections]
    path.write_text(page(trained.name, lead, made), encoding="utf-8")


def _guarded(name: str, make: Callable[[], str]) -> str:
    """Return a section; one that fails, of whatever reason, must not lose the trained model."""
    try:
        return make()
    except Exception as error:
        console.notice(f"the report lacks the section '{name}': {first_line(error)}")
        return paragraph(f"This section could not be made: {first_line(error)}", note=True)


def _pairs(caption: str, values: Mapping[str, Any]) -> str:
    shown = {key: value if isinstance(value, str) and value else repr(value) for key, value in values.items()}
    return table(caption, ["key", "value"], list(map(list, shown.items())))


def _result(trained: Trained, parts: Mapping[str, Scored]) -> str:
    test = trained.metrics()["test"]
    names = [name for name in trained.test.figures() if name != "loss"]
    uncertainty = f" ± {test['auc_uncertainty']:.4f}" if test.get("auc_uncertainty") else ""
    rows = []
    every = {**parts, "all folds": trained.test} if trained.folds else parts
    for part, scored in every.items():
        found = scored.figures()
        rows.append([part, *(number(found[name]) for name in ("loss", *names))])
    notes = []
    if trained.source.labels.contrast:
        notes.append(
            "There were no labels: the model tells events from copies of themselves whose columns were shuffled"
            " independently, so the AUC says how much the columns know of each other."
        )
    if trained.folds:
        notes.append(
            f"There are {len(trained.fits)} models, of which each never saw one part of the sample. ROC, confusion,"
            " calibration and the figures on top are of every event, scored by the model that did not see it; all else"
            " is of the first model, and its test part is the first fold."
        )
    if not plots.available():
        notes.append("The plots are missing: they need matplotlib and mplhep, pip install 'mlaas4hep[plot]'.")
    own = [[name, number(value)] for name, value in trained.more.items()]
    first = next((name for name in names if name == "auc"), (names or ["loss"])[0])
    rest = ", ".join(f"{text(_shown(name))} {number(test[name])}" for name in (*names, "loss") if name != first)
    return (
        f"<p><span class=big>{text(_shown(first))} {number(test[first])}{uncertainty}</span><br>"
        f"{rest} on {'all' if trained.folds else 'the'} {test['events']:,} events"
        f"{', each scored by the model that did not see it' if trained.folds else ' of the test part'}</p>"
        + "".join(paragraph(note, note=True) for note in notes)
        + table("By the weights of the epoch that was kept.", ["part", "loss", *map(_shown, names)], rows, 1)
        + (table("The model file's own metrics, on the test part.", ["metric", "value"], own, 1) if own else "")
    )


def _sample(trained: Trained, parts: Mapping[str, Scored]) -> str:
    params = trained.source.params
    weights = np.concatenate([scored.weight for scored in parts.values()])
    noun = {"classification": "class", "multilabel": "label", "regression": ""}[params.task]
    columns, caption = ["events"], f"Events by {noun and f'{noun} and '}part; all have weight 1."
    if (weights != 1).any():
        columns += ["Σw", "effective"]
        caption = (
            f"Events by {noun and f'{noun} and '}part, sum of their weights w, and how many events of weight 1 have the"
            " same relative error: (Σw)² / Σw²."
        )
    rows = []
    classes = () if params.task == "regression" else trained.source.labels.classes
    for index, name in [*enumerate(classes), (None, "all")]:
        row = [name]
        for scored in parts.values():
            mine = scored.weight if index is None else scored.weight[scored.members(index)]
            row += [f"{len(mine):,}", total(float(mine.sum(dtype=float))), f"{effective_events(mine):,.0f}"][
                : len(columns)
            ]
        rows.append(row)
    head = [noun, *(f"{part} {column}" for part in parts for column in columns)]
    return _negative(weights) + table(caption, head, rows, 1)


def _shown(name: str) -> str:
    return "AUC" if name == "auc" else name


def _negative(weights: np.ndarray) -> str:
    share = float((weights < 0).mean())
    return paragraph(
        f"{share:.2%} of the events have a negative weight. They keep their sign in all figures: efficiencies and bins"
        " are sums of signed weights, so a curve may turn back and a bin lie below 0."
        if share
        else "",
        note=True,
    )


def _epochs(history: History) -> str:
    timed = any(epoch.waiting for epoch in history.epochs)
    names = [name for name in history.epochs[0].figures if name != "loss"]
    rows = []
    for epoch in history.epochs:
        row = [f"{epoch.epoch}\N{NO-BREAK SPACE}(kept)" if epoch.epoch == history.best else str(epoch.epoch)]
        row += [number(value) for value in (epoch.train_loss, epoch.loss, *(epoch.figures[name] for name in names))]
        row += [f"{epoch.seconds:.1f}", *([f"{epoch.waiting:.1f}"] if timed else [])]
        rows.append([*row, f"{epoch.events / max(epoch.seconds, 1e-9):,.0f}"])
    head = ["epoch", "training loss", "validation loss", *map(_shown, names), "seconds"]
    head += [*(["of them waiting"] if timed else []), "events/s"]
    caption = "Seconds and events/s are of training, without validation."
    return plots.draw(
        [
            (partial(plots.loss_curves, history), "Loss; that of training is taken while the weights still move."),
            *([(partial(plots.metric_curves, history, names), "Figures of the validation part.")] if names else []),
        ],
        paragraph(_timing(history)) + details("Every epoch", table(caption, head, rows, 1), opened=len(rows) <= 30),
    )


def _timing(history: History) -> str:
    seconds, events, waiting = (
        sum(getattr(epoch, name) for epoch in history.epochs) for name in ("seconds", "events", "waiting")
    )
    rate = f"{len(history.epochs)} epochs in {seconds:,.1f} s, {events / max(seconds, 1e-9):,.0f} events/s"
    if not waiting:
        return f"{rate}, validation not counted."
    return (
        f"{rate}, validation not counted: {seconds - waiting:,.1f} s of training, and {waiting:,.1f} s"
        f" ({waiting / max(seconds, 1e-9):.0%}) of waiting for data."
    )


def _roc(test: Scored, classes: Sequence[str]) -> str:
    curves = plots.one_against_others(test, classes)
    if not curves:
        return paragraph("There is no curve: all events of the test part are of one class.")
    whose = "" if len(curves) == 1 else " Each class against all others."
    if test.task.name == "multilabel":
        whose = " Events with a label against those without."
    if len(classes) > len(plots.COLOURS):
        whose += f" These are the first {len(plots.COLOURS)} of {len(classes)} classes."
    rows = [
        [roc.label, f"{roc.area:.4f} ± {roc.uncertainty:.4f}", *(_rejection(roc, at) for at in EFFICIENCIES)]
        for roc in curves
    ]
    head = ["class", "AUC", *(f"at {at:.0%}" for at in EFFICIENCIES)]
    caption = "1 / background efficiency at some efficiencies of the class; empty where fewer than 4 events are left."
    return plots.draw(
        [
            (partial(plots.roc_curves, curves), f"ROC on the test part, with event weights.{whose}"),
            (partial(plots.rejection_curves, curves), f"Rejection, down to a background of 4 effective events.{whose}"),
        ],
        table(caption, head, rows, 1),
    )


def _rejection(roc: Roc, efficiency: float) -> str:
    found = roc.rejection_at(efficiency)
    return f"{found:,.3g}" if found < 1000 else f"{found:,.0f}" if np.isfinite(found) else ""


def _residuals(train: Scored, test: Scored) -> str:
    names = test.task.classes
    rows = []
    for index, name in enumerate(names):
        error = test.scores[:, index].astype(np.float64) - test.y[:, index]
        weight = test.weight / test.weight.sum(dtype=np.float64)
        edges = [number(float(value)) for value in np.quantile(error, (0.16, 0.5, 0.84))]
        rows.append(
            [name, number(float((weight * error).sum())), number(float(np.sqrt((weight * error**2).sum()))), *edges]
        )
    head = ["target", "mean", "root mean square", "16 %", "median", "84 %"]
    drawings: list[tuple[Callable[[], str], str]] = []
    for index, name in enumerate(names[:MOST_SCORES]):
        drawings += [
            (
                partial(plots.residuals, train, test, index, name),
                "Estimate minus truth; filled: training, points: test.",
            ),
            (
                partial(plots.truth, test, index, name),
                "Mean and spread of the estimate in bins of the truth, test part.",
            ),
        ]
    return plots.draw(drawings, table("Estimate minus truth, test part; quantiles without weights.", head, rows, 1))
